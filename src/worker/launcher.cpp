// The launcher: keeps one relay running for each database that has the extension. Launcher process.
//
// It reads the list of databases and nothing else; whether a database has the extension only a
// relay started there can tell. The life of a slot, with the function that makes each step:
//
//   free --assign--> due --start--> started --(relay attaches, works, detaches)--> ended
//   --settle_end-->
//        due again (asked to leave: at once; error: after a pause), or free (no extension, no
//        database)
//
// What must be survived: the launcher's own death (relays go on; the next launcher finds the slots
// in shared memory), a relay that never comes up (start_timeout), a database that is dropped or
// held, no free worker slot (said once, tried again).
#include "worker/launcher.hpp"

#include "fault_point.hpp"
#include "settings.hpp"
#include "shared/shared_state.hpp"
#include "shared/timer.hpp"
#include "worker/backoff.hpp"
#include "worker/relay.hpp"

namespace outbox {

namespace {

// A relay that was running this long before it failed gets a fresh backoff.
constexpr int kHealthyMs = 60 * 1000;
// A started relay that has not attached by then never will: its fork failed or the postmaster is
// stopping.
constexpr int kStartTimeoutMs = 30 * 1000;
// Without any event, this often the launcher compares what is with what should be.
constexpr int kReconcileMs = 60 * 1000;

// What the launcher remembers about a slot besides what is in shared memory.
struct Track {
    bool started;  // a process was asked for and has not been seen to end
    TimestampTz started_at;
    TimestampTz due;  // when to start
    Backoff backoff{100, 60 * 1000};
    BackgroundWorkerHandle* handle;
};

Track* tracks = nullptr;
bool refused_before = false;  // no worker slot was free: said so already

List* pending_databases = NIL;  // wait for a free slot

struct SlotView {
    Oid database;
    uint32_t generation;
    pid_t pid;
    RelayEnd end;
    TimestampTz healthy_since;
};

SlotView look(int index) {
    RelaySlot* slot = &shared->slots[index];
    SlotView view;
    view.database = slot->database;
    view.generation = slot->generation;
    SpinLockAcquire(&slot->mutex);
    view.pid = slot->pid;
    view.end = slot->end;
    view.healthy_since = slot->healthy_since;
    SpinLockRelease(&slot->mutex);
    return view;
}

void detach_launcher(int, Datum) {
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    if (shared->launcher_pid == MyProcPid) {
        shared->launcher_latch = nullptr;
        shared->launcher_pid = 0;
    }
    LWLockRelease(shared->lock);
}

void attach_launcher() {
    before_shmem_exit(detach_launcher, 0);
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared->launcher_latch = MyLatch;
    shared->launcher_pid = MyProcPid;
    shared->requests_lost = true;  // look at every database once
    LWLockRelease(shared->lock);
}

// Oids of the databases that can be connected to, in the current memory context.
List* list_databases() {
    List* databases = NIL;
    MemoryContext caller = CurrentMemoryContext;
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    Relation relation = table_open(DatabaseRelationId, AccessShareLock);
    TableScanDesc scan = table_beginscan_catalog(relation, 0, nullptr);
    while (HeapTuple tuple = heap_getnext(scan, ForwardScanDirection)) {
        Form_pg_database database = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
        if (!database->datallowconn || compat::is_half_dropped(database)) continue;
        MemoryContext inner = MemoryContextSwitchTo(caller);
        databases = lappend_oid(databases, database->oid);
        MemoryContextSwitchTo(inner);
    }
    table_endscan(scan);
    table_close(relation, AccessShareLock);
    PopActiveSnapshot();
    CommitTransactionCommand();
    MemoryContextSwitchTo(caller);
    return databases;
}

bool exists(Oid database) {
    List* databases = list_databases();
    bool found = list_member_oid(databases, database);
    list_free(databases);
    return found;
}

int slot_of(Oid database) {
    for (int i = 0; i < shared->slot_count; ++i) {
        if (shared->slots[i].database == database) return i;
    }
    return -1;
}

void free_slot(int index) {
    RelaySlot* slot = &shared->slots[index];
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot->database = InvalidOid;
    ++slot->generation;
    LWLockRelease(shared->lock);
    tracks[index] = Track();
}

// Gives the database a slot, due now; false if all are taken.
bool assign(Oid database) {
    int index = slot_of(InvalidOid);
    if (index < 0) return false;
    RelaySlot* slot = &shared->slots[index];
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    SpinLockAcquire(&slot->mutex);
    slot->pid = 0;
    slot->latch = nullptr;
    slot->end = RelayEnd::Error;
    slot->leave = false;
    slot->state = RelayState::Stopped;
    slot->sink_pid = 0;
    slot->delivered = slot->deferred = slot->watermark = slot->unsettled = 0;
    slot->taken = 0;
    slot->taken_from = InvalidOid;
    slot->first_in_flight = PG_INT64_MAX;
    slot->snapshots = 0;
    slot->delivered_at = slot->last_error_at = slot->healthy_since = 0;
    slot->last_error[0] = slot->sink_name[0] = slot->sink_statistics[0] = '\0';
    SpinLockRelease(&slot->mutex);
    slot->backlog.forget();
    pg_atomic_write_u32(&slot->active_segment, 0);
    ++slot->generation;
    slot->database = database;
    LWLockRelease(shared->lock);
    tracks[index] = Track();
    OUTBOX_FAULT_POINT("launcher-after-assigning");
    return true;
}

// Takes the requests of sessions and turns them into slots, or into places in the queue for one.
void take_requests(bool reconcile) {
    Oid requests[kMaxRequests];
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    int count = shared->request_count;
    memcpy(requests, shared->requests, sizeof(Oid) * static_cast<size_t>(count));
    bool all = shared->requests_lost;
    shared->request_count = 0;
    shared->requests_lost = false;
    LWLockRelease(shared->lock);

    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    for (int i = 0; i < count; ++i)
        pending_databases = list_append_unique_oid(pending_databases, requests[i]);
    MemoryContextSwitchTo(caller);
    if (!all && !reconcile) return;

    // Known databases: those that were looked into. Only new ones are, unless all were asked for.
    static List* known = NIL;
    List* databases = list_databases();
    ListCell* cell;
    foreach (cell, databases) {
        Oid database = lfirst_oid(cell);
        if (!all && list_member_oid(known, database)) continue;
        caller = MemoryContextSwitchTo(TopMemoryContext);
        pending_databases = list_append_unique_oid(pending_databases, database);
        MemoryContextSwitchTo(caller);
    }
    list_free(known);
    caller = MemoryContextSwitchTo(TopMemoryContext);
    known = list_copy(databases);
    MemoryContextSwitchTo(caller);
}

bool all_at_work() {
    for (int i = 0; i < shared->slot_count; ++i) {
        if (look(i).healthy_since == 0) return false;
    }
    return true;
}

void assign_pending() {
    ListCell* cell;
    foreach (cell, pending_databases) {
        Oid database = lfirst_oid(cell);
        if (slot_of(database) < 0 && !assign(database)) {
            // Slots that only look whether the extension is there are free again soon.
            static bool said = false;
            if (!said && all_at_work()) {
                ereport(WARNING, (errmsg("outbox has no relay left for another database"),
                                  errhint("Raise outbox.max_databases and restart the server.")));
                said = true;
            }
            return;
        }
        pending_databases = foreach_delete_current(pending_databases, cell);
    }
}

void start(int index) {
    Oid database = shared->slots[index].database;
    BackgroundWorker worker = {};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_notify_pid = MyProcPid;
    worker.bgw_main_arg = UInt32GetDatum(static_cast<uint32>(index));
    snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "outbox");
    snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "outbox_relay_main");
    snprintf(worker.bgw_name, sizeof(worker.bgw_name), "outbox relay for database %u", database);
    snprintf(worker.bgw_type, sizeof(worker.bgw_type), "outbox relay");
    RelayArgument argument = {shared->slots[index].generation, database};
    memcpy(worker.bgw_extra, &argument, sizeof(argument));

