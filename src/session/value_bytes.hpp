// The bytes that a value of SQL has as a key or a payload. Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// What value_bytes() needs for a type: its output function, or nullptr. Memory is the current
// context's.
FmgrInfo* output_of(Oid type);

// bytea as it is, text in UTF-8, json and jsonb as they print, numbers, UUIDs and booleans in their
// canonical text, dates and times in ISO 8601 (with a time zone: in UTC). A type without bytes of
// its own needs `output`, its output function. The result lies in the value or in the current
// memory context. Raises what the conversion of text to UTF-8 raises.
const char* value_bytes(Datum value, Oid type, size_t* length, FmgrInfo* output = nullptr);

// What a varlena holds, detoasted if need be.
const char* varlena_bytes(Datum value, size_t* length);

}  // namespace outbox
