// The loop of a relay. Relay process.
//
// One turn: settings, reports of the sink, a pass over the log, topics in trouble, segments,
// progress, then wait for {latch, socket, next deadline}. Between the turns no transaction is open,
// nothing is locked and no snapshot is held; it never waits for a lock that others hold. An error
// ends the process; the launcher starts another, which begins from the saved progress.
#include "fault_point.hpp"
#include "settings.hpp"
#include "shared/timer.hpp"
#include "worker/pace.hpp"
#include "worker/relay_settings.hpp"
#include "worker/relay_slot.hpp"
#include "worker/sink_life.hpp"

namespace outbox {

namespace {

constexpr int kSaveIntervalMs = 50;
// Frames beyond this wait for the sink to read before more are made.
constexpr size_t kMostUnwritten = 1 << 20;
// How long a sink may finish where a command waits for the database; otherwise
// outbox.stop_timeout.
constexpr int kDrainForHoldMs = 1000;
constexpr long kLockedRetryMs = 50;
constexpr long kMaintainIntervalMs = 200;

long maintain_segments(Relay* relay) {
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

void start_ring(Relay* relay) {
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

[[noreturn]] void leave(Relay* relay, RelayEnd end, int drain_ms = settings.stop_timeout_ms) {
    drain_sink(relay, drain_ms);
    OUTBOX_FAULT_POINT("relay-leaving-drained");
    save_if_changed(relay);
    OUTBOX_FAULT_POINT("relay-leaving-saved");
    set_end(relay->slot, end);
    proc_exit(0);
}

void handle_reload(Relay* relay) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    StartTransactionCommand();
    char* now = read_database_settings();
    bool changed = strcmp(now, relay->database_settings) != 0;
    CommitTransactionCommand();
    if (changed) leave(relay, RelayEnd::Asked);
    char* signature = current_sink_signature();
    if (relay->sink.running() && strcmp(signature, relay->sink_signature) != 0)
        drain_sink(relay, settings.stop_timeout_ms);
    // Whatever it could not work with may have been mended.
    relay->sink_backoff.reset();
    relay->nonsense_backoff.reset();
    relay->sink_ends = 0;
    relay->sink_due = 0;
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

class Loop {
  public:
    explicit Loop(Relay* relay) : relay_(relay) {}

    void run() {
        watch_sink(relay_);
        for (;;) {
            MemoryContextSwitchTo(relay_->scratch);
            MemoryContextReset(relay_->scratch);
            ResetLatch(MyLatch);
            CHECK_FOR_INTERRUPTS();
            // While there is always more to send, the wait below, which would notice, is never
            // reached.
            if (!PostmasterIsAlive()) proc_exit(1);
            if (session_settings_changed(relay_->slot)) leave(relay_, RelayEnd::Asked);
            if (ConfigReloadPending) handle_reload(relay_);
            if (ShutdownRequestPending) leave(relay_, RelayEnd::Error);
            // Somebody waits for the database: a command of an operator, or of a test suite.
            if (asked_to_leave(relay_->slot) || is_held(MyDatabaseId))
                leave(relay_, RelayEnd::Asked, kDrainForHoldMs);
            Deadlines deadlines;
            if (settings.enabled) {
                turn(&deadlines);
            } else {
                if (look_only(relay_) == Look::Absent) leave(relay_, RelayEnd::Absent);
                rest(RelayState::Disabled);
            }
            if (deadlines.next == 0) {
                // The latch is reset before the next turn without anybody having looked at it.
                log_due_ = true;
                continue;
            }
            pgstat_report_stat(true);
            sleep(deadlines.next);
        }
    }

  private:
    // Only what can be sent now is worth being woken for; whatever makes more possible (an answer,
    // an operator) brings us back itself.
    bool wants_commits() const { return !resting_ && was_ready_ && has_room(); }

    bool has_room() const {
        return sink_has_room(*relay_, 0) && relay_->sink.unwritten() < kMostUnwritten;
    }

    bool awaited() const { return pg_atomic_read_u32(&relay_->slot->waiters) > 0; }

    // Waits until the next pass is due. False: something else is to be done before.
    bool keep_pace() {
        int64 rest = pace_.rest_us(timer_now());
        if (rest < Pace::kShortestUs) {
            if (rest > 0) pg_usleep(static_cast<long>(rest));
            return true;
        }
        long rest_ms = static_cast<long>((rest + 500) / 1000);
        // A sink that has not taken everything yet is fed meanwhile; otherwise what it says can
        // wait: its reports gather, and wake nobody. Whoever sets the latch now (an operator, a
        // session in wait_for_delivery(), a signal) wants more than to tell of a commit.
        bool feeding = relay_->sink.unwritten() > 0;
        bool woken =
            feeding ? wait_for_events(relay_, rest_ms) : EventWait::wait_for_latch(rest_ms);
        if (woken) log_due_ = true;
        return !woken && !feeding;
    }

    void sleep(long timeout_ms) {
        RelaySlot* slot = relay_->slot;
        bool listening = wants_commits();
        if (listening) {
            // Before listening: who commits meanwhile need not wake anybody.
            if (pace_.caught_up() && !awaited() && !keep_pace()) return;
            if (!listen_for_commits(slot)) {
                log_due_ = true;
                return;
            }
        }
        if (wait_for_events(relay_, timeout_ms)) log_due_ = true;
        if (listening) stop_listening(slot);
    }

    void rest(RelayState state) {
        drain_sink(relay_, settings.stop_timeout_ms);
        save_if_changed(relay_);
        set_resting(state);
        resting_ = true;
    }

    void set_resting(RelayState state) {
        RelaySlot* slot = relay_->slot;
        SpinLockAcquire(&slot->mutex);
        slot->state = state;
        slot->sink_pid = relay_->sink.pid();
        slot->healthy_since = 0;
        SpinLockRelease(&slot->mutex);
    }

    void turn(Deadlines* deadlines) {
        if (resting_) {
            Look look = look_while_resting(relay_);
            if (look == Look::Absent) leave(relay_, RelayEnd::Absent);
            if (look == Look::Replaced) leave(relay_, RelayEnd::Asked);
            if (look == Look::Locked) {
                set_identified(relay_->slot, relay_->standing != Standing::Foreign);
                deadlines->at_most(kLockedRetryMs);
                return;
            }
            if (look == Look::Resting) {
                set_resting(relay_->standing == Standing::Paused ? RelayState::Paused
                                                                 : RelayState::Foreign);
                set_identified(relay_->slot, relay_->standing == Standing::Paused);
                return;
            }
            resting_ = false;
            relay_->slot->backlog.forget();
            set_identified(relay_->slot, true);
            start_ring(relay_);
        }
        if (!keep_sink(deadlines)) return;
        if (!read_log(deadlines)) return;
        recover(deadlines);
        if (!relay_->sink.flush()) deadlines->at_most(0);
        maintain(deadlines);
        save(deadlines);
        publish_status(relay_);
    }

    // Sees to it that a sink is there and hears what it says. False: the turn is over.
    bool keep_sink(Deadlines* deadlines) {
        if (relay_->sink.running()) {
            bool there = relay_->sink.flush();
            Heard heard = handle_reports(relay_);
            if (heard == Heard::Nonsense) {
                drop_sink(relay_);
            } else if (!there || heard == Heard::Farewell) {
                sink_ended(relay_, false);
            }
        }
        if (!relay_->sink.running()) {
            long wait = until(relay_->sink_due);
            if (wait > 0) {
                // The extension may be dropped meanwhile, or the relay paused.
                publish_status(relay_);
                deadlines->at_most(wait);
            } else {
                start_sink(relay_);
            }
        }
        return true;
    }

    // Reads the log if that can be of use. False: the turn is over.
    bool read_log(Deadlines* deadlines) {
        bool ready = relay_->sink.state() == SinkProcess::State::Ready;
        bool room = has_room();
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
        if (look_ != Look::More) {
            int64 rest = pace_.shortest_rest_us(timer_now());
            if (rest > 0) pg_usleep(static_cast<long>(rest));
        }
        pace_.begin_pass(timer_now());
        begin_look_at_commits(relay_->slot);
        relay_->transactions_sent = relay_->messages_sent = 0;
        look_ = ready ? run_pass(relay_) : look_only(relay_);
        pace_.end_pass(relay_->transactions_sent, relay_->messages_sent,
                       ready && look_ == Look::Done);
        gaps_due_ = DT_NOEND;
        switch (look_) {
            case Look::Absent:
                leave(relay_, RelayEnd::Absent);
            case Look::Replaced:
                leave(relay_, RelayEnd::Asked);
            case Look::Resting:
                rest(relay_->standing == Standing::Paused ? RelayState::Paused
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
                if (ready && relay_->gaps.recheck_ms() >= 0) {
                    gaps_due_ = TimestampTzPlusMilliseconds(timer_now(), relay_->gaps.recheck_ms());
                    deadlines->at_most(until(gaps_due_));
                }
                break;
            case Look::Full:
                break;
        }
        return true;
    }

    void recover(Deadlines* deadlines) {
        long due = recovery_due_ms(*relay_);
        if (due == 0) {
            Look look = run_recovery(relay_);
            due = recovery_due_ms(*relay_);
            if (look != Look::Done) due = kLockedRetryMs;
        }
        deadlines->at_most(due);
    }

    void maintain(Deadlines* deadlines) {
        TimestampTz now = timer_now();
        if (maintain_due_ == 0 || now >= maintain_due_) {
            long again = maintain_segments(relay_);
            maintain_due_ = again < 0
                                ? DT_NOEND
                                : TimestampTzPlusMilliseconds(now, Max(again, kMaintainIntervalMs));
            maintained_watermark_ = relay_->progress.watermark;
        } else if (relay_->progress.watermark != maintained_watermark_ ||
                   relay_->progress_changed) {
            // Something moved: look again, but not more often than once in the interval.
            TimestampTz soon = TimestampTzPlusMilliseconds(now, kMaintainIntervalMs);
            if (soon < maintain_due_) maintain_due_ = soon;
            maintained_watermark_ = relay_->progress.watermark;
        }
        if (maintain_due_ != DT_NOEND) deadlines->at_most(until(maintain_due_));
    }

    void save(Deadlines* deadlines) {
        if (!relay_->progress_changed && relay_->removal_count == 0) return;
        TimestampTz due = TimestampTzPlusMilliseconds(relay_->progress_saved_at, kSaveIntervalMs);
        if (timer_now() >= due) {
            save_if_changed(relay_);
        } else {
            deadlines->at_most(until(due));
        }
    }

    Relay* relay_;
    bool resting_ = true;  // the first look decides
    bool log_due_ = true;  // something may have been committed
    bool was_ready_ = false;
    TimestampTz gaps_due_ = DT_NOEND;
    Look look_ = Look::Done;
    Pace pace_;
    TimestampTz maintain_due_ = 0;
    int64 maintained_watermark_ = 0;
};

}  // namespace

void run_loop(Relay* relay) {
    Loop loop(relay);
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

}  // namespace outbox