    Track& track = tracks[index];
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    OUTBOX_FAULT_POINT("launcher-before-registering");
    bool registered = RegisterDynamicBackgroundWorker(&worker, &track.handle);
    OUTBOX_FAULT_POINT("launcher-after-registering");
    MemoryContextSwitchTo(caller);
    track.started = registered;
    track.started_at = timer_now();
    if (registered) {
        refused_before = false;
        return;
    }
    track.due = TimestampTzPlusMilliseconds(track.started_at, track.backoff.next_ms());
    if (refused_before) return;
    refused_before = true;
    ereport(WARNING,
            (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
             errmsg("outbox cannot start a relay: no background worker slot is free"),
             errhint("Raise max_worker_processes; outbox takes one, and one more for each database "
                     "that has the extension.")));
}

// The process of a slot has ended: decide what becomes of the slot.
void settle_end(int index, const SlotView& view) {
    OUTBOX_FAULT_POINT("launcher-settling-an-end");
    Track& track = tracks[index];
    TimestampTz now = timer_now();
    track.started = false;
    if (track.handle) {
        pfree(track.handle);
        track.handle = nullptr;
    }
    if (view.end == RelayEnd::Absent) {
        free_slot(index);
        return;
    }
    if (view.end == RelayEnd::Asked) {
        track.backoff.reset();
        track.due = now;
        return;
    }
    if (view.healthy_since != 0 &&
        TimestampDifferenceExceeds(view.healthy_since, now, kHealthyMs)) {
        track.backoff.reset();
    }
    track.due = TimestampTzPlusMilliseconds(now, track.backoff.next_ms());
}

