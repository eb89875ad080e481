// Topics in trouble: from the first failure back to normal. Relay process.
//
// While a topic is not Open, its messages go to the table `deferred` and from there, in the order
// of their positions, to the sink; see topics.hpp for the states.
#include "fault_point.hpp"
#include "settings.hpp"
#include "shared/timer.hpp"
#include "storage/backlog.hpp"
#include "storage/deferred.hpp"
#include "storage/log_reader.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

constexpr int kDrainPortion = 500;
// A topic whose messages come back this often in a row, none delivered and none blamed, waits.
constexpr int kMostFruitless = 3;

bool may_drain(const Relay& relay) {
    return relay.resend_floor == PG_INT64_MAX && relay.sink.state() == SinkProcess::State::Ready;
}

void flush_removals(Relay* relay) {
    if (relay->removal_count == 0) return;
    remove_deferred(relay->removals, relay->removal_count);
    OUTBOX_FAULT_POINT("recovery-after-removing");
    relay->removal_count = 0;
    relay->progress_changed = true;
}

// Moves what came back from the log to `deferred`; marks the suspects among what lies there.
void keep_returned(Relay* relay, const Schema& schema, Topic* topic) {
    LogReader reader;
    // Settled positions' segments are only emptied by this process; a lock that is waited for here
    // is held by an operator's command.
    (void)reader.open(schema, GetActiveSnapshot(), true);
    for (int i = 0; i < topic->returned_count; ++i) {
        const ReturnedMessage& returned = topic->returned[i];
        if (returned.position < 0) {
            suspect_deferred(-returned.position);
            continue;
        }
        Row row;
        reader.seek(returned.position, returned.position);
        for (RowKind kind = reader.next(&row); kind != RowKind::End; kind = reader.next(&row)) {
            if (kind != RowKind::Visible) continue;
            reader.load(&row);
            defer(row, returned.suspect ? DeferredState::Suspect : DeferredState::Waiting,
                  Refusal{topic->error_code, topic->error});
            ++relay->progress.deferred;
            relay->deferred_floor = Min(relay->deferred_floor, row.position);
        }
    }
    reader.close();
    OUTBOX_FAULT_POINT("recovery-after-keeping");
    topic->returned_count = 0;
    relay->progress_changed = true;
}

void remember_key(void* context, const Row& row) {
    static_cast<Relay*>(context)->parked_keys.add(row);
}

void load_parked_keys(Relay* relay) {
    relay->parked_keys.clear();
    int64 most = ParkedKeys::kMost + 1;
    if (each_parked_key(most, remember_key, relay) == most) relay->parked_keys.add_all();
}

void note_parked(Relay* relay, Topic* topic, int64 parked) {
    relay->progress.deferred -= parked;
    relay->parked += parked;
    topic->has_parked = true;
}

// The message that was refused although it went alone.
void park_refused(Relay* relay, Topic* topic) {
    Refusal refusal = {topic->error_code, topic->error};
    int64 parked = park(topic->to_park, refusal, remember_key, relay);
    ereport(WARNING,
            (errmsg("outbox parked a message of topic \"%s\" that the broker refuses", topic->name),
             errdetail("%s (" INT64_FORMAT " messages, with those of its key behind it).",
                       topic->error, parked)));
    OUTBOX_FAULT_POINT("recovery-after-parking");
    note_parked(relay, topic, parked);
    topic->to_park = 0;
}

// The topic is still unknown to the broker: what has waited for as long as it may is parked.
void park_those_of_unknown_topic(Relay* relay, Topic* topic) {
    Refusal refusal = {topic->error_code, topic->error};
    int64 parked = park_expired(topic->name, settings.unknown_topic_timeout_s, refusal);
    if (parked == 0) return;
    ereport(WARNING,
            (errmsg("outbox parked " INT64_FORMAT " messages of topic \"%s\"", parked, topic->name),
             errdetail("%s, for longer than outbox.unknown_topic_timeout.", topic->error)));
    note_parked(relay, topic, parked);
    load_parked_keys(relay);
}

// Everything of the topic that was in flight is answered.
void settle(Relay* relay, const Schema& schema, Topic* topic) {
    keep_returned(relay, schema, topic);
    if (topic->to_park != 0) park_refused(relay, topic);
    if (topic->unknown && settings.unknown_topic_timeout_s > 0)
        park_those_of_unknown_topic(relay, topic);
    if (topic->closed_at_sink && relay->sink.running()) relay->sink.send_reopen(topic->name);
    topic->closed_at_sink = false;
    topic->drained_to = 0;
    topic->rewind = false;
    bool fruitless = ++topic->fruitless > kMostFruitless;
    if (topic->topic_trouble || fruitless) {
        if (!topic->kept_back) {
            topic->kept_back = true;
            ereport(LOG, (errmsg("outbox keeps the messages of topic \"%s\" back: %s", topic->name,
                                 fruitless ? "the sink returns all of them" : topic->error)));
        }
        topic->next_try = TimestampTzPlusMilliseconds(timer_now(), topic->backoff.next_ms());
        relay->topics.set_state(topic, TopicState::Waiting);
    } else {
        relay->topics.set_state(topic, TopicState::Draining);
    }
    topic->topic_trouble = topic->unknown = false;
}

// What a drain is doing with one topic.
struct Drain {
    Relay* relay;
    uint32 topic;
    bool first_alone;
    int sent;
    bool stopped;  // something is left, for later
};

