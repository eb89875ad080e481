// How many bytes of disk the backlog takes. Sessions: outbox.status, and emit() near its limit.
//
// A segment counts with its size on disk, indexes and large values included, in the proportion of
// its positions that are not settled: in full while nothing of it is, with nothing once all is,
// whether it is kept for outbox.retention or not. Of the deferred messages those count that wait;
// parked ones do not, because no delivery would ever take them away.
//
// The cost depends on the number of segments, not on what is in them. Nothing here waits for a
// lock, and none is kept.
#pragma once

#include "pg/postgres.hpp"
#include "storage/progress.hpp"
#include "storage/schema.hpp"

namespace outbox {

// Room that a row takes besides its key, payload, topic and headers: headers of tuples, fixed
// columns, an entry in the index.
constexpr int64 kRowOverhead = 80;

// With `progress` telling what is settled; only `part` of what it calls unsettled still is.
int64 backlog_bytes(const Schema& schema, const Progress& progress, double part);

}  // namespace outbox
