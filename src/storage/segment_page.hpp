// One page of a segment, whose rows are judged together. Relay, and sessions for status.
//
// A row that is looked up by itself costs two locks on its page and a search; most of what a pass
// reads stands row behind row. While the page is pinned nothing on it moves, and what a row is
// worth under a snapshot does not change, so one lock is enough for all of them. Rows that came to
// the page later, or that were not written by emit() alone (somebody updated them), are not known
// here.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

class SegmentPage {
  public:
    enum class Worth : uint8_t { Unknown, Visible, Invisible };

    // Judges the rows of the page that `slot` has a row of: this one and those behind it. The page
    // is kept until the next one is read, or close().
    void read(TupleTableSlot* slot, Snapshot snapshot);
    void close();

    Worth worth(const ItemPointerData& place) const {
        if (ItemPointerGetBlockNumberNoCheck(&place) != block_) return Worth::Unknown;
        OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(&place);
        return offset >= first_ && offset <= last_ ? worth_[offset] : Worth::Unknown;
    }

    // Puts a row whose worth is known into the slot.
    void store(const ItemPointerData& place, TupleTableSlot* slot) const;

  private:
    Worth judge(Page page, OffsetNumber offset, Snapshot snapshot) const;

    Buffer buffer_ = InvalidBuffer;
    Oid segment_ = InvalidOid;
    BlockNumber block_ = InvalidBlockNumber;
    OffsetNumber first_ = 1;  // of those that are known
    OffsetNumber last_ = 0;
    Worth worth_[MaxHeapTuplesPerPage + 1];
};

}  // namespace outbox
