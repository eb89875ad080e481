// How far the relay is, on disk. Relay writes; sessions read for outbox.status.
//
// Saved by appending to one of two small tables; when it has grown, the other is emptied and takes
// over. No row is ever updated or deleted, so an old snapshot cannot make dead versions pile up.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"

namespace outbox {

struct PositionRange {
    int64 from;  // both included
    int64 to;
};

// Ranges as they are added, sorted or not; one that continues the last is joined to it, an empty
// one is left out. Memory of the current context.
class RangeList {
  public:
    void add(int64 from, int64 to) {
        if (from > to) return;
        if (count > 0 && list[count - 1].to + 1 == from) {
            list[count - 1].to = to;
            return;
        }
        if (count == capacity_) {
            capacity_ = Max(64, capacity_ * 2);
            Size bytes = sizeof(PositionRange) * static_cast<Size>(capacity_);
            list = static_cast<PositionRange*>(
                list ? repalloc_huge(list, bytes)
                     : MemoryContextAllocHuge(CurrentMemoryContext, bytes));
        }
        list[count++] = PositionRange{from, to};
    }

    PositionRange* list = nullptr;
    int count = 0;

  private:
    int capacity_ = 0;
};

// Every position up to `watermark` is settled, except those in `unsettled`.
struct Progress {
    int64 number;  // of the row: the newest counts; 0: nothing saved yet
    int table;     // which of the two tables it stands in
    int64 watermark;
    PositionRange* unsettled;  // sorted, not touching
    int unsettled_count;
    int64 delivered;
    int64 deferred;
};

// Reads the newest progress; `unsettled` lies in the current memory context. Needs a snapshot.
Progress load_progress();

// The same under a snapshot of the caller's choice. Keeps no lock; with `wait` false it passes over
// a table that somebody has locked exclusively, as the relay does while it empties one.
Progress read_progress(const Schema& schema, Snapshot snapshot, bool wait);

// Adds a row; `progress->number` and `table` are updated. In the caller's transaction.
void save_progress(const Schema& schema, Progress* progress);

// Sorts and merges ranges in place; returns how many are left, at most `most`: beyond that the
// closest neighbours are joined and the result covers more than was asked for.
int normalize_ranges(PositionRange* ranges, int count, int most);

}  // namespace outbox
