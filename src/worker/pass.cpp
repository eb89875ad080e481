// One pass over the log: what is committed and not sent yet goes to the sink. Relay process.
//
// Order. All of a pass is read under one snapshot. Positions that earlier snapshots did not show
// come first, then new ones, each in the order of positions: if a message depends on an earlier one
// (its transaction saw that one's data or waited for its lock), the earlier one has a lower
// position and is visible wherever the later one is, so it went before.
#include "fault_point.hpp"
#include "settings.hpp"
#include "shared/headers.hpp"
#include "storage/backlog.hpp"
#include "storage/deferred.hpp"
#include "storage/log_reader.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

// A pass ends here, so that the sink has work while the next one reads.
constexpr int kPassMessages = 8192;
constexpr size_t kPassBytes = 1 << 20;

class Pass {
  public:
    Pass(Relay* relay, const Schema& schema, Snapshot snapshot)
        : relay_(relay), schema_(schema), snapshot_(snapshot) {}

    // Gaps, then what is new. `last` is the last position given out before the snapshot was taken.
    Look run(int64 last) {
        if (!reader_.open(schema_, snapshot_, false)) return Look::Locked;
        row_context_ =
            AllocSetContextCreate(CurrentMemoryContext, "outbox row", ALLOCSET_DEFAULT_SIZES);
        for (const Gap& gap : relay_->gaps)
            revisit(gap);
        if (!full_) {
            relay_->resend_floor = PG_INT64_MAX;
            read_new(last);
        }
        reader_.close();
        OUTBOX_FAULT_POINT("relay-before-verdict");
        relay_->gaps.end_pass(schema_);
        // What an asynchronous commit made visible but not yet durable must not leave before it is.
        if (durable_from_ != InvalidXLogRecPtr) {
            OUTBOX_FAULT_POINT("relay-before-wal-flush");
            XLogFlush(durable_from_);
            OUTBOX_FAULT_POINT("relay-after-wal-flush");
        }
        if (deferred_ > 0 || parked_ > 0) {
            relay_->progress.deferred += deferred_;
            relay_->parked += parked_;
            save_progress_now(relay_, schema_);
            OUTBOX_FAULT_POINT("recovery-after-deferring");
        }
        if (!full_) return Look::Done;
        return sent_ > 0 && sink_has_room(*relay_, 0) ? Look::More : Look::Full;
    }

  private:
    enum class Offer : uint8_t { Taken, NoRoom };

    void revisit(const Gap& gap) {
        if (full_ || (TransactionIdIsValid(gap.owner) && XidInMVCCSnapshot(gap.owner, snapshot_))) {
            relay_->gaps.keep(gap);
            return;
        }
        int64 end = read(gap.from, gap.to, gap.cohort);
        if (full_) {
            // The rest has not been looked at under this snapshot: as it was.
            relay_->gaps.keep(Gap{end, gap.to, InvalidTransactionId, gap.cohort});
        }
    }

    void read_new(int64 last) {
        int64 from = relay_->progress.watermark + 1;
        highest_ = relay_->progress.watermark;
        int64 end = read(from, PG_INT64_MAX, kNotLookedAt);
        int64 watermark = full_ ? end - 1 : Max(highest_, last);
        if (!full_ && highest_ < last) {
            relay_->gaps.keep_absent(highest_ + 1, last, kNotLookedAt);
        }
        if (watermark != relay_->progress.watermark) {
            relay_->progress.watermark = watermark;
            relay_->progress_changed = true;
        }
    }

