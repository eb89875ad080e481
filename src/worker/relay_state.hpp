// Everything that a relay knows, in one place, shared by the files that make it up. Relay process.
#pragma once

#include "pg/postgres.hpp"
#include "shared/shared_state.hpp"
#include "storage/identity.hpp"
#include "storage/progress.hpp"
#include "storage/schema.hpp"
#include "storage/segments.hpp"
#include "worker/backoff.hpp"
#include "worker/event_wait.hpp"
#include "worker/gaps.hpp"
#include "worker/in_flight.hpp"
#include "worker/log_limit.hpp"
#include "worker/parked_keys.hpp"
#include "worker/sink_process.hpp"
#include "worker/topics.hpp"

namespace outbox {

struct Relay final : public SettledView {
    RelaySlot* slot = nullptr;
    char* database_name = nullptr;
    char* database_settings = nullptr;  // as read_database_settings() had them at the start
    Oid extension = InvalidOid;  // whose messages and progress these are; set when they are loaded
    Oid sequence = InvalidOid;   // of positions
    MemoryContext scratch = nullptr;  // reset with every turn of the loop

    // What is sent and what is settled. A position up to progress.watermark is in exactly one of:
    // gaps, in_flight (Source::Log), a topic's returned list, or settled.
    Progress progress = {};
    Gaps gaps;
    InFlight in_flight;
    Topics topics;
    ParkedKeys parked_keys;
    SegmentRing ring;
    Standing standing = Standing::Unknown;

    // Messages that came back when a sink ended, and have not been sent again, begin here. Until
    // they have been, nothing deferred is sent: it may have to go behind them.
    int64 resend_floor = PG_INT64_MAX;
    // No message in `deferred` that is not parked has a lower position.
    int64 deferred_floor = PG_INT64_MAX;
    int64 parked = 0;  // messages in `deferred` that are
    uint64 passes = 0;
    // By the last pass; a transaction counts again where another's messages came between.
    int transactions_sent = 0;
    int messages_sent = 0;
    bool progress_changed = false;
    TimestampTz progress_saved_at = 0;
    TimestampTz delivered_at = 0;  // the last acknowledgement; 0: none yet

    // Delivered messages of `deferred` whose rows are to be removed.
    int64* removals = nullptr;
    int removal_count = 0;
    int removal_capacity = 0;

    EventWait events;

    SinkProcess sink;
    char* sink_signature = nullptr;  // of the settings that it was started with
    Backoff sink_backoff{200, 30 * 1000};
    TimestampTz sink_due = 0;  // when to start it again
    bool sink_in_trouble = false;
    bool sink_failed = false;     // it can't work with its settings
    int sink_ends = 0;            // how often it ended in a row without having delivered anything
    bool sink_said_why = false;   // this one has said itself why it is about to end
    bool sink_delivered = false;  // something, since it was started
    bool sink_greeted = false;    // it said Ready, since it was started
    // One that breaks the protocol waits longer for its successor, whatever it delivered before.
    Backoff nonsense_backoff{1000, 60 * 1000};
    char complaint[160] = {};  // what was wrong
    LogLimit sink_lines{50, 5000};

    // SettledView
    int64 watermark() const override { return progress.watermark; }
    bool any_in_flight(int64 from, int64 to) const override;
    bool any_gap(int64 from, int64 to, bool (*present)(void* context, int64 from, int64 to),
                 void* context) const override;
};

// Names of a relay's outcome of one look at the database.
enum class Look : uint8_t {
    Done,      // nothing is left to do for now
    More,      // more can be sent at once
    Full,      // more is there, and the sink has to answer first
    Locked,    // somebody holds a lock that a relay must not wait for
    Absent,    // the extension is not there
    Replaced,  // it was dropped and created again: what this process knows is void
    Resting,   // paused, foreign: nothing may be sent
};

// loop.cpp: the relay's work, until the process ends.
void run_loop(Relay* relay);

// look.cpp: begins a transaction's work; Done: it may go on, and the extension can't be dropped
// until it ends.
Look enter(const Relay& relay, Schema* schema);
// Whether a relay that rests may work again; loads the state if so. In a transaction of its own.
Look look_while_resting(Relay* relay);
// Whether the extension is still there, and the relay may work, while no sink is ready. In a
// transaction of its own.
Look look_only(Relay* relay);

// pass.cpp: reads the log once and sends what can be sent. One transaction.
Look run_pass(Relay* relay);

// pass.cpp: puts one message into the sink's output and into the messages in flight.
void send_message(Relay* relay, const struct Row& row, uint32 topic, Source source, bool alone);
// Size of a message as the credit counts it.
size_t message_bytes(const struct Row& row);
bool sink_has_room(const Relay& relay, size_t bytes);

// recovery.cpp: moves troubled topics on, and takes up what operators released. One transaction;
// only when recovery_due_ms() says so. Done, or Locked: nothing could be looked at.
Look run_recovery(Relay* relay);
// Milliseconds until some topic wants that; -1: none.
long recovery_due_ms(const Relay& relay);
// Loads what `deferred` holds, after a start or after operators retried or discarded parked
// messages. In the caller's transaction.
void load_deferred(Relay* relay);

// What came of listening to the sink.
enum class Heard : uint8_t {
    Reports,   // all that was there, perhaps nothing
    Farewell,  // its last ones: it is gone
    Nonsense,  // it broke the protocol, as relay->complaint says; nothing after that was handled
};

// reports.cpp: handles the reports that the sink has sent.
Heard handle_reports(Relay* relay);
// reports.cpp: the sink is gone: what it had not answered is taken back.
void take_back_unanswered(Relay* relay);

// save.cpp: writes progress. `fill` brings progress.unsettled up to date.
void fill_progress(Relay* relay);
void save_progress_now(Relay* relay, const Schema& schema);
// In a transaction of its own.
void save_if_changed(Relay* relay);
void publish_status(Relay* relay);

}  // namespace outbox
