// outbox.wait_for_delivery(). Session's backend.
#include "pg/postgres.hpp"
#include "session/as_owner.hpp"
#include "session/relay_view.hpp"
#include "shared/timer.hpp"
#include "storage/backlog.hpp"

namespace outbox {

namespace {

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
        if (!slot) {
            wake_relay(MyDatabaseId);
            (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20,
                            compat::wait_event("OutboxWaitForDelivery"));
            ResetLatch(MyLatch);
            continue;
        }
        pg_atomic_fetch_add_u32(&slot->waiters, 1);
        PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(slot));
        {
            // Not before it is known that somebody waits: then the relay tells what it sees.
            wake_relay(MyDatabaseId);
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
