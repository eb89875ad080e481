// Where a segment begins and ends. Relay, and sessions for the size of the backlog.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// The first and the last row of a segment, committed or not.
struct Extent {
    bool any;
    int64 lowest;
    int64 highest;
    TimestampTz newest;  // time of the row with the highest position
};

// `segment` is open and locked, and has this index on its positions.
Extent extent_of(Relation segment, Oid position_index);

}  // namespace outbox
