// What happens to a transaction's messages when it commits, prepares or aborts. Session's backend.
#include "session/commit.hpp"

#include "fault_point.hpp"
#include "session/backlog_limit.hpp"
#include "session/transaction_buffer.hpp"
#include "shared/shared_state.hpp"
#include "storage/positions.hpp"
#include "storage/schema.hpp"
#include "storage/segment_writer.hpp"

namespace outbox {

namespace {

// What this transaction owes at its end. Cleared at every end, whatever happened.
struct Pending {
    bool written;   // rows are in the segment: too late to emit
    bool messages;  // the relay has positions to look at: taken, and perhaps committed
    bool wake;      // the relay has something else to look at, whatever it does now
    bool parked;    // and that is among the parked messages
    bool request;   // the launcher has
    Oid request_database;
    bool settings;  // settings of sessions were changed
    Oid settings_database;
};
Pending pending;

// The active segment, opened and locked for writing. Between the look at which one is active and
// the lock the relay may move on; the relay knows (storage/segments.hpp).
Relation open_active_segment(const Schema& schema, Oid* position_index) {
    RelaySlot* slot = find_slot(MyDatabaseId);
    uint32 active = slot ? pg_atomic_read_u32(&slot->active_segment) % kSegments : 0;
    *position_index = schema.segment_indexes[active];
    Oid segment = schema.segments[active];
    Relation relation = OidIsValid(segment) ? try_table_open(segment, RowExclusiveLock) : nullptr;
    if (!relation) {
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("cannot store the messages of this transaction"),
                        errdetail("The extension outbox was dropped after they were emitted."),
                        errhint("Create the extension again and retry the transaction.")));
    }
    return relation;
}

void fill_row(SegmentRow* row, const BufferedMessage* message, int64 position, TimestampTz time) {
    using namespace segment_column;
    Datum* values = row->values;
    bool* nulls = row->nulls;
    memset(nulls, 0, sizeof(row->nulls));
    values[kPosition - 1] = Int64GetDatum(position);
    values[kTime - 1] = TimestampTzGetDatum(time);
    values[kId - 1] = PointerGetDatum(message->id);
    values[kPartition - 1] = Int32GetDatum(message->partition);
    nulls[kPartition - 1] = !message->has_partition;
    values[kTopic - 1] = message->value(message->topic);
    values[kKey - 1] = message->value(message->key);
    nulls[kKey - 1] = message->key == 0;
    values[kPayload - 1] = message->value(message->payload);
    nulls[kPayload - 1] = message->payload == 0;
    values[kHeaders - 1] = message->value(message->headers);
    nulls[kHeaders - 1] = message->headers == 0;
}

// Order matters: lock, then transaction id, then the first position. Then whoever holds a position
// that nobody can see yet is among the holders of that lock, and the relay need wait for nobody
// else.
void write_messages() {
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "outbox write", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    // The messages were emitted while writing was allowed; a later SET TRANSACTION READ ONLY
    // concerns what follows it, as with any other row.
    bool read_only = XactReadOnly;
    XactReadOnly = false;

    OUTBOX_FAULT_POINT("session-before-lock");
    Schema schema = {};
    (void)find_schema(&schema);
    Oid position_index;
    Relation segment = open_active_segment(schema, &position_index);
    OUTBOX_FAULT_POINT("session-after-lock");
    // An expression in an index of the table runs with the rights of the table's owner, not of
    // whoever emitted. An error ends this with the transaction.
    Oid user;
    int security;
    GetUserIdAndSecContext(&user, &security);
    SetUserIdAndSecContext(segment->rd_rel->relowner,
                           security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
    (void)GetTopTransactionId();
    OUTBOX_FAULT_POINT("session-after-xid");
    pending.messages = true;
    int64 passed = positions_taken(MyDatabaseId, schema.sequence);
    TimestampTz time = GetCurrentTimestamp();
    int64 count = transaction_buffer.count();
    int64 position = take_positions(schema.sequence, count, passed);
    note_first_position(position);
    note_positions_taken(MyDatabaseId, schema.sequence, position + count - 1);
    OUTBOX_FAULT_POINT("session-after-first-position");
    SegmentWriter writer(segment, position_index, count);
    transaction_buffer.begin_read();
    for (;; ++position) {
        MemoryContext outer = MemoryContextSwitchTo(writer.portion());
        const BufferedMessage* message = transaction_buffer.next();
        MemoryContextSwitchTo(outer);
        if (!message) break;
        SegmentRow row;
        fill_row(&row, message, position, time);
        writer.add(row, message->size);
    }
    OUTBOX_FAULT_POINT("session-before-last-insert");
    writer.finish();
    SetUserIdAndSecContext(user, security);
    OUTBOX_FAULT_POINT("session-after-last-insert");
    note_written();
    table_close(segment, NoLock);

    XactReadOnly = read_only;
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
}

void before_commit() {
    if (!transaction_buffer.empty()) {
        write_messages();
        OUTBOX_FAULT_POINT("session-before-return");
        pending.written = true;
    }
    transaction_buffer.release();
}

void after_end() {
    Pending owed = pending;
    pending = Pending();
    transaction_buffer.forget();
    if (owed.parked) announce_parked_changed();
    if (owed.messages || owed.wake) OUTBOX_FAULT_POINT("session-before-wake");
    if (owed.messages) announce_commit(MyDatabaseId);
    if (owed.wake) wake_relay(MyDatabaseId);
    if (owed.request) request_relay(owed.request_database);
    if (owed.settings) announce_settings(owed.settings_database);
}

void on_transaction_event(XactEvent event, void*) {
    switch (event) {
        case XACT_EVENT_PRE_COMMIT:
        case XACT_EVENT_PRE_PREPARE:
            before_commit();
            break;
        case XACT_EVENT_COMMIT:
        case XACT_EVENT_ABORT:
        case XACT_EVENT_PREPARE:
            after_end();
            break;
        default:
            break;
    }
}

void on_subtransaction_event(SubXactEvent event, SubTransactionId child, SubTransactionId parent,
                             void*) {
    if (event == SUBXACT_EVENT_COMMIT_SUB)
        transaction_buffer.subtransaction_committed(child, parent);
    if (event == SUBXACT_EVENT_ABORT_SUB) transaction_buffer.subtransaction_aborted(child);
}

void register_callbacks() {
    static bool registered = false;
    if (registered) return;
    RegisterXactCallback(on_transaction_event, nullptr);
    RegisterSubXactCallback(on_subtransaction_event, nullptr);
    registered = true;
}

}  // namespace

void arm_transaction() {
    if (pending.written) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
                        errmsg("cannot emit while the transaction is being committed")));
    }
    register_callbacks();
    // Keeps DROP EXTENSION waiting until this transaction has ended, as a row in one of its tables
    // would. The sequence is locked by every writer anyway, and by nobody who could wait for long.
    if (!transaction_buffer.empty()) return;
    Schema schema = {};
    (void)find_schema(&schema);
    LockRelationOid(schema.sequence, RowExclusiveLock);
}

void wake_relay_at_end() {
    register_callbacks();
    pending.wake = true;
}

void announce_parked_changed_at_end() {
    wake_relay_at_end();
    pending.parked = true;
}

void announce_settings_at_end(Oid database) {
    register_callbacks();
    if (pending.settings && pending.settings_database != database) database = InvalidOid;
    pending.settings = true;
    pending.settings_database = database;
}

void request_relay_at_end(Oid database) {
    register_callbacks();
    if (pending.request && pending.request_database != database) database = InvalidOid;
    pending.request = true;
    pending.request_database = database;
}

}  // namespace outbox
