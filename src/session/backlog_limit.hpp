// outbox.backlog_limit: the size of the backlog at which emit() refuses. Session's backend.
#pragma once

#include "pg/postgres.hpp"
#include "settings.hpp"

namespace outbox {

// Raises if the backlog, with what this transaction has emitted and one more message of
// `message_bytes`, would exceed the limit. Only where one is set.
void check_backlog_limit(size_t message_bytes);

// Costs nothing where no limit is set; otherwise, well below it, a look at shared memory.
inline void check_backlog(size_t message_bytes) {
    if (settings.backlog_limit_kb > 0) check_backlog_limit(message_bytes);
}

// This transaction has written its messages to the log. Cannot fail.
void note_written();

// Measures the backlog and publishes the figure; `growth`: bytes a second over the last minute, 0
// if not known.
int64 measure_backlog(const struct Schema& schema, double* growth);

}  // namespace outbox
