// outbox.relay_status(), behind the view status. Session's backend.
#include "pg/postgres.hpp"
#include "session/as_owner.hpp"
#include "session/backlog_limit.hpp"
#include "session/relay_view.hpp"
#include "settings.hpp"
#include "storage/backlog.hpp"
#include "storage/deferred.hpp"
#include "storage/progress.hpp"

namespace outbox {

namespace {

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
    } else {
        view.unsettled += messages_in_open_ranges(view, schema, GetActiveSnapshot());
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
