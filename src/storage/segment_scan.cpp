// The rows of one segment in the order of positions, whatever each is worth. Relay, and sessions
// for status.
#include "storage/segment_scan.hpp"

#include "storage/schema.hpp"

namespace outbox {

void SegmentScan::open(Relation segment, Relation position_index, Snapshot snapshot) {
    segment_ = segment;
    snapshot_ = snapshot;
    slot_ = table_slot_create(segment, nullptr);
    scan_ = compat::begin_index_scan(segment, position_index, SnapshotAny, 2);
    found_ = false;
}

void SegmentScan::close() {
    page_.close();
    index_endscan(scan_);
    ExecDropSingleTupleTableSlot(slot_);
}

bool SegmentScan::seek(int64 from, int64 to) {
    from_ = from;
    to_ = to;
    search(from);
    any_entry_ = found_;
    return found_ && position_ == from;
}

void SegmentScan::set_range(int64 from, int64 to) {
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
    ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(to));
    index_rescan(scan_, keys, 2, nullptr, 0);
    behind_ = false;
    found_ = false;
}

void SegmentScan::search(int64 from) {
    set_range(from, to_);
    next_entry();
}

bool SegmentScan::look_behind() {
    // No run is longer than a page.
    set_range(from_ - MaxHeapTuplesPerPage, from_);
    ItemPointer entry = index_getnext_tid(scan_, BackwardScanDirection);
    if (entry) {
        ItemPointerData lead = *entry;
        if (fetch(lead) && fetch_in_run(lead, position_, from_ - position_)) {
            begin_run();
            behind_ = true;
            return true;
        }
    }
    found_ = false;
    if (any_entry_) search(from_);
    return false;
}

void SegmentScan::next() {
    if (later_version()) return;
    int64 last = position_;
    ItemPointerData place = place_;
    if (last < to_ && fetch_in_run(place, last, 1)) return;
    // The run was known to here, and the index may lead to its rows once more.
    place_ = place;
    found_ = true;
    if (!behind_) {
        next_entry();
    } else if (any_entry_) {
        search(last + 1);
    } else {
        found_ = false;
    }
}

// Goes to the row of the next entry, except those of the run that was just returned.
void SegmentScan::next_entry() {
    bool in_run = found_;
    found_ = false;
    while (ItemPointer entry = index_getnext_tid(scan_, ForwardScanDirection)) {
        OffsetNumber offset = ItemPointerGetOffsetNumber(entry);
        if (in_run && ItemPointerGetBlockNumber(entry) == ItemPointerGetBlockNumber(&place_) &&
            offset >= run_begin_ && offset <= ItemPointerGetOffsetNumber(&place_)) {
            continue;
        }
        ItemPointerData kept = place_;
        if (fetch(*entry)) {
            begin_run();
            return;
        }
        place_ = kept;
    }
}

void SegmentScan::begin_run() {
    run_begin_ = ItemPointerGetOffsetNumber(&place_);
}

bool SegmentScan::fetch(const ItemPointerData& place) {
    place_ = place;
    worth_ = page_.worth(place);
    if (worth_ != SegmentPage::Worth::Unknown) {
        page_.store(place, slot_);
        found_ = true;
    } else {
        found_ = look_up(place);
    }
    if (!found_) return false;
    bool null;
    position_ = DatumGetInt64(slot_getattr(slot_, segment_column::kPosition, &null));
    return true;
}

// Not by index_fetch_heap(): what that finds dead, it takes out of the index, with all that follows
// in its run.
bool SegmentScan::look_up(const ItemPointerData& place) {
    ItemPointerData version = place;
    bool again = false;
    if (!table_index_fetch_tuple(scan_->xs_heapfetch, &version, SnapshotAny, slot_, &again,
                                 nullptr)) {
        return false;
    }
    if (snapshot_) {
        page_.read(slot_, snapshot_);
        worth_ = page_.worth(slot_->tts_tid);
    }
    return true;
}

bool SegmentScan::visible() const {
    if (worth_ != SegmentPage::Worth::Unknown) return worth_ == SegmentPage::Worth::Visible;
    return table_tuple_satisfies_snapshot(segment_, slot_, snapshot_);
}

bool SegmentScan::fetch_in_run(const ItemPointerData& lead, int64 lead_position, int64 steps) {
    // Also keeps the offset in bounds.
    if (steps > MaxHeapTuplesPerPage) return false;
    ItemPointerData place = lead;
    place.ip_posid = static_cast<OffsetNumber>(place.ip_posid + steps);
    return (steps == 0 || fetch(place)) && position_ == lead_position + steps;
}

// A row that somebody updated is there twice, the later version where the first one points to.
bool SegmentScan::later_version() {
    HeapTuple tuple = ExecFetchSlotHeapTuple(slot_, false, nullptr);
    if (!HeapTupleHeaderIsHotUpdated(tuple->t_data)) return false;
    ItemPointerData version = slot_->tts_tid;
    bool again = true;
    worth_ = SegmentPage::Worth::Unknown;
    return table_index_fetch_tuple(scan_->xs_heapfetch, &version, SnapshotAny, slot_, &again,
                                   nullptr);
}

bool SegmentScan::first() {
    set_range(PG_INT64_MIN, PG_INT64_MAX);
    next_entry();
    return found_;
}

bool SegmentScan::last() {
    set_range(PG_INT64_MIN, PG_INT64_MAX);
    while (!found_) {
        ItemPointer entry = index_getnext_tid(scan_, BackwardScanDirection);
        if (!entry) return false;
        (void)fetch(*entry);
    }
    // Every row of its run is there; none behind it is.
    ItemPointerData lead = place_;
    int64 lead_position = position_;
    int64 there = 0;
    int64 missing = MaxHeapTuplesPerPage;
    while (there + 1 < missing) {
        int64 middle = (there + missing) / 2;
        (fetch_in_run(lead, lead_position, middle) ? there : missing) = middle;
    }
    lead.ip_posid = static_cast<OffsetNumber>(lead.ip_posid + there);
    return fetch(lead);
}

}  // namespace outbox
