// Saving progress, and showing it in shared memory. Relay process.
#include "fault_point.hpp"
#include "shared/timer.hpp"
#include "storage/deferred.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

// More ranges than this are not worth writing twenty times a second: neighbours are joined, which
// after a crash means some more messages sent twice.
constexpr int kMostRanges = 1000;

// Of a relay at work. One that rests says so itself, when everything is saved: then others may
// change what is.
RelayState current_state(const Relay& relay) {
    if (relay.sink_failed) return RelayState::Failed;
    if (relay.sink.state() != SinkProcess::State::Ready || relay.sink_in_trouble)
        return RelayState::Connecting;
    for (uint32 i = 0; i < relay.topics.count(); ++i) {
        TopicState state = relay.topics.at(i).state;
        if (state == TopicState::Waiting || state == TopicState::Probing)
            return RelayState::Waiting;
    }
    return RelayState::Running;
}

// The lowest position that is a message and not settled; asked for only while somebody waits for
// it.
int64 first_in_flight(const Relay& relay) {
    int64 first = relay.resend_floor;
    relay.in_flight.each(
        [&](const InFlightMessage& message) { first = Min(first, message.position); });
    for (uint32 i = 0; i < relay.topics.count(); ++i) {
        const Topic& topic = relay.topics.at(i);
        for (int j = 0; j < topic.returned_count; ++j) {
            int64 position = topic.returned[j].position;
            first = Min(first, position < 0 ? -position : position);
        }
    }
    return first;
}

}  // namespace

bool Relay::any_in_flight(int64 from, int64 to) const {
    bool any = false;
    in_flight.each([&](const InFlightMessage& message) {
        any = any ||
              (message.source == Source::Log && message.position >= from && message.position <= to);
    });
    for (uint32 i = 0; i < topics.count(); ++i) {
        const Topic& topic = topics.at(i);
        for (int j = 0; j < topic.returned_count; ++j) {
            any = any || (topic.returned[j].position >= from && topic.returned[j].position <= to);
        }
    }
    return any;
}

bool Relay::any_gap(int64 from, int64 to, bool (*present)(void* context, int64 from, int64 to),
                    void* context) const {
    return gaps.any_between(from, to, present, context);
}

void fill_progress(Relay* relay) {
    RangeList ranges;
    for (const Gap& gap : relay->gaps)
        ranges.add(gap.from, gap.to);
    relay->in_flight.each([&](const InFlightMessage& message) {
        if (message.source == Source::Log) ranges.add(message.position, message.position);
    });
    for (uint32 i = 0; i < relay->topics.count(); ++i) {
        const Topic& topic = relay->topics.at(i);
        for (int j = 0; j < topic.returned_count; ++j) {
            if (topic.returned[j].position > 0)
                ranges.add(topic.returned[j].position, topic.returned[j].position);
        }
    }
    relay->progress.unsettled = ranges.list;
    relay->progress.unsettled_count = normalize_ranges(ranges.list, ranges.count, kMostRanges);
}

void save_progress_now(Relay* relay, const Schema& schema) {
    if (relay->removal_count > 0) {
        remove_deferred(relay->removals, relay->removal_count);
        relay->removal_count = 0;
        OUTBOX_FAULT_POINT("recovery-after-removing");
    }
    fill_progress(relay);
    save_progress(schema, &relay->progress);
    OUTBOX_FAULT_POINT("relay-after-saving");
    if (relay->progress.deferred <= 0) relay->deferred_floor = PG_INT64_MAX;
    relay->progress.unsettled = nullptr;
    relay->progress.unsettled_count = 0;
    relay->progress_changed = false;
    relay->progress_saved_at = timer_now();
}

void save_if_changed(Relay* relay) {
    if (!relay->progress_changed && relay->removal_count == 0) return;
    OUTBOX_FAULT_POINT("relay-before-saving");
    StartTransactionCommand();
    SetCurrentStatementStartTimestamp();
    Schema schema;
    if (enter(*relay, &schema) == Look::Done) {
        PushActiveSnapshot(GetTransactionSnapshot());
        MemoryContext caller = MemoryContextSwitchTo(relay->scratch);
        save_progress_now(relay, schema);
        MemoryContextSwitchTo(caller);
        PopActiveSnapshot();
    }
    CommitTransactionCommand();
    OUTBOX_FAULT_POINT("relay-after-saved");
}

void publish_status(Relay* relay) {
    RelaySlot* slot = relay->slot;
    bool waiters = pg_atomic_read_u32(&slot->waiters) > 0;
    int64 first = waiters ? first_in_flight(*relay) : PG_INT64_MAX;
    if (relay->progress.deferred > 0) first = Min(first, relay->deferred_floor);
    int64 handed_out = relay->in_flight.from_log();
    for (uint32 i = 0; i < relay->topics.count(); ++i)
        handed_out += relay->topics.at(i).returned_count;
    int64 open = handed_out + relay->gaps.positions();
    int64 unsettled = handed_out + relay->gaps.returned_positions();
    OpenRange ranges[kMostOpenRanges];
    int64 in_ranges;
    int range_count = relay->gaps.open_ranges(ranges, kMostOpenRanges, &in_ranges);
    // Of more than that, most will be messages while nothing can be sent, and nobody looks.
    bool looking = relay->sink.state() == SinkProcess::State::Ready && sink_has_room(*relay, 0);
    if (!looking) unsettled = open - in_ranges;
    RelayState state = current_state(*relay);
    bool changed;
    SpinLockAcquire(&slot->mutex);
    changed = slot->snapshots != relay->passes || slot->watermark != relay->progress.watermark ||
              slot->first_in_flight != first || slot->unsettled != unsettled;
    slot->state = state;
    slot->sink_pid = relay->sink.pid();
    slot->delivered = relay->progress.delivered;
    if (relay->delivered_at != 0) slot->delivered_at = relay->delivered_at;
    slot->deferred = relay->progress.deferred;
    slot->parked = relay->parked;
    slot->watermark = relay->progress.watermark;
    slot->sequence = relay->sequence;
    slot->unsettled = unsettled;
    slot->open_positions = open;
    slot->open_range_count = range_count;
    memcpy(slot->open_ranges, ranges, sizeof(OpenRange) * static_cast<size_t>(range_count));
    slot->first_in_flight = first;
    slot->snapshots = relay->passes;
    if (state == RelayState::Running && slot->healthy_since == 0) slot->healthy_since = timer_now();
    SpinLockRelease(&slot->mutex);
    pg_atomic_write_u32(&slot->active_segment, static_cast<uint32>(relay->ring.active()));
    if (waiters && changed) ConditionVariableBroadcast(&slot->progressed);
}

}  // namespace outbox
