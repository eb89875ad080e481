// The text of java.util.Properties, as Debezium's extensions write a tracing context. Session's
// backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox::debezium {

// The value of `name` in `text`, unescaped; nullptr: it has none. Of several the last one counts.
// Where `text` is no list of properties but a bare W3C traceparent, that is the value of
// "traceparent".
const char* property(const char* text, size_t length, const char* name);

}  // namespace outbox::debezium
