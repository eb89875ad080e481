// What the sink says: deliveries, failures, conditions. Relay process.
#include "fault_point.hpp"
#include "shared/timer.hpp"
#include "storage/log_reader.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

using protocol::Report;
using protocol::ReportBuffer;

// A line of a sink's in the server's log is at most this long.
constexpr size_t kLogLineLength = 1000;

// The sink broke the protocol; for the caller to return.
bool complain(Relay* relay, const char* format, ...) pg_attribute_printf(2, 3);
bool complain(Relay* relay, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(relay->complaint, sizeof(relay->complaint), format, arguments);
    va_end(arguments);
    return false;
}

bool damaged(Relay* relay, const Report& report) {
    return complain(relay, "a damaged %s report of %u bytes", protocol::report_name(report.type),
                    report.length);
}

// Whether the server's log takes one more line on account of what a sink said. Words of how many
// were left out go to `more`, which stays empty if there were none.
bool may_log(Relay* relay, char* more, size_t size) {
    *more = '\0';
    if (!relay->sink_lines.admit(timer_now() / 1000)) return false;
    int64 held_back = relay->sink_lines.take_held_back();
    if (held_back > 0)
        snprintf(more, size, " (" INT64_FORMAT " lines before this one were left out)", held_back);
    return true;
}

void remember_removal(Relay* relay, int64 position) {
    if (relay->removal_count == relay->removal_capacity) {
        int room = Max(256, relay->removal_capacity * 2);
        Size bytes = sizeof(int64) * static_cast<Size>(room);
        relay->removals =
            static_cast<int64*>(relay->removals ? repalloc_huge(relay->removals, bytes)
                                                : MemoryContextAllocHuge(TopMemoryContext, bytes));
        relay->removal_capacity = room;
    }
    relay->removals[relay->removal_count++] = position;
}

bool on_ready(Relay* relay, const Report& report) {
    protocol::ReadyView ready;
    if (!protocol::decode_ready(report, &ready)) return damaged(relay, report);
    if (ready.version != protocol::kVersion) {
        return complain(relay,
                        "it speaks version %u and the relay version %u; install one release of "
                        "outbox and restart the server",
                        ready.version, protocol::kVersion);
    }
    if (relay->sink_greeted) return complain(relay, "it said Ready twice");
    relay->sink_greeted = true;
    // A sink that was told to drain before it was ready has nothing more to do.
    if (relay->sink.state() == SinkProcess::State::Starting) relay->sink.set_ready();
    relay->sink_failed = false;
    char name[kNameLength];
    size_t length = protocol::copy_plain(ready.name, name, sizeof(name));
    SpinLockAcquire(&relay->slot->mutex);
    memcpy(relay->slot->sink_name, name, length + 1);
    SpinLockRelease(&relay->slot->mutex);
    return true;
}

// The message with this number, which is answered herewith; nullptr if the sink cannot have one.
InFlightMessage* answered(Relay* relay, uint64 number) {
    InFlightMessage* message = relay->in_flight.find(number);
    if (!message || number > relay->sink.last_sent()) {
        (void)complain(relay, "it answered for message " UINT64_FORMAT ", which it does not have",
                       number);
        return nullptr;
    }
    --relay->topics.at(message->topic).in_flight;
    relay->progress_changed = true;
    return message;
}

bool on_delivered(Relay* relay, const Report& report) {
    OUTBOX_FAULT_POINT("relay-before-report");
    uint32 count;
    if (!protocol::decode_delivered(report, &count)) return damaged(relay, report);
    for (uint32 i = 0; i < count; ++i) {
        InFlightMessage* message = answered(relay, protocol::number_at(report, i));
        if (!message) return false;
        Topic& topic = relay->topics.at(message->topic);
        if (message->source == Source::Deferred) {
            remember_removal(relay, message->position);
            --relay->progress.deferred;
        }
        if (topic.state == TopicState::Probing) {
            relay->topics.set_state(&topic, TopicState::Draining);
            topic.backoff.reset();
        }
        topic.fruitless = 0;
        ++relay->progress.delivered;
        relay->in_flight.answer(message);
    }
    OUTBOX_FAULT_POINT("relay-after-report");
    relay->sink_delivered = true;
    relay->delivered_at = GetCurrentTimestamp();
    relay->sink_in_trouble = false;
    relay->sink_backoff.reset();
    return true;
}

bool on_failed(Relay* relay, const Report& report) {
    protocol::FailedView failed;
    if (!protocol::decode_failed(report, &failed)) return damaged(relay, report);
    InFlightMessage* message = answered(relay, failed.head.number);
    if (!message) return false;
    Topic* topic = &relay->topics.at(message->topic);
    bool alone = topic->state == TopicState::Probing;
    bool refused = failed.head.kind == protocol::FailureKind::Message;
    relay->topics.note_failure(topic, failed.head.kind, failed.head.code, failed.text.data,
                               failed.text.length);
    if (refused && alone) topic->to_park = message->position;
    if (message->source == Source::Log) {
        relay->topics.came_back(topic, message->position, refused);
    } else if (refused && !alone) {
        relay->topics.came_back(topic, -message->position, true);
    }
    relay->in_flight.answer(message);
    if (failed.head.kind == protocol::FailureKind::Returned) return true;
    topic->fruitless = 0;
    char line[kErrorLength];
    snprintf(line, sizeof(line), "topic \"%s\": %s", topic->name, topic->error);
    set_last_error(relay->slot, line);
    return true;
}

