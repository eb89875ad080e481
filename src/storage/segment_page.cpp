// One page of a segment, whose rows are judged together. Relay, and sessions for status.
#include "storage/segment_page.hpp"

namespace outbox {

void SegmentPage::close() {
    if (BufferIsValid(buffer_)) ReleaseBuffer(buffer_);
    buffer_ = InvalidBuffer;
    block_ = InvalidBlockNumber;
}

void SegmentPage::read(TupleTableSlot* slot, Snapshot snapshot) {
    Buffer buffer = reinterpret_cast<BufferHeapTupleTableSlot*>(slot)->buffer;
    if (buffer != buffer_) {
        IncrBufferRefCount(buffer);
        close();
        buffer_ = buffer;
    }
    segment_ = slot->tts_tableOid;
    block_ = ItemPointerGetBlockNumber(&slot->tts_tid);
    first_ = ItemPointerGetOffsetNumber(&slot->tts_tid);
    LockBuffer(buffer, BUFFER_LOCK_SHARE);
    Page page = BufferGetPage(buffer);
    last_ = Min(PageGetMaxOffsetNumber(page), MaxHeapTuplesPerPage);
    for (OffsetNumber offset = first_; offset <= last_; ++offset)
        worth_[offset] = judge(page, offset, snapshot);
    LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
}

SegmentPage::Worth SegmentPage::judge(Page page, OffsetNumber offset, Snapshot snapshot) const {
    ItemId item = PageGetItemId(page, offset);
    if (!ItemIdIsNormal(item)) return Worth::Unknown;
    HeapTupleData tuple;
    tuple.t_data = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
    tuple.t_len = ItemIdGetLength(item);
    tuple.t_tableOid = segment_;
    ItemPointerSet(&tuple.t_self, block_, offset);
    // A later version is found by way of the first one only.
    if (HeapTupleIsHeapOnly(&tuple)) return Worth::Unknown;
    return HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer_) ? Worth::Visible
                                                                   : Worth::Invisible;
}

void SegmentPage::store(const ItemPointerData& place, TupleTableSlot* slot) const {
    Page page = BufferGetPage(buffer_);
    ItemId item = PageGetItemId(page, ItemPointerGetOffsetNumber(&place));
    // Where the server's own scans keep it, for as long as the slot has the row.
    HeapTuple tuple = &reinterpret_cast<BufferHeapTupleTableSlot*>(slot)->base.tupdata;
    tuple->t_data = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
    tuple->t_len = ItemIdGetLength(item);
    tuple->t_tableOid = segment_;
    tuple->t_self = place;
    ExecStoreBufferHeapTuple(tuple, slot, buffer_);
}

}  // namespace outbox
