// What Debezium's PostgreSQL connector makes of a column: a schema for its type, and values of it.
// Session's backend.
#pragma once

#include "debezium/configuration.hpp"
#include "debezium/connect.hpp"

namespace outbox::debezium {

// A column, looked at once.
struct Column {
    enum class Kind : uint8_t {
        Int16,
        Int32,
        Int64,
        Float32,
        Float64,
        Boolean,
        Text,
        Json,
        Uuid,
        Bytes,
        EncodedBytes,  // as text: binary.handling.mode
        Decimal,       // of a fixed scale
        VariableDecimal,
        DecimalAsDouble,
        DecimalAsText,
        Date,
        TimestampMillis,
        TimestampMicros,
        ZonedTimestamp,
        TimeMillis,
        TimeMicros,
    };
    Kind kind;
    BinaryMode binaries;
    AttrNumber number;
    Oid type;          // domains resolved
    int digits;        // of a second
    FmgrInfo* output;  // nullptr: value_bytes() needs none
    const Schema* schema;
};

// Memory is the current context's. Raises 0A000 for a type that is not done here.
Column look_at_column(Relation relation, AttrNumber number, const Configuration& configuration);

// Its value in a row; lives as long as the slot and the current memory context. Raises 22023 for
// what has no value there: a numeric NaN, for one.
Value stored_value(const Column& column, TupleTableSlot* row);

// The same; where it is NULL, the column's default, as Connect's structures have it.
Value column_value(const Column& column, TupleTableSlot* row);

}  // namespace outbox::debezium
