// What a session sees of its database's relay in shared memory. Session's backend.
#include "session/relay_view.hpp"

#include "storage/log_reader.hpp"

namespace outbox {

namespace {

bool is_working(RelayState state) {
    return state == RelayState::Connecting || state == RelayState::Running ||
           state == RelayState::Waiting;
}

// More rows than this are not looked at in ranges without an owner; those are short, unless a crash
// has left them.
constexpr int kMostLooks = 1000;

}  // namespace

SlotView look_at_slot() {
    SlotView view = {};
    view.state = RelayState::Stopped;
    RelaySlot* slot = find_slot(MyDatabaseId);
    if (!slot) return view;
    SpinLockAcquire(&slot->mutex);
    view.there = true;
    view.state = slot->state;
    view.relay_pid = slot->pid;
    view.sink_pid = slot->sink_pid;
    view.delivered = slot->delivered;
    view.deferred = slot->deferred;
    view.parked = slot->parked;
    view.watermark = slot->watermark;
    view.unsettled = slot->unsettled;
    view.open_positions = slot->open_positions;
    view.open_range_count = slot->open_range_count;
    memcpy(view.open_ranges, slot->open_ranges,
           sizeof(OpenRange) * static_cast<size_t>(slot->open_range_count));
    view.first_in_flight = slot->first_in_flight;
    view.snapshots = slot->snapshots;
    view.delivered_at = slot->delivered_at;
    view.last_error_at = slot->last_error_at;
    memcpy(view.last_error, slot->last_error, sizeof(view.last_error));
    memcpy(view.sink_name, slot->sink_name, sizeof(view.sink_name));
    memcpy(view.sink_statistics, slot->sink_statistics, sizeof(view.sink_statistics));
    SpinLockRelease(&slot->mutex);
    view.active_segment = pg_atomic_read_u32(&slot->active_segment);
    view.working = view.relay_pid != 0 && is_working(view.state) && view.snapshots > 0;
    return view;
}

int64 messages_in_open_ranges(const SlotView& view, const Schema& schema, Snapshot snapshot) {
    if (view.open_range_count == 0) return 0;
    LogReader reader;
    (void)reader.open(schema, snapshot, true);
    int64 messages = 0;
    int looks = 0;
    for (int i = 0; i < view.open_range_count; ++i) {
        const OpenRange& range = view.open_ranges[i];
        Row row;
        reader.seek(range.from, range.whole ? range.from : range.to);
        for (;;) {
            CHECK_FOR_INTERRUPTS();
            RowKind kind = reader.next(&row);
            if (kind == RowKind::End) break;
            if (!range.whole && ++looks > kMostLooks) break;
            if (kind != RowKind::Visible) continue;
            messages += range.whole ? range.to - range.from + 1 : 1;
        }
    }
    reader.close();
    return messages;
}

Schema required_schema() {
    Schema schema;
    if (!find_schema(&schema)) {
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("the extension outbox is not installed in this database"),
                        errhint("Run CREATE EXTENSION outbox.")));
    }
    return schema;
}

}  // namespace outbox
