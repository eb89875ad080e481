// Reads the message log in the order of positions, across all segments. Relay, and sessions for
// status.
#include "storage/log_reader.hpp"

namespace outbox {

namespace {

bool lock(Oid relation, bool wait) {
    if (!wait) return ConditionalLockRelationOid(relation, AccessShareLock);
    LockRelationOid(relation, AccessShareLock);
    return true;
}

// A btree that has only its meta page holds nothing.
bool has_rows(Relation index) {
    return RelationGetNumberOfBlocks(index) > 1;
}

void bytes_of(Datum value, const char** data, uint32* length) {
    varlena* bytes = PG_DETOAST_DATUM_PACKED(value);
    *data = VARDATA_ANY(bytes);
    *length = static_cast<uint32>(VARSIZE_ANY_EXHDR(bytes));
}

}  // namespace

bool LogReader::open(const Schema& schema, Snapshot snapshot, bool wait) {
    snapshot_ = snapshot;
    count_ = 0;
    for (int i = 0; i < kSegments; ++i) {
        if (!lock(schema.segments[i], wait)) {
            close();
            return false;
        }
        Relation heap = table_open(schema.segments[i], NoLock);
        Relation index = index_open(schema.segment_indexes[i], AccessShareLock);
        if (!has_rows(index)) {
            index_close(index, AccessShareLock);
            table_close(heap, AccessShareLock);
            continue;
        }
        Segment* segment = &segments_[count_++];
        segment->heap = heap;
        segment->index = index;
        segment->scan.open(heap, index, snapshot);
    }
    return true;
}

void LogReader::close() {
    for (int i = 0; i < count_; ++i) {
        Segment* segment = &segments_[i];
        segment->scan.close();
        index_close(segment->index, AccessShareLock);
        table_close(segment->heap, AccessShareLock);
    }
    count_ = 0;
    current_ = nullptr;
}

void LogReader::seek(int64 from, int64 to) {
    current_ = nullptr;
    bool there = false;
    for (int i = 0; i < count_; ++i)
        there = segments_[i].scan.seek(from, to) || there;
    // Mostly it is: reading goes on with what a transaction has just written.
    for (int i = 0; i < count_ && !there; ++i)
        there = segments_[i].scan.look_behind();
}

RowKind LogReader::next(Row* row) {
    // The row returned last stays in its slot until here, so that load() can read it.
    if (current_) current_->next();
    current_ = nullptr;
    for (int i = 0; i < count_; ++i) {
        SegmentScan* scan = &segments_[i].scan;
        if (scan->found() && (!current_ || scan->position() < current_->position()))
            current_ = scan;
    }
    if (!current_) return RowKind::End;

    row->position = current_->position();
    HeapTuple tuple = ExecFetchSlotHeapTuple(current_->slot(), false, nullptr);
    row->owner = HeapTupleHeaderGetXmin(tuple->t_data);
    if (current_->visible()) return RowKind::Visible;
    // Asking the snapshot, not the list of running transactions: only what the snapshot calls
    // running can become visible to a later one.
    if (TransactionIdIsNormal(row->owner) && XidInMVCCSnapshot(row->owner, snapshot_)) {
        return RowKind::InProgress;
    }
    return RowKind::Dead;
}

void LogReader::load(Row* row) {
    using namespace segment_column;
    TupleTableSlot* slot = current_->slot();
    slot_getallattrs(slot);
    const Datum* values = slot->tts_values;
    const bool* nulls = slot->tts_isnull;
    row->time = DatumGetTimestampTz(values[kTime - 1]);
    row->time_ms = unix_milliseconds(row->time);
    row->id = DatumGetUUIDP(values[kId - 1]);
    row->has_partition = !nulls[kPartition - 1];
    row->partition = row->has_partition ? DatumGetInt32(values[kPartition - 1]) : 0;
    bytes_of(values[kTopic - 1], &row->topic, &row->topic_length);
    row->key = row->payload = nullptr;
    row->key_length = row->payload_length = 0;
    row->headers = nullptr;
    if (!nulls[kKey - 1]) bytes_of(values[kKey - 1], &row->key, &row->key_length);
    if (!nulls[kPayload - 1]) bytes_of(values[kPayload - 1], &row->payload, &row->payload_length);
    if (!nulls[kHeaders - 1]) row->headers = DatumGetJsonbP(values[kHeaders - 1]);
}

}  // namespace outbox
