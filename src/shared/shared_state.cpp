// Sets up the shared memory and offers the few operations on it that several processes use. Any
// process.
#include "shared/shared_state.hpp"

#include "protocol/reports.hpp"
#include "settings.hpp"

namespace outbox {

SharedState* shared = nullptr;

namespace {

shmem_request_hook_type previous_request_hook = nullptr;
shmem_startup_hook_type previous_startup_hook = nullptr;
const char* const kTranche = "outbox";

Size shared_size() {
    return add_size(offsetof(SharedState, slots),
                    mul_size(settings.max_databases, sizeof(RelaySlot)));
}

void request_memory() {
    if (previous_request_hook) previous_request_hook();
    RequestAddinShmemSpace(shared_size());
    RequestNamedLWLockTranche(kTranche, 1);
}

void start_up() {
    if (previous_startup_hook) previous_startup_hook();
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    bool found = false;
    shared = static_cast<SharedState*>(ShmemInitStruct("outbox", shared_size(), &found));
    if (!found) {
        memset(static_cast<void*>(shared), 0, shared_size());
        shared->lock = &GetNamedLWLockTranche(kTranche)->lock;
        shared->slot_count = settings.max_databases;
        for (int i = 0; i < shared->slot_count; ++i) {
            RelaySlot* slot = &shared->slots[i];
            SpinLockInit(&slot->mutex);
            slot->first_in_flight = PG_INT64_MAX;
            slot->backlog.init();
            pg_atomic_init_u32(&slot->active_segment, 0);
            pg_atomic_init_u32(&slot->identified, 0);
            pg_atomic_init_u32(&slot->settings_changed, 0);
            pg_atomic_init_u32(&slot->committed, 0);
            pg_atomic_init_u32(&slot->listening, 0);
            pg_atomic_init_u32(&slot->parked_changed, 0);
            pg_atomic_init_u32(&slot->waiters, 0);
            ConditionVariableInit(&slot->progressed);
        }
    }
    LWLockRelease(AddinShmemInitLock);
}

}  // namespace

void install_shared_memory() {
    previous_request_hook = shmem_request_hook;
    shmem_request_hook = request_memory;
    previous_startup_hook = shmem_startup_hook;
    shmem_startup_hook = start_up;
}

const char* relay_state_name(RelayState state) {
    switch (state) {
        case RelayState::Stopped:
            return "stopped";
        case RelayState::Starting:
            return "starting";
        case RelayState::Connecting:
            return "connecting";
        case RelayState::Running:
            return "running";
        case RelayState::Waiting:
            return "waiting";
        case RelayState::Paused:
            return "paused";
        case RelayState::Foreign:
            return "foreign";
        case RelayState::Disabled:
            return "disabled";
        case RelayState::Failed:
            return "failed";
    }
    return "unknown";
}

// Reads `database` without the lock: an Oid is read in one piece, and a slot that changes hands
// meanwhile costs a wake-up too many or is found by the next look.
RelaySlot* find_slot(Oid database) {
    static int last = 0;
    if (!shared || database == InvalidOid) return nullptr;
    if (last < shared->slot_count && shared->slots[last].database == database)
        return &shared->slots[last];
    for (int i = 0; i < shared->slot_count; ++i) {
        if (shared->slots[i].database == database) {
            last = i;
            return &shared->slots[i];
        }
    }
    return nullptr;
}

int64 positions_taken(Oid database, Oid sequence) {
    RelaySlot* slot = find_slot(database);
    if (!slot) return 0;
    SpinLockAcquire(&slot->mutex);
    int64 read = slot->sequence == sequence ? slot->watermark : 0;
    int64 taken = slot->taken_from == sequence ? slot->taken : 0;
    SpinLockRelease(&slot->mutex);
    return Max(read, taken);
}

void note_positions_taken(Oid database, Oid sequence, int64 last) {
    RelaySlot* slot = find_slot(database);
    if (!slot) return;
    SpinLockAcquire(&slot->mutex);
    if (slot->taken_from != sequence || slot->taken < last) slot->taken = last;
    slot->taken_from = sequence;
    SpinLockRelease(&slot->mutex);
}

void request_relay(Oid database) {
    if (!shared) return;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    bool known = database == InvalidOid;
    for (int i = 0; i < shared->request_count && !known; ++i)
        known = shared->requests[i] == database;
    if (database == InvalidOid || (!known && shared->request_count == kMaxRequests)) {
        shared->requests_lost = true;
    } else if (!known) {
        shared->requests[shared->request_count++] = database;
    }
    Latch* launcher = shared->launcher_latch;
    LWLockRelease(shared->lock);
    if (launcher) SetLatch(launcher);
}

namespace {

// Without the mutex: the latch stays valid memory for ever, and a relay that has just left looks at
// the log when it starts.
void set_latch_of(RelaySlot* slot) {
    Latch* latch = *const_cast<Latch* volatile*>(&slot->latch);
    if (latch) SetLatch(latch);
}

}  // namespace

void wake_relay(Oid database) {
    RelaySlot* slot = find_slot(database);
    // A slot without a process is on the launcher's list already.
    if (slot)
        set_latch_of(slot);
    else
        request_relay(database);
}

void announce_commit(Oid database) {
    RelaySlot* slot = find_slot(database);
    if (!slot) {
        request_relay(database);
        return;
    }
    // The relay does it the other way round: says that it listens, then looks whether something was
    // committed. One of the two sees the other.
    pg_atomic_write_u32(&slot->committed, 1);
    pg_memory_barrier();
    if (pg_atomic_read_u32(&slot->listening) == 0) return;
    // The first of many wakes it for all of them: waking is a signal, which costs more than the
    // rest of a small commit.
    if (pg_atomic_exchange_u32(&slot->listening, 0) != 0) set_latch_of(slot);
}

void begin_look_at_commits(RelaySlot* slot) {
    (void)pg_atomic_exchange_u32(&slot->committed, 0);
}

bool listen_for_commits(RelaySlot* slot) {
    pg_atomic_write_u32(&slot->listening, 1);
    pg_memory_barrier();
    if (pg_atomic_read_u32(&slot->committed) == 0) return true;
    stop_listening(slot);
    return false;
}

void stop_listening(RelaySlot* slot) {
    pg_atomic_write_u32(&slot->listening, 0);
}

void announce_parked_changed() {
    RelaySlot* slot = shared ? find_slot(MyDatabaseId) : nullptr;
    if (slot) pg_atomic_write_u32(&slot->parked_changed, 1);
}

void announce_settings(Oid database) {
    if (!shared) return;
    for (int i = 0; i < shared->slot_count; ++i) {
        RelaySlot* slot = &shared->slots[i];
        if (!OidIsValid(slot->database) || (OidIsValid(database) && slot->database != database))
            continue;
        pg_atomic_write_u32(&slot->settings_changed, 1);
        wake_relay(slot->database);
    }
}

bool is_held(Oid database) {
    bool held = false;
    LWLockAcquire(shared->lock, LW_SHARED);
    for (const Hold& hold : shared->holds)
        held = held || hold.database == database;
    LWLockRelease(shared->lock);
    return held;
}

void note_first_position(int64 position) {
    RelaySlot* slot = find_slot(MyDatabaseId);
    if (!shared || (slot && pg_atomic_read_u32(&slot->identified) == 1)) return;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    Newcomer* place = nullptr;
    for (Newcomer& newcomer : shared->newcomers) {
        if (newcomer.database == MyDatabaseId) {
            place = &newcomer;
            break;
        }
        if (!place && !OidIsValid(newcomer.database)) place = &newcomer;
    }
    if (place && place->database != MyDatabaseId) *place = Newcomer{MyDatabaseId, position};
    if (place && position < place->first_position) place->first_position = position;
    LWLockRelease(shared->lock);
}

int64 first_noted_position() {
    int64 position = PG_INT64_MAX;
    LWLockAcquire(shared->lock, LW_SHARED);
    for (const Newcomer& newcomer : shared->newcomers) {
        if (newcomer.database == MyDatabaseId) position = newcomer.first_position;
    }
    LWLockRelease(shared->lock);
    return position;
}

void set_identified(RelaySlot* slot, bool identified) {
    pg_atomic_write_u32(&slot->identified, identified ? 1 : 0);
    if (!identified) return;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (Newcomer& newcomer : shared->newcomers) {
        if (newcomer.database == MyDatabaseId) newcomer = Newcomer{InvalidOid, 0};
    }
    LWLockRelease(shared->lock);
}

void set_last_error(RelaySlot* slot, const char* text) {
    TimestampTz now = GetCurrentTimestamp();
    char line[kErrorLength];
    size_t length =
        protocol::copy_plain({text, static_cast<uint32>(strlen(text))}, line, sizeof(line));
    SpinLockAcquire(&slot->mutex);
    memcpy(slot->last_error, line, length + 1);
    slot->last_error_at = now;
    SpinLockRelease(&slot->mutex);
}

}  // namespace outbox