bool drain_row(void* context, const Row& row, DeferredState state) {
    Drain* drain = static_cast<Drain*>(context);
    Relay* relay = drain->relay;
    Topic& topic = relay->topics.at(drain->topic);
    bool alone = drain->first_alone || state == DeferredState::Suspect;
    topic.wait_for_answers = alone && topic.in_flight > 0;
    if (topic.wait_for_answers || !sink_has_room(*relay, message_bytes(row))) {
        drain->stopped = true;
        return false;
    }
    send_message(relay, row, drain->topic, Source::Deferred, alone);
    OUTBOX_FAULT_POINT("recovery-after-queueing");
    topic.drained_to = row.position;
    ++drain->sent;
    if (!alone) return true;
    relay->topics.set_state(&topic, TopicState::Probing);
    drain->stopped = true;
    return false;
}

void drain(Relay* relay, uint32 index, bool first_alone) {
    Topic* topic = &relay->topics.at(index);
    if (topic->rewind) {
        if (topic->in_flight > 0) return;
        flush_removals(relay);
        topic->drained_to = 0;
        topic->rewind = false;
    }
    Drain drain = {relay, index, first_alone, 0, false};
    each_deferred(topic->name, topic->drained_to, kDrainPortion, drain_row, &drain);
    if (drain.sent > 0 || drain.stopped) return;
    topic->backoff.reset();
    relay->topics.set_state(topic, TopicState::Open);
    if (!topic->kept_back) return;
    topic->kept_back = false;
    ereport(LOG, (errmsg("outbox sends the messages of topic \"%s\" again", topic->name)));
}

void advance(Relay* relay, const Schema& schema, uint32 index) {
    Topic* topic = &relay->topics.at(index);
    if (topic->state == TopicState::Closed && topic->in_flight == 0) settle(relay, schema, topic);
    if (!may_drain(*relay)) return;
    if (topic->state == TopicState::Waiting && topic->in_flight == 0 &&
        timer_now() >= topic->next_try) {
        drain(relay, index, true);
    } else if (topic->state == TopicState::Draining) {
        drain(relay, index, false);
    }
}

// Of a relay that has just started, every topic is Open, and one with messages here may be in
// trouble still: its first one goes alone. Of one at work, an Open topic takes messages.
void found_topic(void* context, const char* name, int64 waiting, int64 parked) {
    Relay* relay = static_cast<Relay*>(context);
    uint32 index = relay->topics.index_of(name, static_cast<uint32>(strlen(name)));
    Topic& topic = relay->topics.at(index);
    topic.has_parked = parked > 0;
    relay->progress.deferred += waiting;
    relay->parked += parked;
    if (waiting == 0) return;
    // What was released may have to go before what has been sent since.
    topic.rewind = topic.drained_to > 0;
    if (topic.state != TopicState::Open) return;
    topic.next_try = timer_now();
    relay->topics.set_state(&topic, TopicState::Waiting);
}

bool parked_changed(Relay* relay) {
    return pg_atomic_exchange_u32(&relay->slot->parked_changed, 0) != 0;
}

}  // namespace

Look run_recovery(Relay* relay) {
    StartTransactionCommand();
    SetCurrentStatementStartTimestamp();
    Schema schema;
    Look look = enter(*relay, &schema);
    if (look == Look::Done) {
        PushActiveSnapshot(GetTransactionSnapshot());
        MemoryContext caller = MemoryContextSwitchTo(relay->scratch);
        flush_removals(relay);
        // In this order: the flag, then a snapshot that shows what it was set for.
        if (parked_changed(relay)) load_deferred(relay);
        for (uint32 i = 0; i < relay->topics.count(); ++i) {
            if (relay->topics.at(i).state != TopicState::Open) advance(relay, schema, i);
        }
        if (relay->progress_changed) save_progress_now(relay, schema);
        MemoryContextSwitchTo(caller);
        PopActiveSnapshot();
        OUTBOX_FAULT_POINT("recovery-before-commit");
    }
    CommitTransactionCommand();
    OUTBOX_FAULT_POINT("recovery-after-commit");
    return look;
}

long recovery_due_ms(const Relay& relay) {
    if (pg_atomic_read_u32(&relay.slot->parked_changed) != 0) return 0;
    if (relay.topics.troubled() == 0) return relay.removal_count > 0 ? 0 : -1;
    long due = -1;
    TimestampTz now = timer_now();
    for (uint32 i = 0; i < relay.topics.count(); ++i) {
        const Topic& topic = relay.topics.at(i);
        long wait = -1;
        switch (topic.state) {
            case TopicState::Open:
            case TopicState::Probing:
                break;
            case TopicState::Closed:
                if (topic.in_flight == 0) wait = 0;
                break;
            case TopicState::Waiting:
                if (may_drain(relay))
                    wait = Max(0L, TimestampDifferenceMilliseconds(now, topic.next_try));
                break;
            case TopicState::Draining:
                if (!may_drain(relay) || !sink_has_room(relay, 0)) break;
                if (topic.in_flight == 0 || !(topic.rewind || topic.wait_for_answers)) wait = 0;
                break;
        }
        if (wait >= 0 && (due < 0 || wait < due)) due = wait;
    }
    return due;
}

void load_deferred(Relay* relay) {
    adopt_released();
    relay->progress.deferred = 0;
    relay->parked = 0;
    each_deferred_topic(found_topic, relay);
    TimestampTz time;
    if (!oldest_deferred(&relay->deferred_floor, &time)) relay->deferred_floor = PG_INT64_MAX;
    load_parked_keys(relay);
    relay->progress_changed = true;
}

}  // namespace outbox