    // Reads from `from` to `to`; positions without a row become absent gaps of this cohort. Returns
    // the first position that was not dealt with, where full_ was set, and anything else otherwise.
    int64 read(int64 from, int64 to, uint32 cohort) {
        reader_.seek(from, to);
        int64 expected = from;
        Row row;
        for (;;) {
            RowKind kind = reader_.next(&row);
            if (kind == RowKind::End) break;
            CHECK_FOR_INTERRUPTS();
            if (kind == RowKind::Visible) {
                MemoryContext caller = MemoryContextSwitchTo(row_context_);
                reader_.load(&row);
                Offer offered = offer(row);
                MemoryContextSwitchTo(caller);
                MemoryContextReset(row_context_);
                if (offered == Offer::NoRoom) {
                    full_ = true;
                    if (row.position > expected)
                        relay_->gaps.keep_absent(expected, row.position - 1, cohort);
                    return row.position;
                }
            }
            if (row.position > expected)
                relay_->gaps.keep_absent(expected, row.position - 1, cohort);
            if (kind == RowKind::InProgress) {
                relay_->gaps.keep(Gap{row.position, row.position, row.owner, kNotLookedAt});
            }
            expected = row.position + 1;
            highest_ = row.position;
        }
        if (to != PG_INT64_MAX && expected <= to) relay_->gaps.keep_absent(expected, to, cohort);
        return expected;
    }

    Offer offer(const Row& row) {
        uint32 index = relay_->topics.index_of(row.topic, row.topic_length);
        Topic& topic = relay_->topics.at(index);
        // Before anything else: what waits for its topic is sent without asking for its key again.
        int64 head = 0;
        if (topic.has_parked && relay_->parked_keys.may_contain(row)) head = parked_head(row);
        if (head != 0) {
            defer_behind(row, head);
            ++parked_;
            return Offer::Taken;
        }
        if (topic.state != TopicState::Open) {
            if (topic.state == TopicState::Draining && row.position <= topic.drained_to)
                topic.rewind = true;
            defer(row, DeferredState::Waiting, Refusal{0, ""});
            ++deferred_;
            relay_->deferred_floor = Min(relay_->deferred_floor, row.position);
            return Offer::Taken;
        }
        size_t bytes = message_bytes(row);
        if (sent_ >= kPassMessages || sent_bytes_ >= kPassBytes || !sink_has_room(*relay_, bytes)) {
            return Offer::NoRoom;
        }
        require_durable(row.owner);
        send_message(relay_, row, index, Source::Log, false);
        ++sent_;
        ++relay_->messages_sent;
        sent_bytes_ += bytes;
        return Offer::Taken;
    }

    void require_durable(TransactionId owner) {
        if (owner == last_owner_) return;
        last_owner_ = owner;
        ++relay_->transactions_sent;
        XLogRecPtr commit = TransactionIdGetCommitLSN(owner);
        if (commit > durable_from_) durable_from_ = commit;
    }

    Relay* relay_;
    const Schema& schema_;
    Snapshot snapshot_;
    LogReader reader_;
    MemoryContext row_context_ = nullptr;
    bool full_ = false;  // no room for the next message
    int64 highest_ = 0;
    int sent_ = 0;
    size_t sent_bytes_ = 0;
    int deferred_ = 0;
    int parked_ = 0;
    TransactionId last_owner_ = InvalidTransactionId;
    XLogRecPtr durable_from_ = InvalidXLogRecPtr;
};

// Nobody has said yet whose messages these are: ours then, unless somebody pauses the relay just
// now, or has done so since its snapshot was taken. False: that can't be told yet.
bool adopt_unless_known(Relay* relay, const Schema& schema) {
    OUTBOX_FAULT_POINT("relay-before-adopting");
    if (!ConditionalLockRelationOid(schema.identity, ShareRowExclusiveLock)) return false;
    PushActiveSnapshot(GetLatestSnapshot());
    relay->standing = read_standing(schema, GetActiveSnapshot());
    PopActiveSnapshot();
    if (relay->standing != Standing::Unknown) return true;
    adopt(false);
    OUTBOX_FAULT_POINT("relay-after-adopting");
    relay->standing = Standing::Ours;
    return true;
}

