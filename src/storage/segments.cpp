// The ring of segments: which one is active, and when one is emptied. Relay process.
#include "storage/segments.hpp"

#include "fault_point.hpp"
#include "settings.hpp"
#include "shared/timer.hpp"
#include "storage/extent.hpp"
#include "storage/segment_scan.hpp"

namespace outbox {

namespace {

// A lock that somebody else holds is tried again after this long, doubling up to the longest.
constexpr long kFirstLockRetryMs = 500;
constexpr long kLongestLockRetryMs = 5000;
constexpr int64 kBlockKb = BLCKSZ / 1024;

int64 size_kb(Oid segment) {
    Relation heap = table_open(segment, AccessShareLock);
    int64 blocks = RelationGetNumberOfBlocks(heap);
    if (OidIsValid(heap->rd_rel->reltoastrelid)) {
        Relation toast = table_open(heap->rd_rel->reltoastrelid, AccessShareLock);
        blocks += RelationGetNumberOfBlocks(toast);
        table_close(toast, NoLock);
    }
    table_close(heap, NoLock);
    return blocks * kBlockKb;
}

Extent extent_of(const Schema& schema, int segment) {
    Relation heap = table_open(schema.segments[segment], AccessShareLock);
    Extent extent = outbox::extent_of(heap, schema.segment_indexes[segment]);
    table_close(heap, NoLock);
    return extent;
}

bool is_empty(Oid segment) {
    Relation heap = table_open(segment, AccessShareLock);
    bool empty = RelationGetNumberOfBlocks(heap) == 0;
    table_close(heap, NoLock);
    return empty;
}

// How long a segment has been kept whose newest row has this time. Where that lies ahead, the clock
// was wrong when the row was written, or is now; then what this process has seen itself counts.
long kept_for_ms(TimestampTz newest, TimestampTz inactive_since) {
    TimestampTz now = GetCurrentTimestamp();
    if (newest <= now) return TimestampDifferenceMilliseconds(newest, now);
    return TimestampDifferenceMilliseconds(inactive_since, timer_now());
}

void sooner(long* again, long ms) {
    if (*again < 0 || ms < *again) *again = ms;
}

// What any_gap asks about each range: is there a row of this segment that may yet be a message?
struct Probe {
    Relation heap;
    Relation index;
};

bool row_present(void* context, int64 from, int64 to) {
    Probe* probe = static_cast<Probe*>(context);
    SegmentScan scan;
    scan.open(probe->heap, probe->index);
    if (!scan.seek(from, to)) (void)scan.look_behind();
    bool present = false;
    for (; scan.found() && !present; scan.next()) {
        HeapTuple tuple = ExecFetchSlotHeapTuple(scan.slot(), false, nullptr);
        TransactionId owner = HeapTupleHeaderGetXmin(tuple->t_data);
        // No open transaction has rows here, so what did not commit never will.
        present = !TransactionIdIsNormal(owner) || TransactionIdDidCommit(owner);
    }
    scan.close();
    return present;
}

}  // namespace

bool empty_relation(Oid relation) {
    if (!ConditionalLockRelationOid(relation, AccessExclusiveLock)) return false;
    Relation heap = table_open(relation, NoLock);
    CheckTableForSerializableConflictIn(heap);
    compat::set_new_storage(heap);
    Oid toast_id = heap->rd_rel->reltoastrelid;
    if (OidIsValid(toast_id)) {
        Relation toast = relation_open(toast_id, AccessExclusiveLock);
        compat::set_new_storage(toast);
        table_close(toast, NoLock);
    }
    compat::rebuild_indexes(relation);
    pgstat_count_truncate(heap);
    table_close(heap, NoLock);
    return true;
}

void SegmentRing::start(const Schema& schema) {
    int64 highest = -1;
    active_ = 0;
    for (int i = 0; i < kSegments; ++i) {
        Extent extent = extent_of(schema, i);
        if (!extent.any || extent.highest <= highest) continue;
        highest = extent.highest;
        active_ = i;
    }
    active_since_ = 0;
    for (TimestampTz& since : inactive_since_)
        since = timer_now();
    lock_retry_ms_ = 0;
}

long SegmentRing::maintain(const Schema& schema, const SettledView& settled) {
    long again = -1;
    (void)switch_if_due(schema, &again);
    for (int i = 1; i < kSegments; ++i) {
        int segment = (active_ + i) % kSegments;
        if (is_empty(schema.segments[segment])) continue;
        // The active one may be waiting for this one to become empty.
        if (empty_if_settled(schema, segment, settled, &again)) sooner(&again, 0);
    }
    return again;
}

bool SegmentRing::switch_if_due(const Schema& schema, long* again) {
    if (is_empty(schema.segments[active_])) {
        active_since_ = 0;
        return false;
    }
    TimestampTz now = timer_now();
    if (active_since_ == 0) active_since_ = now;
    long age_ms = TimestampDifferenceMilliseconds(active_since_, now);
    long max_age_ms = static_cast<long>(settings.segment_max_age_s) * 1000;
    bool due =
        age_ms >= max_age_ms || size_kb(schema.segments[active_]) >= settings.segment_size_kb;
    if (!due) {
        sooner(again, max_age_ms - age_ms);
        return false;
    }
    // The next one that is empty: a segment that somebody keeps is passed over. If there is none
    // the active one grows on, and emptying another brings us back here.
    for (int i = 1; i < kSegments; ++i) {
        int next = (active_ + i) % kSegments;
        if (!is_empty(schema.segments[next])) continue;
        OUTBOX_FAULT_POINT("ring-before-switch");
        inactive_since_[active_] = now;
        active_ = next;
        active_since_ = 0;
        OUTBOX_FAULT_POINT("ring-after-switch");
        return true;
    }
    return false;
}

bool SegmentRing::empty_if_settled(const Schema& schema, int segment, const SettledView& settled,
                                   long* again) {
    Extent extent = extent_of(schema, segment);
    // Not read yet, or on its way: progress brings us back.
    if (extent.any) {
        if (extent.highest > settled.watermark()) return false;
        if (settled.any_in_flight(extent.lowest, extent.highest)) return false;
        long kept_ms = kept_for_ms(extent.newest, inactive_since_[segment]);
        long retention_ms = static_cast<long>(settings.retention_s) * 1000;
        if (kept_ms < retention_ms) {
            sooner(again, retention_ms - kept_ms);
            return false;
        }
    }
    OUTBOX_FAULT_POINT("ring-before-lock");
    if (!ConditionalLockRelationOid(schema.segments[segment], AccessExclusiveLock)) {
        lock_retry_ms_ =
            lock_retry_ms_ == 0 ? kFirstLockRetryMs : Min(lock_retry_ms_ * 2, kLongestLockRetryMs);
        sooner(again, lock_retry_ms_);
        return false;
    }
    // Under the lock nobody can add a row any more: look again.
    extent = extent_of(schema, segment);
    if (extent.any) {
        if (extent.highest > settled.watermark()) return false;
        Probe probe = {table_open(schema.segments[segment], NoLock),
                       index_open(schema.segment_indexes[segment], AccessShareLock)};
        bool present = settled.any_gap(extent.lowest, extent.highest, row_present, &probe);
        index_close(probe.index, NoLock);
        table_close(probe.heap, NoLock);
        if (present) return false;
    }
    OUTBOX_FAULT_POINT("ring-before-emptying");
    if (!empty_relation(schema.segments[segment])) return false;
    OUTBOX_FAULT_POINT("ring-after-emptying");
    lock_retry_ms_ = 0;
    return true;
}

}  // namespace outbox
