// How far the relay is, on disk. Relay writes; sessions read for outbox.status.
#include "storage/progress.hpp"

#include "fault_point.hpp"
#include "storage/segments.hpp"
#include "storage/spi.hpp"

namespace outbox {

namespace {

// A table this large is left for the other one: some thousand rows.
#ifdef OUTBOX_FAULT_POINTS
constexpr BlockNumber kLargeBlocks = 2;  // so that a test comes by
#else
constexpr BlockNumber kLargeBlocks = 64;
#endif

int compare_ranges(const void* a, const void* b) {
    int64 left = static_cast<const PositionRange*>(a)->from;
    int64 right = static_cast<const PositionRange*>(b)->from;
    return left < right ? -1 : left > right;
}

int compare_distances(const void* a, const void* b) {
    int64 left = *static_cast<const int64*>(a);
    int64 right = *static_cast<const int64*>(b);
    return left < right ? -1 : left > right;
}

// The ranges of a multirange, in order.
void read_ranges(Datum value, Progress* progress) {
    MultirangeType* ranges = DatumGetMultirangeTypeP(value);
    TypeCacheEntry* type = lookup_type_cache(INT8MULTIRANGEOID, TYPECACHE_MULTIRANGE_INFO);
    uint32 count = ranges->rangeCount;
    progress->unsettled = static_cast<PositionRange*>(
        MemoryContextAllocHuge(CurrentMemoryContext, sizeof(PositionRange) * (count + 1)));
    progress->unsettled_count = static_cast<int>(count);
    for (uint32 i = 0; i < count; ++i) {
        RangeBound lower;
        RangeBound upper;
        multirange_get_bounds(type->rngtype, ranges, i, &lower, &upper);
        progress->unsettled[i] =
            PositionRange{DatumGetInt64(lower.val), DatumGetInt64(upper.val) - 1};
    }
}

// Takes the row in `slot` if it is newer than what is there.
void take_newer(TupleTableSlot* slot, int table, Progress* progress) {
    enum : AttrNumber { kNumber = 1, kWatermark, kUnsettled, kDelivered, kDeferred };
    bool null;
    int64 number = DatumGetInt64(slot_getattr(slot, kNumber, &null));
    if (number <= progress->number) return;
    progress->number = number;
    progress->table = table;
    progress->watermark = DatumGetInt64(slot_getattr(slot, kWatermark, &null));
    progress->delivered = DatumGetInt64(slot_getattr(slot, kDelivered, &null));
    progress->deferred = DatumGetInt64(slot_getattr(slot, kDeferred, &null));
    read_ranges(slot_getattr(slot, kUnsettled, &null), progress);
}

// The text of a multirange.
char* print_ranges(const PositionRange* ranges, int count) {
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfoChar(&text, '{');
    for (int i = 0; i < count; ++i) {
        appendStringInfo(&text, "%s[" INT64_FORMAT "," INT64_FORMAT "]", i > 0 ? "," : "",
                         ranges[i].from, ranges[i].to);
    }
    appendStringInfoChar(&text, '}');
    return text.data;
}

BlockNumber blocks_of(Oid table) {
    Relation relation = table_open(table, AccessShareLock);
    BlockNumber blocks = RelationGetNumberOfBlocks(relation);
    table_close(relation, NoLock);
    return blocks;
}

// The table to write to: the present one, or the other, freshly emptied, if this one is large and
// nobody is looking at that one.
int choose_table(const Schema& schema, int present) {
    if (blocks_of(schema.progress[present]) < kLargeBlocks) return present;
    int other = (present + 1) % kProgressTables;
    if (!empty_relation(schema.progress[other])) return present;
    OUTBOX_FAULT_POINT("relay-after-emptying-progress");
    return other;
}

}  // namespace

int normalize_ranges(PositionRange* ranges, int count, int most) {
    if (count == 0) return 0;
    qsort(ranges, static_cast<size_t>(count), sizeof(PositionRange), compare_ranges);
    int last = 0;
    for (int i = 1; i < count; ++i) {
        if (ranges[i].from <= ranges[last].to + 1) {
            ranges[last].to = Max(ranges[last].to, ranges[i].to);
        } else {
            ranges[++last] = ranges[i];
        }
    }
    count = last + 1;
    if (count <= most) return count;

    // Join across every distance up to the one that leaves `most` ranges.
    int64* distances = static_cast<int64*>(palloc(sizeof(int64) * static_cast<size_t>(count - 1)));
    for (int i = 1; i < count; ++i)
        distances[i - 1] = ranges[i].from - ranges[i - 1].to;
    qsort(distances, static_cast<size_t>(count - 1), sizeof(int64), compare_distances);
    int64 joined = distances[count - 1 - most];
    pfree(distances);
    last = 0;
    for (int i = 1; i < count; ++i) {
        if (ranges[i].from - ranges[last].to <= joined) {
            ranges[last].to = ranges[i].to;
        } else {
            ranges[++last] = ranges[i];
        }
    }
    return last + 1;
}

Progress read_progress(const Schema& schema, Snapshot snapshot, bool wait) {
    Progress progress = {};
    for (int i = 0; i < kProgressTables; ++i) {
        if (wait) {
            LockRelationOid(schema.progress[i], AccessShareLock);
        } else if (!ConditionalLockRelationOid(schema.progress[i], AccessShareLock)) {
            continue;
        }
        Relation heap = table_open(schema.progress[i], NoLock);
        Relation index = index_open(schema.progress_indexes[i], AccessShareLock);
        TupleTableSlot* slot = table_slot_create(heap, nullptr);
        IndexScanDesc scan = compat::begin_index_scan(heap, index, snapshot, 0);
        index_rescan(scan, nullptr, 0, nullptr, 0);
        // The highest number is the last.
        if (index_getnext_slot(scan, BackwardScanDirection, slot)) take_newer(slot, i, &progress);
        index_endscan(scan);
        ExecDropSingleTupleTableSlot(slot);
        index_close(index, AccessShareLock);
        table_close(heap, AccessShareLock);
    }
    return progress;
}

Progress load_progress() {
    Schema schema;
    if (!find_schema(&schema)) return Progress{};
    return read_progress(schema, GetActiveSnapshot(), true);
}

void save_progress(const Schema& schema, Progress* progress) {
    progress->table = choose_table(schema, progress->table);
    ++progress->number;
    Oid types[] = {INT8OID, INT8OID, TEXTOID, INT8OID, INT8OID};
    char* unsettled = print_ranges(progress->unsettled, progress->unsettled_count);
    Datum values[] = {Int64GetDatum(progress->number), Int64GetDatum(progress->watermark),
                      CStringGetTextDatum(unsettled), Int64GetDatum(progress->delivered),
                      Int64GetDatum(progress->deferred)};
    spi_begin();
    spi_execute(
        progress->table == 0
            ? "INSERT INTO outbox.progress_1 (number, watermark, unsettled, delivered, deferred, "
              "time) "
              "VALUES ($1, $2, $3::pg_catalog.int8multirange, $4, $5, pg_catalog.clock_timestamp())"
            : "INSERT INTO outbox.progress_2 (number, watermark, unsettled, delivered, deferred, "
              "time) "
              "VALUES ($1, $2, $3::pg_catalog.int8multirange, $4, $5, "
              "pg_catalog.clock_timestamp())",
        SPI_OK_INSERT, 5, types, values);
    spi_end();
}

}  // namespace outbox