// Whether the process that was asked for is gone without a trace.
bool never_came(const Track& track) {
    if (track.handle) {
        pid_t pid;
        return GetBackgroundWorkerPid(track.handle, &pid) == BGWH_STOPPED;
    }
    return TimestampDifferenceExceeds(track.started_at, timer_now(), kStartTimeoutMs);
}

// A slot has become free: a database that waits for one gets it in the next turn, which is then due
// now.
long wait_for_free_slot(long wait) {
    return pending_databases == NIL ? wait : 0;
}

// Moves every slot on; returns how long until one wants to be looked at again, in milliseconds, or
// -1.
long advance_slots() {
    long wait = -1;
    for (int i = 0; i < shared->slot_count; ++i) {
        SlotView view = look(i);
        Track& track = tracks[i];
        if (!OidIsValid(view.database)) continue;
        if (view.pid != 0) {
            track.started = true;
            continue;
        }
        if (track.started) {
            // Attached and ended, or did it never come up? Its end tells; it was Error from the
            // start.
            if (!never_came(track)) {
                wait = wait < 0 ? 1000 : Min(wait, 1000L);
                continue;
            }
            view = look(i);
            if (view.pid == 0) settle_end(i, view);
            if (!OidIsValid(shared->slots[i].database)) {
                wait = wait_for_free_slot(wait);
                continue;
            }
        }
        TimestampTz now = timer_now();
        if (is_held(view.database)) continue;  // whoever lets go wakes us
        if (track.due <= now) {
            if (!exists(view.database)) {
                free_slot(i);
                wait = wait_for_free_slot(wait);
                continue;
            }
            start(i);
            wait = wait < 0 ? 1000 : Min(wait, 1000L);
        } else {
            long rest = TimestampDifferenceMilliseconds(now, track.due);
            wait = wait < 0 ? rest : Min(wait, rest);
        }
    }
    return wait;
}

void loop() {
    MemoryContext scratch =
        AllocSetContextCreate(TopMemoryContext, "outbox launcher", ALLOCSET_DEFAULT_SIZES);
    TimestampTz reconciled = timer_now();
    for (;;) {
        MemoryContextSwitchTo(scratch);
        MemoryContextReset(scratch);
        CHECK_FOR_INTERRUPTS();
        if (ConfigReloadPending) {
            ConfigReloadPending = false;
            ProcessConfigFile(PGC_SIGHUP);
        }
        TimestampTz now = timer_now();
        bool reconcile = TimestampDifferenceExceeds(reconciled, now, kReconcileMs);
        if (reconcile) reconciled = now;
        take_requests(reconcile);
        assign_pending();
        long wait = advance_slots();
        pgstat_report_activity(STATE_IDLE, nullptr);
        if (wait < 0 || wait > kReconcileMs) wait = kReconcileMs;
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait,
                        compat::wait_event("OutboxLauncherMain"));
        ResetLatch(MyLatch);
    }
}

}  // namespace

void register_launcher() {
    // During pg_upgrade nothing may run but what pg_upgrade itself starts.
    if (IsBinaryUpgrade) return;
    BackgroundWorker worker = {};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = 1;
    snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "outbox");
    snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "outbox_launcher_main");
    snprintf(worker.bgw_name, sizeof(worker.bgw_name), "outbox launcher");
    snprintf(worker.bgw_type, sizeof(worker.bgw_type), "outbox launcher");
    RegisterBackgroundWorker(&worker);
}

}  // namespace outbox

void outbox_launcher_main(Datum) {
    using namespace outbox;
    // die: a terminated launcher exits with a status that makes the postmaster start another.
    pqsignal(SIGTERM, die);
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGINT, SIG_IGN);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
    tracks = static_cast<Track*>(MemoryContextAllocZero(
        TopMemoryContext, sizeof(Track) * static_cast<size_t>(shared->slot_count)));
    for (int i = 0; i < shared->slot_count; ++i)
        tracks[i] = Track();
    attach_launcher();
    loop();
}
