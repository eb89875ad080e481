// The relay: moves the committed messages of one database to its sink. Relay process.
//
// One turn of the loop: settings, reports of the sink, a pass over the log, topics in trouble,
// segments, progress, then wait for {latch, socket, next deadline}. Between the turns no
// transaction is open, nothing is locked and no snapshot is held; it never waits for a lock that
// others hold. An error ends the process; the launcher starts another, which begins from the saved
// progress.
//
// Life of the process:
//   attach -> connect -> load -> work <-> rest (paused, foreign, disabled) -> drain -> save -> exit
#include "worker/relay.hpp"

#include "fault_point.hpp"
#include "settings.hpp"
#include "shared/timer.hpp"
#include "storage/backlog.hpp"
#include "storage/deferred.hpp"
#include "storage/positions.hpp"
#include "worker/relay_settings.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

constexpr int kSaveIntervalMs = 50;
// Passes are at least this far apart, unless there is more to send: under load they find batches.
constexpr int kPaceUs = 1000;
// Frames beyond this wait for the sink to read before more are made.
constexpr size_t kMostUnwritten = 1 << 20;
// A sink that ends this often without having delivered anything is called failed.
constexpr int kFailedAfterEnds = 3;
// How long a sink may finish: at most this where a command waits for the database, and this where
// the broker does not answer anyway; otherwise outbox.stop_timeout.
constexpr int kDrainForHoldMs = 1000;
constexpr int kDrainInTroubleMs = 300;
constexpr long kLockedRetryMs = 50;
constexpr long kMaintainIntervalMs = 200;

Relay* relay = nullptr;  // of this process
char* sink_signature = nullptr;
char* database_settings = nullptr;
char* database_name = nullptr;
WaitEventSet* wait_set = nullptr;
int wait_socket = -1;
bool wait_writable = false;

// --- the slot ---

void detach(int, Datum) {
    RelaySlot* slot = relay->slot;
    Latch* launcher;
    // Last of all: by now the process is out of its database.
    SpinLockAcquire(&slot->mutex);
    slot->pid = 0;
    slot->latch = nullptr;
    slot->leave = false;
    slot->sink_pid = 0;
    if (slot->state != RelayState::Failed) slot->state = RelayState::Stopped;
    SpinLockRelease(&slot->mutex);
    LWLockAcquire(shared->lock, LW_SHARED);
    launcher = shared->launcher_latch;
    LWLockRelease(shared->lock);
    if (launcher) SetLatch(launcher);
    ConditionVariableBroadcast(&slot->progressed);
}

// Takes the slot, if it still belongs to this database and nobody has it.
bool attach(uint32 index, const RelayArgument& argument) {
    RelaySlot* slot = &shared->slots[index];
    bool taken = false;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    if (slot->database == argument.database && slot->generation == argument.generation) {
        SpinLockAcquire(&slot->mutex);
        if (slot->pid == 0) {
            slot->pid = MyProcPid;
            slot->latch = MyLatch;
            slot->end = RelayEnd::Error;
            slot->leave = false;
            slot->state = RelayState::Starting;
            slot->healthy_since = 0;
            slot->first_in_flight = PG_INT64_MAX;
            slot->snapshots = 0;
            slot->unsettled = 0;
            taken = true;
        }
        SpinLockRelease(&slot->mutex);
    }
    LWLockRelease(shared->lock);
    relay->slot = slot;
    // Not before_shmem_exit: whoever waits for this relay to leave wants it out of the database's
    // list of processes, and that happens after those callbacks and before this one.
    if (taken) on_shmem_exit(detach, 0);
    return taken;
}

void set_end(RelayEnd end) {
    SpinLockAcquire(&relay->slot->mutex);
    relay->slot->end = end;
    SpinLockRelease(&relay->slot->mutex);
}

void set_state(RelayState state) {
    SpinLockAcquire(&relay->slot->mutex);
    relay->slot->state = state;
    relay->slot->sink_pid = relay->sink.pid();
    if (state != RelayState::Running) relay->slot->healthy_since = 0;
    SpinLockRelease(&relay->slot->mutex);
}

