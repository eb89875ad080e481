// What a session sees of its database's relay in shared memory. Session's backend.
#pragma once

#include "pg/postgres.hpp"
#include "shared/shared_state.hpp"
#include "storage/schema.hpp"

namespace outbox {

// A relay's slot, copied under its mutex.
struct SlotView {
    bool there;    // a slot exists
    bool working;  // a relay has loaded its state and tells the truth
    RelayState state;
    pid_t relay_pid;
    pid_t sink_pid;
    int64 delivered;
    int64 deferred;
    int64 parked;
    int64 watermark;
    int64 unsettled;
    int64 open_positions;
    int open_range_count;
    OpenRange open_ranges[kMostOpenRanges];
    int64 first_in_flight;
    uint64 snapshots;
    TimestampTz delivered_at;
    TimestampTz last_error_at;
    char last_error[kErrorLength];
    char sink_name[kNameLength];
    char sink_statistics[kStatisticsLength];
    uint32 active_segment;
};

SlotView look_at_slot();

// How many messages there are under `snapshot` in the open ranges of `view`: committed since the
// relay looked at them.
int64 messages_in_open_ranges(const SlotView& view, const Schema& schema, Snapshot snapshot);

// The extension's relations; raises 55000 where it is not installed.
Schema required_schema();

}  // namespace outbox
