// The relay: moves the committed messages of one database to its sink. Relay process.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// What the launcher tells a relay besides the number of its slot.
struct RelayArgument {
    uint32_t generation;
    Oid database;
};

}  // namespace outbox

// Where the postmaster starts a relay; `argument` is the slot.
extern "C" PGDLLEXPORT void outbox_relay_main(Datum argument);
