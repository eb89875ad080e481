// What operators and monitoring call: status, waiting, pausing, resuming, discarding. Session's
// backend.
#include "pg/postgres.hpp"
#include "session/as_owner.hpp"
#include "session/backlog_limit.hpp"
#include "session/commit.hpp"
#include "settings.hpp"
#include "shared/shared_state.hpp"
#include "shared/timer.hpp"
#include "storage/backlog.hpp"
#include "storage/deferred.hpp"
#include "storage/identity.hpp"
#include "storage/progress.hpp"
#include "storage/spi.hpp"

namespace outbox {

namespace {

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
    int64 first_in_flight;
    uint64 snapshots;
    TimestampTz last_error_at;
    char last_error[kErrorLength];
    char sink_name[kNameLength];
    char sink_statistics[kStatisticsLength];
    uint32 active_segment;
};

bool is_working(RelayState state) {
    return state == RelayState::Connecting || state == RelayState::Running ||
           state == RelayState::Waiting;
}

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
    view.first_in_flight = slot->first_in_flight;
    view.snapshots = slot->snapshots;
    view.last_error_at = slot->last_error_at;
    memcpy(view.last_error, slot->last_error, sizeof(view.last_error));
    memcpy(view.sink_name, slot->sink_name, sizeof(view.sink_name));
    memcpy(view.sink_statistics, slot->sink_statistics, sizeof(view.sink_statistics));
    SpinLockRelease(&slot->mutex);
    view.active_segment = pg_atomic_read_u32(&slot->active_segment);
    view.working = view.relay_pid != 0 && is_working(view.state) && view.snapshots > 0;
    return view;
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

// When the backlog reaches its limit if it goes on growing as it does; false: never, or not known.
bool limit_reached_at(int64 bytes, int64 limit, double growth, Datum* moment) {
    constexpr double kTooFar = 100.0 * 365 * SECS_PER_DAY;
    *moment = static_cast<Datum>(0);
    if (limit == 0) return false;
    double seconds = bytes >= limit ? 0 : growth > 0 ? (limit - bytes) / growth : kTooFar;
    if (seconds >= kTooFar) return false;
    *moment = TimestampTzGetDatum(GetCurrentTimestamp() +
                                  static_cast<TimestampTz>(seconds * USECS_PER_SEC));
    return true;
}

int64 wait_deadline_ms(Interval* timeout) {
    double milliseconds =
        static_cast<double>(timeout->time) / 1000.0 +
        (static_cast<double>(timeout->day) + 30.0 * timeout->month) * SECS_PER_DAY * 1000.0;
    if (milliseconds < 0) {
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("timeout must not be negative")));
    }
    return milliseconds > 1e15 ? INT64CONST(1000000000000000) : static_cast<int64>(milliseconds);
}

// A relay at work has looked at the log since, has read up to `last`, and nothing up to there is on
// its way.
bool is_delivered(const SlotView& view, uint64 snapshots, int64 last) {
    return view.working && view.snapshots > snapshots + 1 && view.watermark >= last &&
           view.first_in_flight > last;
}

void stop_waiting(int, Datum slot) {
    pg_atomic_fetch_sub_u32(&reinterpret_cast<RelaySlot*>(DatumGetPointer(slot))->waiters, 1);
}

}  // namespace

}  // namespace outbox

using namespace outbox;

