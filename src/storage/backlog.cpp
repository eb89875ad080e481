// What the log holds beyond the saved progress, seen from outside the relay's memory. Sessions and
// relay.
#include "storage/backlog.hpp"

namespace outbox {

namespace {

bool find_visible(LogReader* reader, int64 from, int64 to, Row* row) {
    reader->seek(from, to);
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        RowKind kind = reader->next(row);
        if (kind == RowKind::End) return false;
        if (kind == RowKind::Visible) return true;
    }
}

// Adds to `left` what between `from` and `to` is not a committed message and may yet become one;
// returns the number of committed messages. `*highest` becomes the highest position with a row.
int64 skip_visible(LogReader* reader, int64 from, int64 to, RangeList* left, int64* highest) {
    int64 visible = 0;
    int64 expected = from;
    Row row;
    reader->seek(from, to);
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        RowKind kind = reader->next(&row);
        if (kind == RowKind::End) break;
        left->add(expected, row.position - 1);
        if (kind == RowKind::Visible) ++visible;
        if (kind == RowKind::InProgress) left->add(row.position, row.position);
        expected = row.position + 1;
        *highest = row.position;
    }
    if (to != PG_INT64_MAX) left->add(expected, to);
    return visible;
}

}  // namespace

bool first_unsettled(const Schema& schema, Snapshot snapshot, const Progress& progress, Row* row) {
    LogReader reader;
    (void)reader.open(schema, snapshot, true);
    bool found = false;
    for (int i = 0; i < progress.unsettled_count && !found; ++i) {
        found = find_visible(&reader, progress.unsettled[i].from, progress.unsettled[i].to, row);
    }
    found = found || find_visible(&reader, progress.watermark + 1, PG_INT64_MAX, row);
    if (found) {
        reader.load(row);
        // The caller needs no more than these two once the reader is closed.
        int64 position = row->position;
        TimestampTz time = row->time;
        memset(static_cast<void*>(row), 0, sizeof(*row));
        row->position = position;
        row->time = time;
    }
    reader.close();
    return found;
}

int64 settle_visible(const Schema& schema, Snapshot snapshot, int64 last, Progress* progress) {
    LogReader reader;
    (void)reader.open(schema, snapshot, true);
    RangeList left;
    int64 visible = 0;
    int64 ignored = 0;
    for (int i = 0; i < progress->unsettled_count; ++i) {
        const PositionRange& range = progress->unsettled[i];
        visible += skip_visible(&reader, range.from, range.to, &left, &ignored);
    }
    int64 highest = progress->watermark;
    visible += skip_visible(&reader, progress->watermark + 1, PG_INT64_MAX, &left, &highest);
    left.add(highest + 1, last);
    reader.close();
    progress->watermark = Max(highest, last);
    progress->unsettled = left.list;
    progress->unsettled_count = left.count;
    return visible;
}

int64 last_position(Oid sequence) {
    LOCAL_FCINFO(call, 1);
    FmgrInfo function;
    fmgr_info(F_PG_SEQUENCE_LAST_VALUE, &function);
    InitFunctionCallInfoData(*call, &function, 1, InvalidOid, nullptr, nullptr);
    call->args[0].value = ObjectIdGetDatum(sequence);
    call->args[0].isnull = false;
    Datum value = FunctionCallInvoke(call);
    return call->isnull ? 0 : DatumGetInt64(value);
}

}  // namespace outbox
