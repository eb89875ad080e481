// Headers of a message: from the JSON that emit() was given to names and values. Backends and
// relay.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Appends the headers to `out` in the layout of a Message frame (protocol/frames.hpp), in UTF-8,
// and returns how many there are. A string is its text; a number, a boolean or an object its JSON
// text; null a null value; an array repeats the header, once for each element. `headers` must be an
// object. Sizes of names and values are added to `*bytes`; without `out` that is all. Raises what
// the conversion of text to UTF-8 raises.
uint32 append_headers(StringInfo out, const Jsonb* headers, size_t* bytes);

// Text of the database as UTF-8: `text` itself, or palloc'd; `*length` is updated. Raises 22021 or
// 22P05 for text that has no UTF-8.
const char* to_utf8(const char* text, size_t* length);

}  // namespace outbox
