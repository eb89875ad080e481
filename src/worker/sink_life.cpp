// The life of a relay's sink: started, ended, dropped, drained. Relay process.
#include "worker/sink_life.hpp"

#include "fault_point.hpp"
#include "settings.hpp"
#include "shared/timer.hpp"
#include "worker/relay_settings.hpp"

namespace outbox {

namespace {

// A sink that ends this often without having delivered anything is called failed.
constexpr int kFailedAfterEnds = 3;
// How long a sink may finish where the broker does not answer anyway.
constexpr int kDrainInTroubleMs = 300;

}  // namespace

void watch_sink(Relay* relay) {
    relay->events.watch(relay->sink.running() ? relay->sink.socket() : -1);
}

void start_sink(Relay* relay) {
    if (relay->sink_signature) pfree(relay->sink_signature);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    relay->sink_signature = current_sink_signature();
    MemoryContextSwitchTo(caller);
    relay->sink_delivered = false;
    relay->sink_said_why = false;
    relay->sink_greeted = false;
    if (!relay->sink.start(settings.sink, relay->database_name)) {
        char text[kErrorLength];
        snprintf(text, sizeof(text), "could not start the sink outbox-%s: %s", settings.sink,
                 strerror(errno));
        set_last_error(relay->slot, text);
        relay->sink_due = TimestampTzPlusMilliseconds(timer_now(), relay->sink_backoff.next_ms());
    }
    watch_sink(relay);
    OUTBOX_FAULT_POINT("relay-after-starting-sink");
}

void sink_ended(Relay* relay, bool expected) {
    int status = relay->sink.reap();
    take_back_unanswered(relay);
    watch_sink(relay);
    if (expected) return;
    // One that was at work may start again at once; one that fails time after time must not spin.
    if (relay->sink_delivered) {
        relay->sink_ends = 0;
        relay->nonsense_backoff.reset();
    }
    long pause = relay->sink_delivered ? 0 : static_cast<long>(relay->sink_backoff.next_ms());
    relay->sink_due = TimestampTzPlusMilliseconds(timer_now(), pause);
    if (relay->sink_said_why) return;
    char how[128];
    char text[kErrorLength];
    snprintf(text, sizeof(text), "the sink outbox-%s %s", settings.sink,
             describe_exit(status, how, sizeof(how)));
    set_last_error(relay->slot, text);
    if (++relay->sink_ends >= kFailedAfterEnds || never_ran(status)) relay->sink_failed = true;
    // Once for a series of the same.
    if (relay->sink_ends > 1) return;
    if (relay->sink_lines.admit(timer_now() / 1000)) ereport(LOG, (errmsg("outbox: %s", text)));
}

void drop_sink(Relay* relay) {
    relay->sink.kill();
    take_back_unanswered(relay);
    watch_sink(relay);
    relay->sink_due = TimestampTzPlusMilliseconds(timer_now(), relay->nonsense_backoff.next_ms());
    char text[kErrorLength];
    snprintf(text, sizeof(text), "the sink outbox-%s broke the protocol: %s", settings.sink,
             relay->complaint);
    set_last_error(relay->slot, text);
    if (++relay->sink_ends >= kFailedAfterEnds) relay->sink_failed = true;
    // Each time: the pauses grow.
    ereport(LOG, (errmsg("outbox: %s", text)));
}

bool wait_for_events(Relay* relay, long timeout_ms) {
    return relay->events.wait(timeout_ms, relay->sink.running() && relay->sink.unwritten() > 0);
}

void drain_sink(Relay* relay, int most_ms) {
    if (!relay->sink.running()) return;
    // A broker that does not answer will hardly do so now.
    if (relay->sink_in_trouble || relay->sink.state() == SinkProcess::State::Starting) {
        most_ms = Min(most_ms, kDrainInTroubleMs);
    }
    TimestampTz deadline = TimestampTzPlusMilliseconds(timer_now(), most_ms);
    relay->sink.send_drain();
    bool there = true;
    while (there) {
        there = relay->sink.flush();
        Heard heard = handle_reports(relay);
        if (heard == Heard::Nonsense) {
            SetLatch(MyLatch);
            drop_sink(relay);
            return;
        }
        there = there && heard == Heard::Reports;
        publish_status(relay);
        long rest = TimestampDifferenceMilliseconds(timer_now(), deadline);
        if (!there || rest <= 0) break;
        ResetLatch(MyLatch);
        // Not CHECK_FOR_INTERRUPTS alone: the barrier that DROP DATABASE sends is absorbed by it
        // too.
        CHECK_FOR_INTERRUPTS();
        (void)wait_for_events(relay, rest);
    }
    // Whatever else the latch was set for is still to be done.
    SetLatch(MyLatch);
    if (there) {
        relay->sink.kill();
        take_back_unanswered(relay);
        watch_sink(relay);
    } else {
        sink_ended(relay, true);
    }
}

}  // namespace outbox
