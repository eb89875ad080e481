// The rows of one segment in the order of positions, whatever each is worth. Relay, and sessions
// for status.
//
// The index on positions leads to some of the rows only: one that stands right behind the row of
// the position before it, on the same page, needs no entry (storage/segment_writer). So a row that
// has an entry leads a run, and row n of a run is n line pointers further. An entry for a row that
// needs none, as a rebuilt index has it, does no harm.
#pragma once

#include "pg/postgres.hpp"
#include "storage/segment_page.hpp"

namespace outbox {

class SegmentScan {
  public:
    // Both relations are open and locked, and stay so until close(). Without a snapshot nobody asks
    // whether a row is visible.
    void open(Relation segment, Relation position_index, Snapshot snapshot = nullptr);
    void close();

    // Goes to the first row of positions `from` to `to`, both included, that has an entry; true if
    // that is the row of `from`. If it is in no segment, it may stand in some run: look_behind().
    bool seek(int64 from, int64 to);

    // After seek(): goes to the row of `from` in the run that leads up to it, and returns true. If
    // there is none everything stays as it is.
    bool look_behind();

    // Goes to the next row of the range.
    void next();

    // Goes to the first or the last row of all; false if there is none. Only seek() may follow.
    bool first();
    bool last();

    // The row, which may be of any transaction; false: there is none.
    bool found() const { return found_; }
    int64 position() const { return position_; }
    bool visible() const;
    TupleTableSlot* slot() const { return slot_; }

  private:
    void set_range(int64 from, int64 to);
    void search(int64 from);
    void next_entry();
    bool fetch(const ItemPointerData& place);
    bool look_up(const ItemPointerData& place);
    bool fetch_in_run(const ItemPointerData& lead, int64 lead_position, int64 steps);
    bool later_version();
    void begin_run();

    Relation segment_;
    IndexScanDesc scan_;
    TupleTableSlot* slot_;
    Snapshot snapshot_;
    SegmentPage page_;
    SegmentPage::Worth worth_;  // of the row
    int64 from_;
    int64 to_;
    bool found_;
    int64 position_;
    ItemPointerData place_;   // of the row, or of the first version if somebody updated it
    OffsetNumber run_begin_;  // what was returned of its run begins here
    bool behind_;             // it was found by look_behind(): the index is not in step
    bool any_entry_;          // seek() found some
};

}  // namespace outbox