bool asked_to_leave() {
    SpinLockAcquire(&relay->slot->mutex);
    bool leave = relay->slot->leave;
    SpinLockRelease(&relay->slot->mutex);
    return leave;
}

// --- the sink ---

void rebuild_wait_set() {
    if (wait_set) FreeWaitEventSet(wait_set);
    wait_set = compat::create_wait_event_set(TopMemoryContext, 3);
    AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
    AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
    wait_socket = relay->sink.running() ? relay->sink.socket() : -1;
    wait_writable = false;
    if (wait_socket >= 0)
        AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, wait_socket, nullptr, nullptr);
}

void start_sink() {
    if (sink_signature) pfree(sink_signature);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    sink_signature = current_sink_signature();
    MemoryContextSwitchTo(caller);
    relay->sink_delivered = false;
    relay->sink_said_why = false;
    relay->sink_greeted = false;
    if (!relay->sink.start(settings.sink, database_name)) {
        char text[kErrorLength];
        snprintf(text, sizeof(text), "could not start the sink outbox-%s: %s", settings.sink,
                 strerror(errno));
        set_last_error(relay->slot, text);
        relay->sink_due = TimestampTzPlusMilliseconds(timer_now(), relay->sink_backoff.next_ms());
    }
    rebuild_wait_set();
    OUTBOX_FAULT_POINT("relay-after-starting-sink");
}

// The sink has closed its end.
void sink_ended(bool expected) {
    int status = relay->sink.reap();
    take_back_unanswered(relay);
    rebuild_wait_set();
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

// The sink broke the protocol: nothing more of it is believed. What it had answered before that
// counts, the rest is sent again.
void drop_sink() {
    relay->sink.kill();
    take_back_unanswered(relay);
    rebuild_wait_set();
    relay->sink_due = TimestampTzPlusMilliseconds(timer_now(), relay->nonsense_backoff.next_ms());
    char text[kErrorLength];
    snprintf(text, sizeof(text), "the sink outbox-%s broke the protocol: %s", settings.sink,
             relay->complaint);
    set_last_error(relay->slot, text);
    if (++relay->sink_ends >= kFailedAfterEnds) relay->sink_failed = true;
    // Each time: the pauses grow.
    ereport(LOG, (errmsg("outbox: %s", text)));
}

// Returns whether the latch was set: something was committed, or somebody wants something.
bool wait_for_events(long timeout_ms) {
    bool writable = relay->sink.running() && relay->sink.unwritten() > 0;
    if (wait_socket >= 0 && writable != wait_writable) {
        ModifyWaitEvent(wait_set, 2, WL_SOCKET_READABLE | (writable ? WL_SOCKET_WRITEABLE : 0),
                        nullptr);
        wait_writable = writable;
    }
    WaitEvent events[3];
    int count = WaitEventSetWait(wait_set, timeout_ms, events, lengthof(events),
                                 compat::wait_event("OutboxRelayMain"));
    bool woken = false;
    for (int i = 0; i < count; ++i)
        woken = woken || (events[i].events & WL_LATCH_SET) != 0;
    return woken;
}

// Lets the sink finish: waits for what is in flight until it is answered or the time is over.
void drain_sink(int most_ms = settings.stop_timeout_ms) {
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
            drop_sink();
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
        (void)wait_for_events(rest);
    }
    // Whatever else the latch was set for is still to be done.
    SetLatch(MyLatch);
    if (there) {
        relay->sink.kill();
        take_back_unanswered(relay);
        rebuild_wait_set();
    } else {
        sink_ended(true);
    }
}

// --- state on disk ---

// Begins from what is saved. In the caller's transaction.
void load_state(const Schema& schema) {
    relay->extension = schema.extension;
    relay->sequence = schema.sequence;
    relay->progress = load_progress();
    if (set_forward(schema.sequence, relay->progress.watermark)) {
        ereport(WARNING,
                (errmsg("outbox.message_position had been set back; it goes on after " INT64_FORMAT,
                        relay->progress.watermark)));
    }
    relay->gaps.clear();
    relay->resend_floor = PG_INT64_MAX;
    for (int i = 0; i < relay->progress.unsettled_count; ++i) {
        relay->gaps.take_back_range(relay->progress.unsettled[i].from,
                                    relay->progress.unsettled[i].to);
    }
    if (relay->progress.unsettled_count > 0)
        relay->resend_floor = relay->progress.unsettled[0].from;
    relay->progress.unsettled = nullptr;
    relay->progress.unsettled_count = 0;
    relay->removal_count = 0;
    relay->topics.forget_troubles();
    load_deferred(relay);
}

