// outbox.backlog_limit: the size of the backlog at which emit() refuses. Session's backend.
//
// The figure in shared memory is never too low for long: it was measured, and writers have added to
// it since. So below the limit nothing has to be looked at; above it somebody measures, and only
// what was measured refuses. Whether a relay is at work makes no difference.
#include "session/backlog_limit.hpp"

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

// What a relay at work has in its memory; false: there is none.
bool ask_relay(RelaySlot* slot, int64* watermark, int64* open, int64* deferred) {
    if (!slot) return false;
    SpinLockAcquire(&slot->mutex);
    bool works = slot->pid != 0 && slot->snapshots > 0 &&
                 (slot->state == RelayState::Connecting || slot->state == RelayState::Running ||
                  slot->state == RelayState::Waiting);
    *watermark = slot->watermark;
    *open = slot->open_positions;
    *deferred = slot->deferred;
    SpinLockRelease(&slot->mutex);
    return works;
}

// How far the relay is. What is saved says which positions are open, some tens of milliseconds
// late; a relay at work how many of those are open still, which is `*part` of them.
Progress present_progress(RelaySlot* slot, const Schema& schema, double* part) {
    int64 watermark;
    int64 open;
    int64 deferred;
    bool works = ask_relay(slot, &watermark, &open, &deferred);
    // The newest that is committed at this moment: not under a snapshot, with which a serializable
    // transaction would be known to have read it.
    Progress progress = read_progress(schema, SnapshotSelf, false);
    *part = 1.0;
    if (!works) return progress;
    RangeList ranges;
    int64 positions = 0;
    for (int i = 0; i < progress.unsettled_count; ++i)
        ranges.add(progress.unsettled[i].from, progress.unsettled[i].to);
    ranges.add(progress.watermark + 1, watermark);
    for (int i = 0; i < ranges.count; ++i)
        positions += ranges.list[i].to - ranges.list[i].from + 1;
    progress.unsettled = ranges.list;
    progress.unsettled_count = ranges.count;
    progress.watermark = Max(progress.watermark, watermark);
    progress.deferred = deferred;
    if (open < positions) *part = static_cast<double>(open) / static_cast<double>(positions);
    return progress;
}

// Why it may be that so much waits, without the broker's words: those are not for every role.
const char* circumstances(RelaySlot* slot) {
    if (!slot) return "No relay is at work in this database.";
    SpinLockAcquire(&slot->mutex);
    RelayState state = slot->state;
    TimestampTz delivered_at = slot->delivered_at;
    SpinLockRelease(&slot->mutex);
    return psprintf("The relay is in state \"%s\" and has delivered nothing since %s.",
                    relay_state_name(state),
                    delivered_at == 0 ? "the server started" : timestamptz_to_str(delivered_at));
}

[[noreturn]] void refuse(RelaySlot* slot, int64 bytes, int64 own, int64 limit) {
    const char* amount = psprintf(
        "%s wait to be delivered, this transaction has emitted %s, and "
        "outbox.backlog_limit is %s.",
        pretty(bytes), pretty(own), pretty(limit));
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("the backlog of messages has reached its limit"),
                    errdetail("%s %s", amount, circumstances(slot)),
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
    Progress progress = present_progress(slot, schema, &part);
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
    if (bytes + more > limit) refuse(slot, bytes, own, limit);
}

void note_written() {
    figure_of(find_slot(MyDatabaseId))->add(own_bytes() * kCaution);
}

}  // namespace outbox
