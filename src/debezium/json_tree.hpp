// A JSON text as a tree that keeps the order of names and the text of numbers, as Jackson reads it.
// Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox::debezium {

struct JsonNode {
    enum class Kind : uint8_t {
        Null,
        Boolean,
        Int32,
        Int64,
        BigInteger,
        Double,
        String,
        Array,
        Object
    };
    Kind kind;
    bool boolean;
    const char* text;  // String: unescaped; numbers: as written
    const char* name;  // as a member of an object
    JsonNode* first;   // of the elements or members
    JsonNode* last;
    JsonNode* next;  // in its array or object
    int count;

    bool is_number() const { return kind >= Kind::Int32 && kind <= Kind::Double; }
};

// The first JSON value in `text`, whatever follows it; nullptr if there is none that is valid. Of
// members with the same name the last one counts, in the place of the first.
JsonNode* read_json(const char* text, size_t length);

}  // namespace outbox::debezium
