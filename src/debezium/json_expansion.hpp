// table.expand.json.payload: a text becomes a structure with a schema that is inferred from it.
// Session's backend.
#pragma once

#include "debezium/connect.hpp"

namespace outbox::debezium {

struct ExpansionRules {
    bool keeps_nulls;         // table.json.payload.null.behavior = optional_bytes
    bool keeps_empty_arrays;  // table.json.payload.empty.array.behavior = optional_string
};

// The schema and value of `text`, whose column is called `name`. False where Debezium could not
// expand it and leaves the text as it is: no JSON object, or arrays of mixed elements.
bool expand_json(const char* text, size_t length, const char* name, ExpansionRules rules,
                 const Schema** schema, Value* value);

}  // namespace outbox::debezium
