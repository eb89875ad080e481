// Writes rows to a segment, and their entries to its indexes. Session's backend, while committing.
#include "storage/segment_writer.hpp"

#include "storage/segment_index.hpp"

namespace outbox {

namespace {

// Rows are handed over in portions of at most this many, or about this many bytes, as COPY does.
constexpr int kPortionRows = 1000;
constexpr size_t kPortionBytes = 256 * 1024;

// Whether a row stands right behind another one, on the same page.
bool is_next(const ItemPointerData& place, const ItemPointerData& previous) {
    return ItemPointerGetBlockNumber(&place) == ItemPointerGetBlockNumber(&previous) &&
           ItemPointerGetOffsetNumber(&place) == ItemPointerGetOffsetNumber(&previous) + 1;
}

}  // namespace

SegmentWriter::SegmentWriter(Relation segment, Oid position_index, int64 rows)
    : segment_(segment), portion_(CurrentMemoryContext) {
    capacity_ = static_cast<int>(Min(rows, static_cast<int64>(kPortionRows)));
    slots_ = static_cast<TupleTableSlot**>(palloc0(sizeof(TupleTableSlot*) * capacity_));
    descriptor_ = RelationGetDescr(segment);
    if (rows > kPortionRows) bulk_ = GetBulkInsertState();
    if (rows > 1) {
        // A copy is not counted by resource owners, once for each slot.
        descriptor_ = CreateTupleDescCopy(descriptor_);
        portion_ =
            AllocSetContextCreate(CurrentMemoryContext, "outbox portion", ALLOCSET_DEFAULT_SIZES);
    }
    command_ = GetCurrentCommandId(true);
    open_indexes(position_index);
}

void SegmentWriter::open_indexes(Oid position_index) {
    List* indexes = RelationGetIndexList(segment_);
    if (list_length(indexes) == 1 && linitial_oid(indexes) == position_index) {
        index_ = index_open(position_index, RowExclusiveLock);
        if (is_of_runs(index_)) {
            // Without the predicate, which is true.
            index_info_ = BuildDummyIndexInfo(index_);
            return;
        }
        index_close(index_, NoLock);
        index_ = nullptr;
    }
    // Expressions want a snapshot.
    PushActiveSnapshot(GetTransactionSnapshot());
    estate_ = CreateExecutorState();
    target_ = makeNode(ResultRelInfo);
    InitResultRelInfo(target_, segment_, 1, nullptr, 0);
    ExecOpenIndices(target_, false);
}

void SegmentWriter::add(const SegmentRow& row, size_t bytes) {
    using namespace segment_column;
    if (!slots_[count_])
        slots_[count_] = MakeSingleTupleTableSlot(descriptor_, table_slot_callbacks(segment_));
    if (count_ == 0) first_position_ = DatumGetInt64(row.values[kPosition - 1]);
    TupleTableSlot* slot = slots_[count_++];
    ExecClearTuple(slot);
    memcpy(slot->tts_values, row.values, sizeof(row.values));
    memcpy(slot->tts_isnull, row.nulls, sizeof(row.nulls));
    // Columns that somebody has added are not ours to fill.
    for (int i = kCount; i < descriptor_->natts; ++i)
        slot->tts_isnull[i] = true;
    ExecStoreVirtualTuple(slot);
    bytes_ += bytes;
    if (count_ == capacity_ || bytes_ >= kPortionBytes) flush();
}

// A row behind the one before it is found through that one (storage/segment_scan).
void SegmentWriter::insert_index_entries(int row) {
    TupleTableSlot* slot = slots_[row];
    if (!index_) {
        compat::insert_index_entries(target_, slot, estate_);
        ResetPerTupleExprContext(estate_);
    } else if (row == 0 || !is_next(slot->tts_tid, slots_[row - 1]->tts_tid)) {
        insert_entry(segment_, index_, index_info_, &slot->tts_tid, first_position_ + row);
    }
}

void SegmentWriter::flush() {
    if (count_ == 0) return;
    MemoryContext caller = MemoryContextSwitchTo(portion_);
    // For a single row, the record in the WAL is smaller this way, and so is the work.
    if (count_ == 1) {
        table_tuple_insert(segment_, slots_[0], command_, 0, bulk_);
    } else {
        table_multi_insert(segment_, slots_, count_, command_, 0, bulk_);
    }
    for (int i = 0; i < count_; ++i)
        insert_index_entries(i);
    for (int i = 0; i < count_; ++i)
        ExecClearTuple(slots_[i]);
    MemoryContextSwitchTo(caller);
    if (portion_ != caller) MemoryContextReset(portion_);
    count_ = 0;
    bytes_ = 0;
}

void SegmentWriter::finish() {
    flush();
    if (bulk_) FreeBulkInsertState(bulk_);
    for (int i = 0; i < capacity_ && slots_[i]; ++i)
        ExecDropSingleTupleTableSlot(slots_[i]);
    table_finish_bulk_insert(segment_, 0);
    if (index_) {
        index_close(index_, NoLock);
    } else {
        ExecCloseIndices(target_);
        FreeExecutorState(estate_);
        PopActiveSnapshot();
    }
}

}  // namespace outbox