bool on_condition(Relay* relay, const Report& report) {
    protocol::ConditionView condition;
    if (!protocol::decode_condition(report, &condition)) return damaged(relay, report);
    char text[kLogLineLength];
    char more[100];
    protocol::copy_plain(condition.text, text, sizeof(text));
    bool trouble = condition.head.trouble != 0;
    bool fatal = condition.head.fatal != 0;
    if (trouble) set_last_error(relay->slot, text);
    // Once for each state, not once for each attempt.
    if (fatal && !relay->sink_failed) {
        if (may_log(relay, more, sizeof(more)))
            ereport(WARNING, (errmsg("outbox cannot send messages: %s%s", text, more)));
    } else if (trouble && !relay->sink_in_trouble && !relay->sink_failed) {
        if (may_log(relay, more, sizeof(more)))
            ereport(LOG, (errmsg("outbox waits for its broker: %s%s", text, more)));
    } else if (!trouble && relay->sink_in_trouble) {
        if (may_log(relay, more, sizeof(more)))
            ereport(LOG, (errmsg("outbox has reached its broker again%s", more)));
    }
    if (fatal) relay->sink_failed = relay->sink_said_why = true;
    relay->sink_in_trouble = trouble;
    return true;
}

bool on_log(Relay* relay, const Report& report) {
    protocol::LogView log;
    if (!protocol::decode_log(report, &log)) return damaged(relay, report);
    char text[kLogLineLength];
    char more[100];
    protocol::copy_plain(log.text, text, sizeof(text));
    if (log.level > protocol::LogLevel::Warning) {
        ereport(DEBUG1, (errmsg("outbox sink: %s", text)));
    } else if (may_log(relay, more, sizeof(more))) {
        ereport(LOG, (errmsg("outbox sink: %s%s", text, more)));
    }
    return true;
}

bool on_statistics(Relay* relay, const Report& report) {
    if (!protocol::decode_statistics(report)) return damaged(relay, report);
    SpinLockAcquire(&relay->slot->mutex);
    memcpy(relay->slot->sink_statistics, report.body, report.length);
    relay->slot->sink_statistics[report.length] = '\0';
    SpinLockRelease(&relay->slot->mutex);
    return true;
}

static_assert(protocol::kMaxStatistics < kStatisticsLength);

// It may be stopped, unless there is something for it by now, or it has just been in trouble: then
// it will say so again.
bool on_idle(Relay* relay) {
    SinkProcess& sink = relay->sink;
    bool idle = sink.state() == SinkProcess::State::Ready && sink.unwritten() == 0 &&
                relay->in_flight.count() == 0 && !relay->sink_in_trouble;
    if (idle) sink.freeze();
    return true;
}

// False: it is none that a sink may send, or not now; relay->complaint says why.
bool handle(Relay* relay, const Report& report) {
    switch (report.type) {
        case protocol::FrameType::Ready:
            return on_ready(relay, report);
        case protocol::FrameType::Delivered:
            return on_delivered(relay, report);
        case protocol::FrameType::Failed:
            return on_failed(relay, report);
        case protocol::FrameType::Condition:
            return on_condition(relay, report);
        case protocol::FrameType::Log:
            return on_log(relay, report);
        case protocol::FrameType::Statistics:
            return on_statistics(relay, report);
        case protocol::FrameType::Idle:
            return on_idle(relay);
        default:
            return false;  // not reached: ReportBuffer knows the types
    }
}

}  // namespace

Heard handle_reports(Relay* relay) {
    bool there = relay->sink.receive();
    Report report;
    for (;;) {
        switch (relay->sink.next(&report)) {
            case ReportBuffer::Next::Report:
                if (!handle(relay, report)) return Heard::Nonsense;
                break;
            case ReportBuffer::Next::Nothing:
                return there ? Heard::Reports : Heard::Farewell;
            case ReportBuffer::Next::Damage:
                (void)complain(relay, "a frame of type %d with %u bytes",
                               static_cast<int>(report.type), report.length);
                return Heard::Nonsense;
        }
    }
}

void take_back_unanswered(Relay* relay) {
    int count = 0;
    int64* positions = static_cast<int64*>(MemoryContextAllocHuge(
        CurrentMemoryContext, sizeof(int64) * static_cast<Size>(relay->in_flight.count() + 1)));
    Topics& topics = relay->topics;
    relay->in_flight.each([&](const InFlightMessage& message) {
        Topic& topic = topics.at(message.topic);
        --topic.in_flight;
        if (message.source == Source::Log) {
            positions[count++] = message.position;
        } else if (topic.state == TopicState::Open) {
            // It was opened because all that was deferred had been sent; some of it has to be sent
            // again.
            topics.set_state(&topic, TopicState::Draining);
        }
    });
    relay->in_flight.clear();
    for (uint32 i = 0; i < topics.count(); ++i) {
        Topic& topic = topics.at(i);
        topic.closed_at_sink = false;
        topic.drained_to = 0;
        topic.rewind = false;
        if (topic.state == TopicState::Probing) topics.set_state(&topic, TopicState::Waiting);
    }
    relay->gaps.take_back(positions, count);
    if (count > 0) relay->resend_floor = Min(relay->resend_floor, positions[0]);
    OUTBOX_FAULT_POINT("relay-after-taking-back");
    pfree(positions);
}

}  // namespace outbox
