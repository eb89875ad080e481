// Headers of a message: from the JSON that emit() was given to names and values. Backends and
// relay.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Headers are stored as jsonb in one of two forms.
//
// An object is what emit() was given: the sink puts the message's id before them. Names come in
// jsonb's order. A string is its text; a number, a boolean or an object its JSON text; null a null
// value; an array repeats the header, once for each element.
//
// An array is what attached tables make where order matters: everything, in order, nothing is
// added. Its elements are [name, value] pairs, values as above; the string "id" for the message's
// id under that name; and, first, a number where Kafka's timestamp is not the time of the row.
struct HeadersFound {
    uint32 count;
    bool complete;  // an array
    bool has_timestamp;
    int64 timestamp;  // milliseconds since 1970
};

// Appends the headers to `out` in the layout of a Message frame (protocol/frames.hpp), in UTF-8.
// `id` is the message's, not looked at without `out`. Sizes of names and values are added to
// `*bytes`; without `out` that is all. Raises what the conversion of text to UTF-8 raises.
HeadersFound append_headers(StringInfo out, const Jsonb* headers, const uint8* id, size_t* bytes);

// Text of the database as UTF-8: `text` itself, or palloc'd; `*length` is updated. Raises 22021 or
// 22P05 for text that has no UTF-8.
const char* to_utf8(const char* text, size_t* length);

}  // namespace outbox
