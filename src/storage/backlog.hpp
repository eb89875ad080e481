// What the log holds beyond the saved progress, seen from outside the relay's memory. Sessions and
// relay.
#pragma once

#include "pg/postgres.hpp"
#include "storage/log_reader.hpp"
#include "storage/progress.hpp"
#include "storage/schema.hpp"

namespace outbox {

// The first committed message that `progress` does not call settled, under `snapshot`; false if
// there is none. Looks at as many rows as are unsettled without being committed, and one more.
bool first_unsettled(const Schema& schema, Snapshot snapshot, const Progress& progress, Row* row);

// Calls every committed message settled that is not yet, and leaves the others as they are:
// `progress` is changed accordingly, not saved. Returns how many there were. `last` is the last
// position given out before the snapshot was taken.
int64 settle_visible(const Schema& schema, Snapshot snapshot, int64 last, Progress* progress);

// The position that was given out last; 0: none yet.
int64 last_position(Oid sequence);

}  // namespace outbox
