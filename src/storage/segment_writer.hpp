// Writes rows to a segment, and their entries to its indexes. Session's backend, while committing.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"

namespace outbox {

// A message as a row: Datums that stay valid until the next flush().
struct SegmentRow {
    Datum values[segment_column::kCount];
    bool nulls[segment_column::kCount];
};

class SegmentWriter {
  public:
    // `segment` is open and locked, and has this index on its positions; `rows` will be written.
    // Memory from the current context, which ends with the writing.
    SegmentWriter(Relation segment, Oid position_index, int64 rows);

    // Where what rows consist of may be put: it is given up with each portion.
    MemoryContext portion() const { return portion_; }

    // Positions are consecutive.
    void add(const SegmentRow& row, size_t bytes);

    // Writes what was added and not written yet.
    void finish();

  private:
    void flush();
    void open_indexes(Oid position_index);
    void insert_index_entries(int row);

    Relation segment_;
    TupleDesc descriptor_;
    TupleTableSlot** slots_;
    int capacity_;
    int count_ = 0;
    size_t bytes_ = 0;
    int64 first_position_ = 0;  // of the rows that wait
    BulkInsertStateData* bulk_ = nullptr;
    MemoryContext portion_;
    CommandId command_;

    // The index on positions, where it is ours and the only one; otherwise whatever the executor
    // needs to serve any index that somebody may have made.
    Relation index_ = nullptr;
    IndexInfo* index_info_ = nullptr;
    EState* estate_ = nullptr;
    ResultRelInfo* target_ = nullptr;
};

}  // namespace outbox
