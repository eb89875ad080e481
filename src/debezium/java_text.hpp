// Numbers and bytes as Java and Kafka Connect print them. Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox::debezium {

// Double.toString() and Float.toString(), as of Java 19: the fewest digits that tell the number
// from its neighbours, in scientific notation below 10^-3 and from 10^7 on.
void append_double(StringInfo out, double number);
void append_float(StringInfo out, float number);

// java.util.Base64's basic encoding, with padding.
void append_base64(StringInfo out, const char* bytes, size_t length);

// java.math.BigDecimal: digits * 10^-scale.
struct Decimal {
    bool negative;
    const char* digits;  // without leading zeros; "0" for zero
    int scale;           // not below 0
};

// From what numeric_out() prints; false for NaN and infinities.
bool parse_decimal(const char* text, Decimal* decimal);

// BigDecimal.toString().
void append_decimal(StringInfo out, const Decimal& decimal);

// BigDecimal.unscaledValue().toByteArray(): two's complement, big-endian, as few bytes as hold it.
const char* unscaled_bytes(const Decimal& decimal, size_t* length);

}  // namespace outbox::debezium
