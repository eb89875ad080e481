// outbox.backlog_limit: the size of the backlog at which emit() refuses. Session's backend.
//
// The figure in shared memory is never too low for long: it was measured, and writers have added to
// it since. So below the limit nothing has to be looked at; above it somebody measures, and only
// what was measured refuses. Whether a relay is at work makes no difference.
#include "session/backlog_limit.hpp"

#include "session/relay_view.hpp"
#include "session/transaction_buffer.hpp"
#include "shared/shared_state.hpp"
#include "shared/timer.hpp"
#include "storage/backlog_size.hpp"
#include "storage/schema.hpp"

namespace outbox {

namespace {

// At the limit many may be refused at once: one measures for all of them.
constexpr int kRefusalMs = 10;
// What moves without a writer (an operator's command, say) is noticed after this long.
constexpr int kFreshMs = 10 * 1000;
// Without a slot nobody adds what other sessions write.
constexpr int kFreshAloneMs = 1000;
// How full pages get can't be told beforehand: one row of a bit more than half a page takes all of
// it. So what is written counts twice until it is measured, which then happens the more often the
// nearer the limit is.
constexpr int64 kCaution = 2;

// Where the database has no slot: its relay has not been asked for yet, or there are more databases
// than relays.
BacklogFigure* figure_alone() {
    static BacklogFigure figure;
    static bool ready = false;
    if (!ready) figure.init();
    ready = true;
    return &figure;
}

BacklogFigure* figure_of(RelaySlot* slot) {
    return slot ? &slot->backlog : figure_alone();
}

// What this transaction's messages will take.
int64 own_bytes() {
    return static_cast<int64>(transaction_buffer.bytes()) +
           transaction_buffer.count() * kRowOverhead;
}

const char* pretty(int64 bytes) {
    return TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(bytes)));
}

// How far the relay is. What is saved says which positions are open, some tens of milliseconds
// late; a relay at work how many of those are open still, which is `*part` of them.
Progress present_progress(const Schema& schema, double* part) {
    SlotView relay = look_at_slot();
    // The newest that is committed at this moment: not under a snapshot, with which a serializable
    // transaction would be known to have read it.
    Progress progress = read_progress(schema, SnapshotSelf, false);
    *part = 1.0;
    if (!relay.working) return progress;
    RangeList ranges;
    int64 positions = 0;
    for (int i = 0; i < progress.unsettled_count; ++i)
        ranges.add(progress.unsettled[i].from, progress.unsettled[i].to);
    ranges.add(progress.watermark + 1, relay.watermark);
    for (int i = 0; i < ranges.count; ++i)
        positions += ranges.list[i].to - ranges.list[i].from + 1;
    progress.unsettled = ranges.list;
    progress.unsettled_count = ranges.count;
    progress.watermark = Max(progress.watermark, relay.watermark);
    progress.deferred = relay.deferred;
    if (relay.open_positions < positions)
        *part = static_cast<double>(relay.open_positions) / static_cast<double>(positions);
    return progress;
}

// Why it may be that so much waits, without the broker's words: those are not for every role.
const char* circumstances() {
    SlotView relay = look_at_slot();
    if (!relay.there) return "No relay is at work in this database.";
    return psprintf(
        "The relay is in state \"%s\" and has delivered nothing since %s.",
        relay_state_name(relay.state),
        relay.delivered_at == 0 ? "the server started" : timestamptz_to_str(relay.delivered_at));
}

[[noreturn]] void refuse(int64 bytes, int64 own, int64 limit) {
    const char* amount = psprintf(
        "%s wait to be delivered, this transaction has emitted %s, and "
        "outbox.backlog_limit is %s.",
        pretty(bytes), pretty(own), pretty(limit));
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("the backlog of messages has reached its limit"),
                    errdetail("%s %s", amount, circumstances()),
                    errhint("What is stored will be delivered; outbox.status shows what delays it. "
                            "Raise outbox.backlog_limit if there is room on the disk.")));
}

}  // namespace

int64 measure_backlog(const Schema& schema, double* growth) {
    RelaySlot* slot = find_slot(MyDatabaseId);
    BacklogFigure* figure = figure_of(slot);
    // In this order: rows that are written meanwhile may count twice, but never not at all.
    int64 written = figure->written();
    double part;
    Progress progress = present_progress(schema, &part);
    int64 bytes = backlog_bytes(schema, progress, part);
    TimestampTz now = timer_now();
    if (growth) *growth = figure->growth(now, bytes);
    figure->set(written, bytes, now);
    return bytes;
}

void check_backlog_limit(size_t message_bytes) {
    RelaySlot* slot = find_slot(MyDatabaseId);
    BacklogFigure* figure = figure_of(slot);
    int64 limit = static_cast<int64>(settings.backlog_limit_kb) * 1024;
    int64 own = own_bytes();
    int64 more = own + static_cast<int64>(message_bytes) + kRowOverhead;
    TimestampTz measured_at = figure->measured_at();
    TimestampTz now = timer_now();
    bool fresh = !TimestampDifferenceExceeds(measured_at, now, slot ? kFreshMs : kFreshAloneMs);
    if (fresh && figure->bytes() + more <= limit) return;

    int64 bytes = figure->measured();
    bool refused_just_now = bytes + more > limit && figure->bytes() < BacklogFigure::kUnknown &&
                            !TimestampDifferenceExceeds(measured_at, now, kRefusalMs);
    if (!refused_just_now) {
        Schema schema;
        // Without the extension emit() fails for another reason.
        if (!find_schema(&schema)) return;
        bytes = measure_backlog(schema, nullptr);
    }
    if (bytes + more > limit) refuse(bytes, own, limit);
}

void note_written() {
    figure_of(find_slot(MyDatabaseId))->add(own_bytes() * kCaution);
}

}  // namespace outbox