// In a transaction of its own.
void save_if_changed() {
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

bool anything_foreign(const Schema& schema) {
    // A clone begins where its original stood: what was written here since, by sessions of this
    // server, has been noted and is ours.
    bool clone;
    (void)read_standing(schema, GetActiveSnapshot(), &clone);
    int64 ours_from = clone ? first_noted_position() : PG_INT64_MAX;
    Progress progress = load_progress();
    Row row;
    int64 position;
    TimestampTz time;
    if (first_unsettled(schema, GetActiveSnapshot(), progress, &row) && row.position < ours_from) {
        return true;
    }
    return oldest_deferred(&position, &time);
}

// A copy of a database (CREATE DATABASE ... TEMPLATE, a restored dump) that holds nothing to
// publish becomes ours without a word: Done. The lock comes first: whoever is just bringing foreign
// rows holds one that conflicts, to the end of its transaction.
Look adopt_if_nothing_foreign(const Schema& schema) {
    if (!ConditionalLockRelationOid(schema.identity, ShareRowExclusiveLock)) return Look::Locked;
    PushActiveSnapshot(GetLatestSnapshot());
    bool foreign = anything_foreign(schema);
    PopActiveSnapshot();
    if (foreign) return Look::Resting;
    adopt(false);
    OUTBOX_FAULT_POINT("relay-after-adopting-copy");
    relay->standing = Standing::Ours;
    return Look::Done;
}

// Looks whether the relay may work again; loads the state if so. In a transaction of its own.
Look look_while_resting() {
    StartTransactionCommand();
    SetCurrentStatementStartTimestamp();
    Schema schema;
    Look look = enter(*relay, &schema);
    if (look == Look::Done) {
        PushActiveSnapshot(GetTransactionSnapshot());
        relay->standing = read_standing(schema, GetActiveSnapshot());
        if (relay->standing == Standing::Foreign) {
            look = adopt_if_nothing_foreign(schema);
        } else if (relay->standing == Standing::Paused) {
            look = Look::Resting;
        }
        if (look == Look::Done) load_state(schema);
        OUTBOX_FAULT_POINT("relay-after-loading");
        PopActiveSnapshot();
    }
    CommitTransactionCommand();
    return look;
}

long maintain_segments() {
    long again = -1;
    StartTransactionCommand();
    SetCurrentStatementStartTimestamp();
    Schema schema;
    if (enter(*relay, &schema) == Look::Done) {
        PushActiveSnapshot(GetTransactionSnapshot());
        again = relay->ring.maintain(schema, *relay);
        PopActiveSnapshot();
    }
    CommitTransactionCommand();
    OUTBOX_FAULT_POINT("ring-after-maintenance");
    return again;
}

void start_ring() {
    StartTransactionCommand();
    Schema schema;
    if (enter(*relay, &schema) == Look::Done) {
        PushActiveSnapshot(GetTransactionSnapshot());
        relay->ring.start(schema);
        PopActiveSnapshot();
    }
    CommitTransactionCommand();
    pg_atomic_write_u32(&relay->slot->active_segment, static_cast<uint32>(relay->ring.active()));
}

// --- the loop ---

[[noreturn]] void leave(RelayEnd end, int drain_ms = settings.stop_timeout_ms) {
    drain_sink(drain_ms);
    OUTBOX_FAULT_POINT("relay-leaving-drained");
    save_if_changed();
    OUTBOX_FAULT_POINT("relay-leaving-saved");
    set_end(end);
    proc_exit(0);
}

void handle_reload() {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    StartTransactionCommand();
    char* now = read_database_settings();
    bool changed = strcmp(now, database_settings) != 0;
    CommitTransactionCommand();
    if (changed) leave(RelayEnd::Asked);
    char* signature = current_sink_signature();
    if (relay->sink.running() && strcmp(signature, sink_signature) != 0) drain_sink();
    // Whatever it could not work with may have been mended.
    relay->sink_backoff.reset();
    relay->nonsense_backoff.reset();
    relay->sink_ends = 0;
    relay->sink_due = 0;
}

// ALTER DATABASE or ALTER ROLE have committed since this process connected, or while it did:
// whether it has seen what they set can't be told, so it begins anew.
bool session_settings_changed() {
    return pg_atomic_exchange_u32(&relay->slot->settings_changed, 0) != 0;
}

struct Deadlines {
    long next = -1;
    void at_most(long ms) {
        if (ms >= 0 && (next < 0 || ms < next)) next = ms;
    }
};

long until(TimestampTz moment) {
    return Max(0L, TimestampDifferenceMilliseconds(timer_now(), moment));
}

void pace(instr_time* last_pass) {
    instr_time now;
    INSTR_TIME_SET_CURRENT(now);
    INSTR_TIME_SUBTRACT(now, *last_pass);
    int64 passed = static_cast<int64>(INSTR_TIME_GET_MICROSEC(now));
    if (passed < kPaceUs) pg_usleep(kPaceUs - passed);
    INSTR_TIME_SET_CURRENT(*last_pass);
}

class Loop {
  public:
    void run() {
        rebuild_wait_set();
        for (;;) {
            MemoryContextSwitchTo(relay->scratch);
            MemoryContextReset(relay->scratch);
            ResetLatch(MyLatch);
            CHECK_FOR_INTERRUPTS();
            // While there is always more to send, the wait below, which would notice, is never
            // reached.
            if (!PostmasterIsAlive()) proc_exit(1);
            if (session_settings_changed()) leave(RelayEnd::Asked);
            if (ConfigReloadPending) handle_reload();
            if (ShutdownRequestPending) leave(RelayEnd::Error);
            // Somebody waits for the database: a command of an operator, or of a test suite.
            if (asked_to_leave() || is_held(MyDatabaseId)) leave(RelayEnd::Asked, kDrainForHoldMs);
            Deadlines deadlines;
            if (settings.enabled) {
                turn(&deadlines);
            } else {
                if (look_only() == Look::Absent) leave(RelayEnd::Absent);
                rest(RelayState::Disabled);
            }
            if (deadlines.next == 0) {
                // The latch is reset before the next turn without anybody having looked at it.
                log_due_ = true;
                continue;
            }
            pgstat_report_stat(true);
            if (wait_for_events(deadlines.next)) log_due_ = true;
        }
    }

  private:
    void rest(RelayState state) {
        drain_sink();
        save_if_changed();
        set_state(state);
        resting_ = true;
    }

    void turn(Deadlines* deadlines) {
        if (resting_) {
            Look look = look_while_resting();
            if (look == Look::Absent) leave(RelayEnd::Absent);
            if (look == Look::Replaced) leave(RelayEnd::Asked);
            if (look == Look::Locked) {
                set_identified(relay->slot, relay->standing != Standing::Foreign);
                deadlines->at_most(kLockedRetryMs);
                return;
            }
            if (look == Look::Resting) {
                set_state(relay->standing == Standing::Paused ? RelayState::Paused
                                                              : RelayState::Foreign);
                set_identified(relay->slot, relay->standing == Standing::Paused);
                return;
            }
            resting_ = false;
            relay->slot->backlog.forget();
            set_identified(relay->slot, true);
            start_ring();
        }
        if (!keep_sink(deadlines)) return;
        if (!read_log(deadlines)) return;
        recover(deadlines);
        if (!relay->sink.flush()) deadlines->at_most(0);
        maintain(deadlines);
        save(deadlines);
        publish_status(relay);
    }

    // Sees to it that a sink is there and hears what it says. False: the turn is over.
    bool keep_sink(Deadlines* deadlines) {
        if (relay->sink.running()) {
            bool there = relay->sink.flush();
            Heard heard = handle_reports(relay);
            if (heard == Heard::Nonsense) {
                drop_sink();
            } else if (!there || heard == Heard::Farewell) {
                sink_ended(false);
            }
        }
        if (!relay->sink.running()) {
            long wait = until(relay->sink_due);
            if (wait > 0) {
                // The extension may be dropped meanwhile, or the relay paused.
                publish_status(relay);
                deadlines->at_most(wait);
            } else {
                start_sink();
            }
        }
        return true;
    }

    // Reads the log if that can be of use. False: the turn is over.
    bool read_log(Deadlines* deadlines) {
        bool ready = relay->sink.state() == SinkProcess::State::Ready;
        bool room = sink_has_room(*relay, 0) && relay->sink.unwritten() < kMostUnwritten;
        if (look_ == Look::Full || look_ == Look::More) log_due_ = true;
        if (gaps_due_ != DT_NOEND && until(gaps_due_) == 0) log_due_ = true;
        // An answer makes room, and brings us back.
        if (ready && !room) return true;
        if (!ready && was_ready_) log_due_ = true;
        if (ready && !was_ready_) log_due_ = true;
        was_ready_ = ready;
        if (!log_due_) {
            if (gaps_due_ != DT_NOEND) deadlines->at_most(until(gaps_due_));
            return true;
        }
        log_due_ = false;
        if (look_ != Look::More) pace(&last_pass_);
        look_ = ready ? run_pass(relay) : look_only();
        gaps_due_ = DT_NOEND;
        switch (look_) {
            case Look::Absent:
                leave(RelayEnd::Absent);
            case Look::Replaced:
                leave(RelayEnd::Asked);
            case Look::Resting:
                rest(relay->standing == Standing::Paused ? RelayState::Paused
                                                         : RelayState::Foreign);
                deadlines->at_most(0);
                return false;
            case Look::More:
                deadlines->at_most(0);
                break;
            case Look::Locked:
                log_due_ = true;
                deadlines->at_most(kLockedRetryMs);
                break;
            case Look::Done:
                if (ready && relay->gaps.recheck_ms() >= 0) {
                    gaps_due_ = TimestampTzPlusMilliseconds(timer_now(), relay->gaps.recheck_ms());
                    deadlines->at_most(until(gaps_due_));
                }
                break;
            case Look::Full:
                break;
        }
        return true;
    }

    // While no sink is ready: is the extension still there, may we work?
    Look look_only() {
        StartTransactionCommand();
        Schema schema;
        Look look = enter(*relay, &schema);
        if (look == Look::Done) {
            PushActiveSnapshot(GetTransactionSnapshot());
            relay->standing = read_standing(schema, GetActiveSnapshot());
            bool rest = relay->standing == Standing::Paused || relay->standing == Standing::Foreign;
            look = rest ? Look::Resting : Look::Done;
            set_identified(relay->slot, relay->standing != Standing::Foreign);
            PopActiveSnapshot();
        }
        CommitTransactionCommand();
        return look;
    }

    void recover(Deadlines* deadlines) {
        long due = recovery_due_ms(*relay);
        if (due == 0) {
            Look look = run_recovery(relay);
            due = recovery_due_ms(*relay);
            if (look != Look::Done) due = kLockedRetryMs;
        }
        deadlines->at_most(due);
    }

    void maintain(Deadlines* deadlines) {
        TimestampTz now = timer_now();
        if (maintain_due_ == 0 || now >= maintain_due_) {
            long again = maintain_segments();
            maintain_due_ = again < 0
                                ? DT_NOEND
                                : TimestampTzPlusMilliseconds(now, Max(again, kMaintainIntervalMs));
            maintained_watermark_ = relay->progress.watermark;
        } else if (relay->progress.watermark != maintained_watermark_ || relay->progress_changed) {
            // Something moved: look again, but not more often than once in the interval.
            TimestampTz soon = TimestampTzPlusMilliseconds(now, kMaintainIntervalMs);
            if (soon < maintain_due_) maintain_due_ = soon;
            maintained_watermark_ = relay->progress.watermark;
        }
        if (maintain_due_ != DT_NOEND) deadlines->at_most(until(maintain_due_));
    }

    void save(Deadlines* deadlines) {
        if (!relay->progress_changed && relay->removal_count == 0) return;
        TimestampTz due = TimestampTzPlusMilliseconds(relay->progress_saved_at, kSaveIntervalMs);
        if (timer_now() >= due) {
            save_if_changed();
        } else {
            deadlines->at_most(until(due));
        }
    }

    bool resting_ = true;  // the first look decides
    bool log_due_ = true;  // something may have been committed
    bool was_ready_ = false;
    TimestampTz gaps_due_ = DT_NOEND;
    Look look_ = Look::Done;
    instr_time last_pass_ = {};
    TimestampTz maintain_due_ = 0;
    int64 maintained_watermark_ = 0;
};

// An error ends the process; its words go to outbox.status first.
void run_loop() {
    Loop loop;
    MemoryContext context = CurrentMemoryContext;
    PG_TRY();
    { loop.run(); }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        ErrorData* error = CopyErrorData();
        set_last_error(relay->slot, error->message);
        SpinLockAcquire(&relay->slot->mutex);
        relay->slot->state = RelayState::Failed;
        SpinLockRelease(&relay->slot->mutex);
        PG_RE_THROW();
    }
    PG_END_TRY();
}