// Settles what the table `identity` says about who may publish. Done: go on.
Look may_publish(Relay* relay, const Schema& schema, Snapshot snapshot) {
    relay->standing = read_standing(schema, snapshot);
    if (relay->standing == Standing::Unknown && !adopt_unless_known(relay, schema))
        return Look::Locked;
    set_identified(relay->slot, relay->standing != Standing::Foreign);
    return relay->standing == Standing::Ours ? Look::Done : Look::Resting;
}

}  // namespace

size_t message_bytes(const Row& row) {
    size_t headers = row.headers ? VARSIZE(row.headers) : 0;
    return sizeof(protocol::MessageHead) + row.topic_length + row.key_length + row.payload_length +
           headers;
}

bool sink_has_room(const Relay& relay, size_t bytes) {
    return relay.in_flight.has_room(bytes, settings.max_in_flight_messages,
                                    static_cast<size_t>(settings.max_in_flight_kb) * 1024);
}

void send_message(Relay* relay, const Row& row, uint32 topic, Source source, bool alone) {
    InFlightMessage entry = {row.position, static_cast<uint32>(message_bytes(row)), topic, source,
                             false};
    protocol::MessageHead head = {};
    head.number = relay->in_flight.add(entry);
    ++relay->topics.at(topic).in_flight;
    head.timestamp = row.time_ms;
    memcpy(head.id, row.id->data, sizeof(head.id));
    head.partition = row.has_partition ? row.partition : protocol::kNull;
    head.key_length = row.key ? static_cast<int32_t>(row.key_length) : protocol::kNull;
    head.payload_length = row.payload ? static_cast<int32_t>(row.payload_length) : protocol::kNull;
    head.topic_length = static_cast<uint16_t>(row.topic_length);
    head.flags = alone ? protocol::kFlagAlone : 0;

    SinkProcess& sink = relay->sink;
    sink.begin_frame(protocol::FrameType::Message);
    StringInfo body = sink.body();
    int head_at = body->len;
    appendBinaryStringInfo(body, reinterpret_cast<const char*>(&head), sizeof(head));
    appendBinaryStringInfo(body, row.topic, static_cast<int>(row.topic_length));
    if (row.key) appendBinaryStringInfo(body, row.key, static_cast<int>(row.key_length));
    if (row.payload)
        appendBinaryStringInfo(body, row.payload, static_cast<int>(row.payload_length));
    if (row.headers) {
        int headers_at = body->len;
        size_t bytes = 0;
        HeadersFound found = append_headers(body, row.headers, row.id->data, &bytes);
        head.header_count = found.count;
        if (found.complete) head.flags |= protocol::kFlagHeadersComplete;
        if (found.has_timestamp) head.timestamp = found.timestamp;
        head.headers_length = static_cast<uint32_t>(body->len - headers_at);
        memcpy(body->data + head_at, &head, sizeof(head));
    }
    sink.end_frame();
}

Look run_pass(Relay* relay) {
    StartTransactionCommand();
    SetCurrentStatementStartTimestamp();
    Schema schema;
    Look look = enter(*relay, &schema);
    if (look == Look::Done) {
        // In this order: what is running, then the snapshot that tells what of it has ended.
        int64 last = last_position(schema.sequence);
        relay->gaps.begin_pass(schema);
        OUTBOX_FAULT_POINT("relay-before-snapshot");
        Snapshot snapshot = GetTransactionSnapshot();
        PushActiveSnapshot(snapshot);
        OUTBOX_FAULT_POINT("relay-after-snapshot");
        look = may_publish(relay, schema, GetActiveSnapshot());
        if (look == Look::Done) {
            MemoryContext caller = MemoryContextSwitchTo(relay->scratch);
            Pass pass(relay, schema, GetActiveSnapshot());
            look = pass.run(last);
            MemoryContextSwitchTo(caller);
            if (look != Look::Locked) ++relay->passes;
        }
        PopActiveSnapshot();
    }
    CommitTransactionCommand();
    return look;
}

}  // namespace outbox
