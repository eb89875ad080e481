// Numbers and bytes as Java and Kafka Connect print them. Session's backend.
#include "debezium/java_text.hpp"

#include <math.h>

extern "C" {
#include "common/base64.h"
#include "common/shortest_dec.h"
}

namespace outbox::debezium {

namespace {

// Shortest digits d1 d2 ... and an exponent, as in 0.d1d2... * 10^exponent.
struct Digits {
    bool negative;
    char digits[32];
    int count;
    int exponent;
};

Digits parse_shortest(const char* text) {
    Digits found = {};
    if (*text == '-') {
        found.negative = true;
        ++text;
    }
    bool point = false;
    int before_point = 0;
    for (; *text && *text != 'e'; ++text) {
        if (*text == '.') {
            point = true;
            continue;
        }
        // Zeros in front say where the point is, and nothing else.
        if (found.count == 0 && *text == '0') {
            if (point) --before_point;
            continue;
        }
        found.digits[found.count++] = *text;
        if (!point) ++before_point;
    }
    found.exponent = before_point + (*text == 'e' ? atoi(text + 1) : 0);
    while (found.count > 1 && found.digits[found.count - 1] == '0')
        --found.count;
    return found;
}

void append_plain(StringInfo out, const Digits& number) {
    if (number.exponent <= 0) {
        appendStringInfoString(out, "0.");
        for (int i = number.exponent; i < 0; ++i)
            appendStringInfoChar(out, '0');
        appendBinaryStringInfo(out, number.digits, number.count);
        return;
    }
    for (int i = 0; i < number.exponent; ++i)
        appendStringInfoChar(out, i < number.count ? number.digits[i] : '0');
    appendStringInfoChar(out, '.');
    if (number.count <= number.exponent)
        appendStringInfoChar(out, '0');
    else
        appendBinaryStringInfo(out, number.digits + number.exponent,
                               number.count - number.exponent);
}

void append_scientific(StringInfo out, const Digits& number) {
    appendStringInfoChar(out, number.digits[0]);
    appendStringInfoChar(out, '.');
    if (number.count == 1)
        appendStringInfoChar(out, '0');
    else
        appendBinaryStringInfo(out, number.digits + 1, number.count - 1);
    appendStringInfo(out, "E%d", number.exponent - 1);
}

// What is no finite number, or zero.
bool append_special(StringInfo out, double number) {
    if (isnan(number))
        appendStringInfoString(out, "NaN");
    else if (isinf(number))
        appendStringInfoString(out, number > 0 ? "Infinity" : "-Infinity");
    else if (number == 0)
        appendStringInfoString(out, signbit(number) ? "-0.0" : "0.0");
    else
        return false;
    return true;
}

bool has_one_digit(const char* text) {
    return parse_shortest(text).count == 1;
}

void append_shortest(StringInfo out, const char* text) {
    Digits number = parse_shortest(text);
    if (number.negative) appendStringInfoChar(out, '-');
    // From 10^-3 to below 10^7.
    if (number.exponent > -3 && number.exponent <= 7)
        append_plain(out, number);
    else
        append_scientific(out, number);
}

}  // namespace

void append_double(StringInfo out, double number) {
    if (append_special(out, number)) return;
    char text[DOUBLE_SHORTEST_DECIMAL_LEN];
    text[double_to_shortest_decimal_bufn(number, text)] = '\0';
    // Two digits are always written, so where one would do the two that come nearest are.
    const char* near = psprintf("%.1e", number);
    append_shortest(out, has_one_digit(text) && strtod(near, nullptr) == number ? near : text);
}

void append_float(StringInfo out, float number) {
    if (append_special(out, static_cast<double>(number))) return;
    char text[FLOAT_SHORTEST_DECIMAL_LEN];
    text[float_to_shortest_decimal_bufn(number, text)] = '\0';
    const char* near = psprintf("%.1e", static_cast<double>(number));
    append_shortest(out, has_one_digit(text) && strtof(near, nullptr) == number ? near : text);
}

void append_base64(StringInfo out, const char* bytes, size_t length) {
    int room = pg_b64_enc_len(static_cast<int>(length));
    enlargeStringInfo(out, room + 1);
    int written = pg_b64_encode(bytes, static_cast<int>(length), out->data + out->len, room);
    if (written < 0) elog(ERROR, "no room for base64");
    out->len += written;
    out->data[out->len] = '\0';
}

bool parse_decimal(const char* text, Decimal* decimal) {
    *decimal = {};
    if (*text == '-') {
        decimal->negative = true;
        ++text;
    }
    if (*text < '0' || *text > '9') return false;
    StringInfoData digits;
    initStringInfo(&digits);
    const char* point = strchr(text, '.');
    for (const char* c = text; *c; ++c) {
        if (*c == '.') continue;
        if (*c != '0' || digits.len > 0) appendStringInfoChar(&digits, *c);
    }
    if (digits.len == 0) appendStringInfoChar(&digits, '0');
    decimal->digits = digits.data;
    decimal->scale = point ? static_cast<int>(strlen(point + 1)) : 0;
    return true;
}

void append_decimal(StringInfo out, const Decimal& decimal) {
    int count = static_cast<int>(strlen(decimal.digits));
    bool zero = strcmp(decimal.digits, "0") == 0;
    if (decimal.negative && !zero) appendStringInfoChar(out, '-');
    int adjusted = count - 1 - decimal.scale;
    if (adjusted < -6) {
        appendStringInfoChar(out, decimal.digits[0]);
        if (count > 1) appendStringInfo(out, ".%s", decimal.digits + 1);
        appendStringInfo(out, "E%d", adjusted);
    } else if (decimal.scale == 0) {
        appendStringInfoString(out, decimal.digits);
    } else if (count > decimal.scale) {
        appendBinaryStringInfo(out, decimal.digits, count - decimal.scale);
        appendStringInfo(out, ".%s", decimal.digits + count - decimal.scale);
    } else {
        appendStringInfoString(out, "0.");
        for (int i = count; i < decimal.scale; ++i)
            appendStringInfoChar(out, '0');
        appendStringInfoString(out, decimal.digits);
    }
}

const char* unscaled_bytes(const Decimal& decimal, size_t* length) {
    size_t room = strlen(decimal.digits) / 2 + 2;  // a byte holds more than two digits
    uint8* bytes = static_cast<uint8*>(palloc0(room));
    for (const char* digit = decimal.digits; *digit; ++digit) {
        unsigned carry = static_cast<unsigned>(*digit - '0');
        for (size_t i = room; i-- > 0;) {
            carry += bytes[i] * 10u;
            bytes[i] = static_cast<uint8>(carry);
            carry >>= 8;
        }
    }
    if (decimal.negative) {
        unsigned carry = 1;
        for (size_t i = room; i-- > 0;) {
            carry += static_cast<uint8>(~bytes[i]);
            bytes[i] = static_cast<uint8>(carry);
            carry >>= 8;
        }
    }
    // A leading byte goes where the next one says the sign as well.
    size_t skip = 0;
    while (skip + 1 < room && ((bytes[skip] == 0 && bytes[skip + 1] < 0x80) ||
                               (bytes[skip] == 0xff && bytes[skip + 1] >= 0x80)))
        ++skip;
    *length = room - skip;
    return reinterpret_cast<const char*>(bytes) + skip;
}

}  // namespace outbox::debezium