// outbox.relay_status(): behind the view status.
OUTBOX_SQL_FUNCTION(outbox_relay_status) {
    enum {
        kState,
        kBacklog,
        kBacklogBytes,
        kBacklogLimit,
        kLimitReachedAt,
        kOldest,
        kDelivered,
        kDeferred,
        kParked,
        kLastError,
        kLastErrorAt,
        kRelayPid,
        kSinkPid,
        kSink,
        kSinkStatistics,
        kWatermark,
        kActiveSegment,
        kColumns
    };
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "not a row type");
    shape = BlessTupleDesc(shape);
    Schema schema = required_schema();
    AsOwner owner(AsOwner::Access::Reads);
    PushActiveSnapshot(GetLatestSnapshot());
    int64 last = last_position(schema.sequence);
    Progress progress = load_progress();
    SlotView view = look_at_slot();
    if (!view.working) {
        view.watermark = progress.watermark;
        view.delivered = progress.delivered;
        view.deferred = progress.deferred;
        view.parked = count_parked();
        view.unsettled = 0;
        for (int i = 0; i < progress.unsettled_count; ++i) {
            view.unsettled += progress.unsettled[i].to - progress.unsettled[i].from + 1;
        }
    }
    int64 backlog = Max(last - view.watermark, INT64CONST(0)) + view.unsettled + view.deferred;
    Row oldest;
    TimestampTz oldest_time = 0;
    bool has_oldest =
        backlog > 0 && first_unsettled(schema, GetActiveSnapshot(), progress, &oldest);
    if (has_oldest) oldest_time = oldest.time;
    int64 deferred_position;
    TimestampTz deferred_time;
    if (backlog > 0 && view.deferred > 0 && oldest_deferred(&deferred_position, &deferred_time)) {
        oldest_time = has_oldest ? Min(oldest_time, deferred_time) : deferred_time;
        has_oldest = true;
    }
    double growth;
    int64 bytes = measure_backlog(schema, &growth);
    PopActiveSnapshot();
    owner.end();

    int64 limit = static_cast<int64>(settings.backlog_limit_kb) * 1024;
    Datum values[kColumns];
    bool nulls[kColumns] = {};
    values[kBacklogBytes] = Int64GetDatum(bytes);
    values[kBacklogLimit] = Int64GetDatum(limit);
    nulls[kBacklogLimit] = limit == 0;
    nulls[kLimitReachedAt] = !limit_reached_at(bytes, limit, growth, &values[kLimitReachedAt]);
    values[kState] = CStringGetTextDatum(relay_state_name(view.state));
    values[kBacklog] = Int64GetDatum(backlog);
    values[kOldest] = TimestampTzGetDatum(oldest_time);
    nulls[kOldest] = !has_oldest;
    values[kDelivered] = Int64GetDatum(view.delivered);
    values[kDeferred] = Int64GetDatum(view.deferred);
    values[kParked] = Int64GetDatum(view.parked);
    values[kLastError] = CStringGetTextDatum(view.last_error);
    values[kLastErrorAt] = TimestampTzGetDatum(view.last_error_at);
    nulls[kLastError] = nulls[kLastErrorAt] = view.last_error[0] == '\0';
    values[kRelayPid] = Int32GetDatum(view.relay_pid);
    nulls[kRelayPid] = view.relay_pid == 0;
    values[kSinkPid] = Int32GetDatum(view.sink_pid);
    nulls[kSinkPid] = view.sink_pid == 0;
    values[kSink] = CStringGetTextDatum(view.sink_name);
    nulls[kSink] = view.sink_name[0] == '\0';
    nulls[kSinkStatistics] = view.sink_statistics[0] == '\0';
    values[kSinkStatistics] =
        nulls[kSinkStatistics]
            ? static_cast<Datum>(0)
            : DirectFunctionCall1(jsonb_in, CStringGetDatum(view.sink_statistics));
    values[kWatermark] = Int64GetDatum(view.watermark);
    values[kActiveSegment] = Int32GetDatum(static_cast<int32>(view.active_segment) + 1);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(shape, values, nulls)));
}

