// Kafka Connect's data: schemas and values, as Debezium's connector and router hand them to a
// converter. Session's backend.
#pragma once

#include "debezium/java_text.hpp"
#include "pg/postgres.hpp"

namespace outbox::debezium {

enum class Type : uint8_t {
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Boolean,
    String,
    Bytes,
    Array,
    Struct
};

struct Schema;

// A value of some schema.
struct Value {
    bool null;
    union {
        bool boolean;
        int64 integer;
        float float32;
        double float64;
        // String: UTF-8. Bytes.
        struct {
            const char* data;
            size_t length;
        } text;
        Decimal decimal;  // of a schema that is_decimal()
        // Array: its elements; Struct: one for each field.
        struct {
            Value* items;
            int count;
        } list;
    };
};

struct Field {
    const char* name;
    const Schema* schema;
};

// A parameter of a schema.
struct Parameter {
    const char* name;
    const char* value;
};

// org.apache.kafka.connect.data.Schema, as far as the router's records have it.
struct Schema {
    Type type = Type::String;
    bool optional = false;
    bool decimal = false;        // Bytes that are org.apache.kafka.connect.data.Decimal
    const char* name = nullptr;  // of a logical type, or a Struct
    bool has_version = false;
    int32 version = 0;
    const char* doc = nullptr;
    const Parameter* parameters = nullptr;
    int parameter_count = 0;
    const Value* fallback = nullptr;  // the column's default
    const Schema* element = nullptr;  // of an Array
    const Field* fields = nullptr;    // of a Struct
    int field_count = 0;
};

inline Value null_value() {
    Value value = {};
    value.null = true;
    return value;
}
inline Value text_value(const char* data, size_t length) {
    Value value = {};
    value.text = {data, length};
    return value;
}

// A converter's work: the bytes of a key or a value of a record. nullptr: null.
struct Converted {
    const char* data;
    size_t length;
};

}  // namespace outbox::debezium
