// Positions of messages, from their sequence. Session's backend takes them, the relay looks after
// it.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Takes the next `count` positions, which are consecutive, and returns the first. None is one up to
// `passed`, the highest that the relay has read: nobody would look at it again. The sequence has
// fallen behind that only where somebody has set it back (ALTER SEQUENCE, a restored dump of the
// data alone); it is set forward then. The transaction has an id and holds the sequence's lock.
int64 take_positions(Oid sequence, int64 count, int64 passed);

// Sets the sequence forward if it has not reached `passed`; returns whether that was so.
bool set_forward(Oid sequence, int64 passed);

}  // namespace outbox
