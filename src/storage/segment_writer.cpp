// Writes rows to a segment, and their entries to its indexes. Session's backend, while committing.
#include "storage/segment_writer.hpp"

namespace outbox {

namespace {

// Rows are handed over in portions of at most this many, or about this many bytes, as COPY does.
constexpr int kPortionRows = 1000;
constexpr size_t kPortionBytes = 256 * 1024;

// An entry is the position and nothing else, for every row.
bool is_plain(Relation index) {
    Form_pg_index form = index->rd_index;
    return form->indnatts == 1 && form->indkey.values[0] == segment_column::kPosition &&
           form->indisready && !form->indisunique && !form->indisexclusion &&
           heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr);
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
        if (is_plain(index_)) {
            index_info_ = BuildIndexInfo(index_);
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

void SegmentWriter::insert_index_entries(TupleTableSlot* slot, int64 position) {
    if (index_) {
        Datum value = Int64GetDatum(position);
        bool null = false;
        (void)index_insert(index_, &value, &null, &slot->tts_tid, segment_, UNIQUE_CHECK_NO, false,
                           index_info_);
        return;
    }
    compat::insert_index_entries(target_, slot, estate_);
    ResetPerTupleExprContext(estate_);
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
    for (int i = 0; i < count_; ++i) {
        insert_index_entries(slots_[i], first_position_ + i);
        ExecClearTuple(slots_[i]);
    }
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
