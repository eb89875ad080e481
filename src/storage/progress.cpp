// How far the relay is, on disk. Relay writes; sessions read for outbox.status.
#include "storage/progress.hpp"

#include "storage/segments.hpp"
#include "storage/spi.hpp"

namespace outbox {

namespace {

// A table this large is left for the other one: some thousand rows.
constexpr BlockNumber kLargeBlocks = 64;

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
    return empty_relation(schema.progress[other]) ? other : present;
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

Progress load_progress() {
    Progress progress = {};
    MemoryContext caller = CurrentMemoryContext;
    spi_begin();
    spi_execute(
        "SELECT p.number, p.watermark, p.delivered, p.deferred, p.which, "
        "       pg_catalog.lower(r.r), pg_catalog.upper(r.r) - 1 "
        "FROM (SELECT *, 0 AS which FROM outbox.progress_1 UNION ALL SELECT *, 1 FROM "
        "outbox.progress_2 "
        "      ORDER BY number DESC LIMIT 1) AS p "
        "LEFT JOIN LATERAL pg_catalog.unnest(p.unsettled) AS r (r) ON true ORDER BY 6",
        SPI_OK_SELECT);
    if (SPI_processed > 0) {
        bool null;
        progress.number = spi_int64(0, 1);
        progress.watermark = spi_int64(0, 2);
        progress.delivered = spi_int64(0, 3);
        progress.deferred = spi_int64(0, 4);
        progress.table = DatumGetInt32(spi_value(0, 5, &null));
        progress.unsettled = static_cast<PositionRange*>(MemoryContextAllocHuge(
            caller, sizeof(PositionRange) * static_cast<Size>(SPI_processed)));
        for (uint64 i = 0; i < SPI_processed; ++i) {
            (void)spi_value(i, 6, &null);
            if (null) continue;
            progress.unsettled[progress.unsettled_count++] =
                PositionRange{spi_int64(i, 6), spi_int64(i, 7)};
        }
    }
    spi_end();
    return progress;
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
