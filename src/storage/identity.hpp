// Whose messages these are: the server and database that may publish them. Relay and operators'
// functions.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"

namespace outbox {

enum class Standing : uint8_t {
    Unknown,  // nobody's yet
    Ours,
    Paused,   // ours, and an operator paused the relay
    Foreign,  // another server's or database's, or rows that did not come through emit()
};

// Reads the table `identity` under the given snapshot. `*clone` tells of a foreign one whether it
// is another database of this very server, copied by CREATE DATABASE ... TEMPLATE.
Standing read_standing(const Schema& schema, Snapshot snapshot, bool* clone = nullptr);

// Replaces what stands there by this server and database. `paused` tells whether the relay is to
// rest.
void adopt(bool paused);

// Notes that rows have come that are not this server's to publish.
void mark_foreign();

}  // namespace outbox
