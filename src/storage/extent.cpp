// Where a segment begins and ends. Relay, and sessions for the size of the backlog.
#include "storage/extent.hpp"

#include "storage/schema.hpp"

namespace outbox {

Extent extent_of(Relation segment, Oid position_index) {
    using namespace segment_column;
    Extent extent = {};
    if (RelationGetNumberOfBlocks(segment) == 0) return extent;
    Relation index = index_open(position_index, AccessShareLock);
    TupleTableSlot* slot = table_slot_create(segment, nullptr);
    IndexScanDesc scan = compat::begin_index_scan(segment, index, SnapshotAny, 0);
    bool null;
    index_rescan(scan, nullptr, 0, nullptr, 0);
    if (index_getnext_slot(scan, ForwardScanDirection, slot)) {
        extent.any = true;
        extent.lowest = DatumGetInt64(slot_getattr(slot, kPosition, &null));
    }
    index_rescan(scan, nullptr, 0, nullptr, 0);
    if (index_getnext_slot(scan, BackwardScanDirection, slot)) {
        extent.highest = DatumGetInt64(slot_getattr(slot, kPosition, &null));
        extent.newest = DatumGetTimestampTz(slot_getattr(slot, kTime, &null));
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, AccessShareLock);
    return extent;
}

}  // namespace outbox