// outbox.wait_for_delivery(timeout interval) returns boolean.
OUTBOX_SQL_FUNCTION(outbox_wait_for_delivery) {
    int64 timeout_ms = PG_ARGISNULL(0) ? -1 : wait_deadline_ms(PG_GETARG_INTERVAL_P(0));
    TimestampTz deadline =
        timeout_ms < 0 ? DT_NOEND : TimestampTzPlusMilliseconds(timer_now(), timeout_ms);
    Schema schema = required_schema();
    if (!shared) {
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("outbox is not loaded by the server"),
                        errhint("Add outbox to shared_preload_libraries and restart the server.")));
    }
    AsOwner owner(AsOwner::Access::Reads);
    int64 last = last_position(schema.sequence);
    owner.end();

    bool delivered = last == 0;
    RelaySlot* slot = nullptr;
    uint64 snapshots = 0;
    while (!delivered && timer_now() < deadline) {
        CHECK_FOR_INTERRUPTS();
        // A relay may come, go, and come again meanwhile; each counts its looks anew.
        if (!slot || find_slot(MyDatabaseId) != slot) {
            slot = find_slot(MyDatabaseId);
            snapshots = look_at_slot().snapshots;
        }
        wake_relay(MyDatabaseId);
        if (!slot) {
            (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20,
                            compat::wait_event("OutboxWaitForDelivery"));
            ResetLatch(MyLatch);
            continue;
        }
        pg_atomic_fetch_add_u32(&slot->waiters, 1);
        PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(slot));
        {
            for (;;) {
                SlotView view = look_at_slot();
                if (view.snapshots < snapshots) snapshots = 0;
                delivered = is_delivered(view, snapshots, last);
                long rest = deadline == DT_NOEND
                                ? 1000
                                : TimestampDifferenceMilliseconds(timer_now(), deadline);
                if (delivered || rest <= 0 || find_slot(MyDatabaseId) != slot) break;
                (void)ConditionVariableTimedSleep(&slot->progressed, Min(rest, 1000L),
                                                  compat::wait_event("OutboxWaitForDelivery"));
                // One look is what it takes; what is in flight comes back by itself.
                if (view.snapshots <= snapshots + 1) wake_relay(MyDatabaseId);
            }
            ConditionVariableCancelSleep();
        }
        PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(slot));
        stop_waiting(0, PointerGetDatum(slot));
    }
    PG_RETURN_BOOL(delivered);
}

// outbox.pause()
OUTBOX_SQL_FUNCTION(outbox_pause) {
    Schema schema = required_schema();
    AsOwner owner;
    PushActiveSnapshot(GetLatestSnapshot());
    Standing standing = read_standing(schema, GetActiveSnapshot());
    PopActiveSnapshot();
    if (standing == Standing::Foreign) {
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("the relay rests already: these messages were written by another server or "
                    "database"),
             errhint("outbox.resume() publishes them, outbox.discard_backlog() gives them up.")));
    }
    adopt(true);
    owner.end();
    wake_relay_at_end();
    PG_RETURN_VOID();
}

// outbox.resume()
OUTBOX_SQL_FUNCTION(outbox_resume) {
    (void)required_schema();
    AsOwner owner;
    adopt(false);
    owner.end();
    wake_relay_at_end();
    PG_RETURN_VOID();
}

// outbox.discard_backlog() returns bigint
OUTBOX_SQL_FUNCTION(outbox_discard_backlog) {
    Schema schema = required_schema();
    AsOwner owner;
    int64 last = last_position(schema.sequence);
    PushActiveSnapshot(GetLatestSnapshot());
    Standing standing = read_standing(schema, GetActiveSnapshot());
    SlotView view = look_at_slot();
    bool rests = view.relay_pid == 0 || view.state == RelayState::Paused ||
                 view.state == RelayState::Foreign || view.state == RelayState::Disabled;
    if ((standing != Standing::Paused && standing != Standing::Foreign) || !rests) {
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("the backlog can be discarded only while the relay rests"),
                 errdetail("Its state is \"%s\".", relay_state_name(view.state)),
                 errhint("Call outbox.pause(), commit, and wait until outbox.status shows it.")));
    }
    Progress progress = load_progress();
    int64 discarded =
        settle_visible(schema, GetActiveSnapshot(), last, &progress) + progress.deferred;
    spi_begin();
    spi_execute("DELETE FROM outbox.deferred WHERE state <> 'parked'", SPI_OK_DELETE);
    spi_end();
    progress.deferred = 0;
    save_progress(schema, &progress);
    PopActiveSnapshot();
    owner.end();
    wake_relay_at_end();
    PG_RETURN_INT64(discarded);
}
