// A relay takes its slot in shared memory, and gives it back. Relay process.
#include "worker/relay_slot.hpp"

namespace outbox {

namespace {

void detach(int, Datum argument) {
    RelaySlot* slot = &shared->slots[DatumGetUInt32(argument)];
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

}  // namespace

RelaySlot* attach_slot(uint32 index, const RelayArgument& argument) {
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
            slot->open_range_count = 0;
            stop_listening(slot);
            taken = true;
        }
        SpinLockRelease(&slot->mutex);
    }
    LWLockRelease(shared->lock);
    // Not before_shmem_exit: whoever waits for this relay to leave wants it out of the database's
    // list of processes, and that happens after those callbacks and before this one.
    if (taken) on_shmem_exit(detach, UInt32GetDatum(index));
    return taken ? slot : nullptr;
}

void set_end(RelaySlot* slot, RelayEnd end) {
    SpinLockAcquire(&slot->mutex);
    slot->end = end;
    SpinLockRelease(&slot->mutex);
}

bool asked_to_leave(RelaySlot* slot) {
    SpinLockAcquire(&slot->mutex);
    bool leave = slot->leave;
    SpinLockRelease(&slot->mutex);
    return leave;
}

bool session_settings_changed(RelaySlot* slot) {
    return pg_atomic_exchange_u32(&slot->settings_changed, 0) != 0;
}

}  // namespace outbox
