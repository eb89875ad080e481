// Where a segment begins and ends. Relay, and sessions for the size of the backlog.
#include "storage/extent.hpp"

#include "storage/schema.hpp"
#include "storage/segment_scan.hpp"

namespace outbox {

Extent extent_of(Relation segment, Oid position_index) {
    using namespace segment_column;
    Extent extent = {};
    if (RelationGetNumberOfBlocks(segment) == 0) return extent;
    Relation index = index_open(position_index, AccessShareLock);
    SegmentScan scan;
    scan.open(segment, index);
    if (scan.first()) {
        extent.any = true;
        extent.lowest = scan.position();
    }
    if (scan.last()) {
        bool null;
        extent.highest = scan.position();
        extent.newest = DatumGetTimestampTz(slot_getattr(scan.slot(), kTime, &null));
    }
    scan.close();
    index_close(index, AccessShareLock);
    return extent;
}

}  // namespace outbox
