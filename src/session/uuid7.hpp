// Makes version 7 UUIDs. Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Fills `id` with a UUID of version 7 (RFC 9562, 5.7): 48 bits of milliseconds, 12 bits of the
// fraction of the millisecond (method 3), 62 random bits; never lower than the one before in this
// process.
void make_uuid7(uint8 id[UUID_LEN]);

}  // namespace outbox
