// Java's regular expressions and replacements, as route.topic.regex and route.topic.replacement
// have them. Session's backend.
//
// PCRE2 does the matching: it knows named groups, lazy and possessive quantifiers, lookaround, and
// prefers alternatives in their order, as Java does. The server's own expressions know no names and
// prefer what is longest.
#pragma once

#include "pg/postgres.hpp"

namespace outbox::debezium {

struct Route;

// Memory is the current context's. Raises 2201B for an expression that is not valid, 0A000 for what
// Java understands otherwise than PCRE2, 22023 for a replacement that is not valid. Both are UTF-8.
Route* compile_route(const char* regex, const char* replacement);

// The topic that a value is routed to: if the expression matches all of the value, the value with
// the expression's first match replaced, as org.apache.kafka.connect.transforms.RegexRouter does;
// otherwise the value itself. The result lies in `value` or in the current memory context. Raises
// 54001 where matching takes too long.
const char* topic_of(const Route* route, const char* value, size_t length, size_t* topic_length);

}  // namespace outbox::debezium