void connect(Oid database) {
    // What was set before this is seen by the new session.
    (void)session_settings_changed();
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    pin_session_settings();
    StartTransactionCommand();
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    database_settings = read_database_settings();
    database_name = get_database_name(MyDatabaseId);
    bool present = OidIsValid(get_extension_oid("outbox", true));
    MemoryContextSwitchTo(caller);
    CommitTransactionCommand();
    if (present) return;
    set_end(RelayEnd::Absent);
    proc_exit(0);
}

// This process is a superuser's, and statements run what has been attached to their tables.
void act_as_owner(const Schema& schema) {
    SetUserIdAndSecContext(acting_role(schema),
                           SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

// Deferred triggers have fired by now, with the owner's rights. After an error the server does
// this.
void act_as_superuser_again(XactEvent event, void*) {
    if (event == XACT_EVENT_COMMIT) SetUserIdAndSecContext(GetSessionUserId(), 0);
}

void initialize() {
    RegisterXactCallback(act_as_superuser_again, nullptr);
    relay->scratch =
        AllocSetContextCreate(TopMemoryContext, "outbox relay turn", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    relay->sink.init();
    relay->gaps.init();
    relay->topics.init();
    relay->parked_keys.init();
    relay->in_flight.init(settings.max_in_flight_messages);
    MemoryContextSwitchTo(caller);
}

// There is no statement of a user's to cancel; but lock_timeout ends a wait by this signal too.
void on_cancel(SIGNAL_ARGS) {
    if (get_timeout_indicator(LOCK_TIMEOUT, false)) StatementCancelHandler(postgres_signal_arg);
}

}  // namespace

Look enter(const Relay& relay, Schema* schema) {
    switch (enter_schema(schema)) {
        case Entry::Absent:
            return Look::Absent;
        case Entry::Locked:
            return Look::Locked;
        case Entry::Entered:
            break;
    }
    bool same = !OidIsValid(relay.extension) || relay.extension == schema->extension;
    if (!same) return Look::Replaced;
    act_as_owner(*schema);
    return Look::Done;
}

}  // namespace outbox

void outbox_relay_main(Datum argument) {
    using namespace outbox;
    // A request to stop is a flag that the loop looks at, so that progress is saved; nothing here
    // waits in a way that would need to be broken off.
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGINT, on_cancel);
    BackgroundWorkerUnblockSignals();

    static Relay instance;
    relay = &instance;
    RelayArgument wanted;
    memcpy(&wanted, MyBgworkerEntry->bgw_extra, sizeof(wanted));
    if (!attach(DatumGetUInt32(argument), wanted)) proc_exit(0);
    if (is_held(wanted.database)) {
        set_end(RelayEnd::Asked);
        proc_exit(0);
    }
    connect(wanted.database);
    initialize();
    run_loop();
}
