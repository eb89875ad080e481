// Positions of messages, from their sequence. Session's backend takes them, the relay looks after
// it.
//
// nextval() gives one at a time, at a sixth of what a message costs at commit, and makes it the
// session's lastval(), which is the application's. So the sequence is advanced here, as nextval()
// and setval() do it: under the lock of its one page.
#include "storage/positions.hpp"

namespace outbox {

namespace {

// So many are written to the WAL ahead of what is taken: not every transaction has to, and a crash
// loses these, which status counts as backlog until the relay has looked. nextval() does the same
// with 32.
constexpr int64 kLoggedAhead = 250;

Relation open_sequence(Oid sequence, LOCKMODE lock) {
    Relation relation = relation_open(sequence, lock);
    if (relation->rd_rel->relkind == RELKIND_SEQUENCE) return relation;
    ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                    errmsg("\"%s\" is not a sequence", RelationGetRelationName(relation))));
}

// What a crash leaves of the page: the sequence as it is to be then.
void log_sequence(Relation relation, Buffer buffer, HeapTupleHeader tuple, uint32 length) {
    XLogBeginInsert();
    XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
    xl_seq_rec record = compat::sequence_record(relation);
    XLogRegisterData(reinterpret_cast<char*>(&record), sizeof(record));
    XLogRegisterData(reinterpret_cast<char*>(tuple), length);
    XLogRecPtr end = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
    PageSetLSN(BufferGetPage(buffer), end);
}

// Sets the sequence `count` further than its last value or, if that is higher, `floor`. Returns the
// highest value before those `count`, and in *behind whether that is the floor.
int64 advance(Relation relation, int64 count, int64 floor, bool* behind) {
    Buffer buffer = ReadBuffer(relation, 0);
    LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
    Page page = BufferGetPage(buffer);
    ItemId item = PageGetItemId(page, FirstOffsetNumber);
    HeapTupleHeader tuple = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
    Form_pg_sequence_data data =
        reinterpret_cast<Form_pg_sequence_data>(reinterpret_cast<char*>(tuple) + tuple->t_hoff);

    int64 last = data->is_called ? data->last_value : data->last_value - 1;
    *behind = last < floor;
    if (*behind) last = floor;
    bool unchanged = count == 0 && !*behind;
    bool too_many = last > PG_INT64_MAX - kLoggedAhead - count;
    if (unchanged || too_many) {
        UnlockReleaseBuffer(buffer);
        if (unchanged) return last;
        ereport(ERROR, (errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
                        errmsg("there are no more positions for messages")));
    }
    // Replay begins at a checkpoint: what was logged before it is not seen again.
    bool log =
        *behind || !data->is_called || data->log_cnt < count || PageGetLSN(page) <= GetRedoRecPtr();

    // START_CRIT_SECTION() increments it: deprecated for a volatile in C++20.
    CritSectionCount = CritSectionCount + 1;
    MarkBufferDirty(buffer);
    data->is_called = true;
    if (log && RelationNeedsWAL(relation)) {
        data->last_value = last + count + kLoggedAhead;
        data->log_cnt = 0;
        log_sequence(relation, buffer, tuple, ItemIdGetLength(item));
    }
    data->last_value = last + count;
    data->log_cnt = log ? kLoggedAhead : data->log_cnt - count;
    CritSectionCount = CritSectionCount - 1;
    UnlockReleaseBuffer(buffer);
    return last;
}

}  // namespace

int64 take_positions(Oid sequence, int64 count, int64 passed) {
    Relation relation = open_sequence(sequence, NoLock);
    bool behind;
    int64 last = advance(relation, count, passed, &behind);
    relation_close(relation, NoLock);
    if (behind) {
        ereport(WARNING,
                (errmsg("outbox.message_position had been set back; it goes on after " INT64_FORMAT,
                        passed)));
    }
    return last + 1;
}

bool set_forward(Oid sequence, int64 passed) {
    Relation relation = open_sequence(sequence, RowExclusiveLock);
    bool behind;
    (void)advance(relation, 0, passed, &behind);
    relation_close(relation, NoLock);
    return behind;
}

}  // namespace outbox
