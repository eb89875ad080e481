// How many bytes of disk the backlog takes. Sessions: outbox.status, and emit() near its limit.
#include "storage/backlog_size.hpp"

#include "storage/extent.hpp"

namespace outbox {

namespace {

// Deferred messages are weighed by samples from both ends of their index; rows that are dead and
// not vacuumed yet must not make that long.
constexpr int kSampleRows = 100;
constexpr int kSampleLooks = 1000;
// Columns of `deferred` whose size varies.
constexpr AttrNumber kVariable[] = {5, 6, 7, 8, 11};
// What a deferred row takes besides: as a row of the log, and entries in two more indexes.
constexpr int64 kDeferredOverhead = kRowOverhead + 80;

int64 disk_bytes(Oid relation) {
    return DatumGetInt64(DirectFunctionCall1(pg_total_relation_size, ObjectIdGetDatum(relation)));
}

int64 overlap(int64 from, int64 to, int64 lowest, int64 highest) {
    return Max(Min(to, highest) - Max(from, lowest) + 1, INT64CONST(0));
}

double unsettled_between(const Progress& progress, double part, int64 lowest, int64 highest) {
    int64 unread = overlap(progress.watermark + 1, PG_INT64_MAX, lowest, highest);
    int64 open = 0;
    for (int i = 0; i < progress.unsettled_count; ++i)
        open += overlap(progress.unsettled[i].from, progress.unsettled[i].to, lowest, highest);
    return static_cast<double>(unread) + static_cast<double>(open) * part;
}

int64 segment_bytes(const Schema& schema, int segment, const Progress& progress, double part) {
    // Who has it exclusively is about to empty it: then nothing there waits.
    if (!ConditionalLockRelationOid(schema.segments[segment], AccessShareLock)) return 0;
    Relation heap = table_open(schema.segments[segment], NoLock);
    int64 bytes = 0;
    Extent extent = extent_of(heap, schema.segment_indexes[segment]);
    if (extent.any) {
        double unsettled = unsettled_between(progress, part, extent.lowest, extent.highest);
        double rows = static_cast<double>(extent.highest - extent.lowest + 1);
        double share = Min(unsettled / rows, 1.0);
        if (share > 0) {
            double size = static_cast<double>(disk_bytes(RelationGetRelid(heap)));
            bytes = static_cast<int64>(size * share);
        }
    }
    table_close(heap, AccessShareLock);
    return bytes;
}

int64 row_bytes(TupleTableSlot* slot) {
    int64 bytes = kDeferredOverhead;
    for (AttrNumber column : kVariable) {
        bool null;
        Datum value = slot_getattr(slot, column, &null);
        if (!null) bytes += static_cast<int64>(toast_datum_size(value));
    }
    return bytes;
}

// Adds up some of the rows at one end of the index of those that wait.
void weigh(IndexScanDesc scan, ScanDirection direction, TupleTableSlot* slot, int64* rows,
           int64* bytes) {
    index_rescan(scan, nullptr, 0, nullptr, 0);
    int found = 0;
    for (int looks = 0; looks < kSampleLooks && found < kSampleRows; ++looks) {
        if (!index_getnext_tid(scan, direction)) return;
        if (!index_fetch_heap(scan, slot)) continue;
        ++found;
        *bytes += row_bytes(slot);
    }
    *rows += found;
}

int64 deferred_bytes(const Schema& schema, int64 waiting) {
    if (waiting <= 0) return 0;
    if (!ConditionalLockRelationOid(schema.deferred, AccessShareLock)) return 0;
    Relation heap = table_open(schema.deferred, NoLock);
    Relation index = index_open(schema.deferred_topic, AccessShareLock);
    TupleTableSlot* slot = table_slot_create(heap, nullptr);
    IndexScanDesc scan = compat::begin_index_scan(heap, index, SnapshotSelf, 0);
    int64 rows = 0;
    int64 bytes = 0;
    weigh(scan, ForwardScanDirection, slot, &rows, &bytes);
    weigh(scan, BackwardScanDirection, slot, &rows, &bytes);
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, AccessShareLock);
    int64 most = disk_bytes(RelationGetRelid(heap));
    table_close(heap, AccessShareLock);
    if (rows == 0) return most;
    double mean = static_cast<double>(bytes) / static_cast<double>(rows);
    return Min(most, static_cast<int64>(mean * static_cast<double>(waiting)));
}

}  // namespace

int64 backlog_bytes(const Schema& schema, const Progress& progress, double part) {
    int64 bytes = deferred_bytes(schema, progress.deferred);
    for (int i = 0; i < kSegments; ++i)
        bytes += segment_bytes(schema, i, progress, part);
    return bytes;
}

}  // namespace outbox
