// The index on positions of a segment, which leads to the first row of each run only. Sessions.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Whether it is as the install script made it: nothing in it but the position, and a predicate that
// is true for every row. With any other, each row has to have its entry, if the predicate says so.
bool is_of_runs(Relation index);

// The entry of one row.
void insert_entry(Relation segment, Relation index, IndexInfo* info, ItemPointer place,
                  int64 position);

// To be called before somebody deletes a row or updates it: the row behind it, if that is of the
// same run, gets an entry of its own, and is found when this one is no more.
void keep_next_findable(Relation segment, Relation index, HeapTuple row);

}  // namespace outbox
