// What the sink says: deliveries, failures, conditions. Relay process.
#include "fault_point.hpp"
#include "storage/log_reader.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

using protocol::BodyReader;
using protocol::Bytes;

char* copy_text(Bytes text) {
    return pnstrdup(text.data, text.length);
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

void on_ready(Relay* relay, BodyReader body) {
    uint32 version = body.get<uint32_t>();
    Bytes name = body.rest();
    if (version != protocol::kVersion) {
        ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                        errmsg("sink and relay are of different versions (protocol %u and %u)",
                               version, protocol::kVersion),
                        errhint("Install one release of outbox and restart the server.")));
    }
    relay->sink.set_ready();
    relay->sink_failed = false;
    SpinLockAcquire(&relay->slot->mutex);
    size_t length = Min(static_cast<size_t>(name.length), static_cast<size_t>(kNameLength - 1));
    memcpy(relay->slot->sink_name, name.data, length);
    relay->slot->sink_name[length] = '\0';
    SpinLockRelease(&relay->slot->mutex);
}

InFlightMessage* answered(Relay* relay, uint64 number) {
    InFlightMessage* message = relay->in_flight.find(number);
    if (!message) {
        ereport(ERROR,
                (errcode(ERRCODE_PROTOCOL_VIOLATION),
                 errmsg("the sink answered for message " UINT64_FORMAT ", which it does not have",
                        number)));
    }
    --relay->topics.at(message->topic).in_flight;
    relay->progress_changed = true;
    return message;
}

void on_delivered(Relay* relay, BodyReader body) {
    OUTBOX_FAULT_POINT("relay-before-report");
    while (body.remaining() > 0) {
        uint64 number = body.get<uint64_t>();
        InFlightMessage* message = answered(relay, number);
        Topic& topic = relay->topics.at(message->topic);
        if (message->source == Source::Deferred) {
            remember_removal(relay, message->position);
            --relay->progress.deferred;
        }
        if (topic.state == TopicState::Probing) {
            relay->topics.set_state(&topic, TopicState::Draining);
            topic.backoff.reset();
        }
        ++relay->progress.delivered;
        relay->in_flight.answer(message);
    }
    OUTBOX_FAULT_POINT("relay-after-report");
    relay->sink_delivered = true;
    relay->delivered_at = GetCurrentTimestamp();
    relay->sink_in_trouble = false;
    relay->sink_backoff.reset();
}

void on_failed(Relay* relay, BodyReader body) {
    protocol::FailedHead head = body.get<protocol::FailedHead>();
    Bytes text = body.bytes(head.text_length);
    InFlightMessage* message = answered(relay, head.number);
    Topic* topic = &relay->topics.at(message->topic);
    bool alone = topic->state == TopicState::Probing;
    bool refused = head.kind == protocol::FailureKind::Message;
    relay->topics.note_failure(topic, head.kind, head.code, text.data, text.length);
    if (refused && alone) topic->to_park = message->position;
    if (message->source == Source::Log) {
        relay->topics.came_back(topic, message->position, refused);
    } else if (refused && !alone) {
        relay->topics.came_back(topic, -message->position, true);
    }
    relay->in_flight.answer(message);
    if (head.kind == protocol::FailureKind::Returned) return;
    char line[kErrorLength];
    snprintf(line, sizeof(line), "topic \"%s\": %s", topic->name, topic->error);
    set_last_error(relay->slot, line);
}

void on_condition(Relay* relay, BodyReader body) {
    protocol::ConditionHead head = body.get<protocol::ConditionHead>();
    char* text = copy_text(body.bytes(head.text_length));
    bool trouble = head.trouble != 0;
    if (trouble) set_last_error(relay->slot, text);
    // Once for each state, not once for each attempt.
    if (head.fatal && !relay->sink_failed) {
        ereport(WARNING, (errmsg("outbox cannot send messages: %s", text)));
    } else if (trouble && !relay->sink_in_trouble && !relay->sink_failed) {
        ereport(LOG, (errmsg("outbox waits for its broker: %s", text)));
    } else if (!trouble && relay->sink_in_trouble) {
        ereport(LOG, (errmsg("outbox has reached its broker again")));
    }
    if (head.fatal) relay->sink_failed = relay->sink_said_why = true;
    relay->sink_in_trouble = trouble;
    pfree(text);
}

void on_log(BodyReader body) {
    protocol::LogLevel level = body.get<protocol::LogLevel>();
    char* text = copy_text(body.rest());
    int elevel = DEBUG1;
    if (level <= protocol::LogLevel::Warning) elevel = LOG;
    ereport(elevel, (errmsg("outbox sink: %s", text)));
    pfree(text);
}

void on_statistics(Relay* relay, BodyReader body) {
    Bytes text = body.rest();
    if (text.length >= kStatisticsLength) return;
    SpinLockAcquire(&relay->slot->mutex);
    memcpy(relay->slot->sink_statistics, text.data, text.length);
    relay->slot->sink_statistics[text.length] = '\0';
    SpinLockRelease(&relay->slot->mutex);
}

}  // namespace

bool handle_reports(Relay* relay) {
    bool there = relay->sink.receive();
    protocol::FrameType type;
    const char* data;
    uint32 length;
    while (relay->sink.next_frame(&type, &data, &length)) {
        BodyReader body(data, length);
        switch (type) {
            case protocol::FrameType::Ready:
                on_ready(relay, body);
                break;
            case protocol::FrameType::Delivered:
                on_delivered(relay, body);
                break;
            case protocol::FrameType::Failed:
                on_failed(relay, body);
                break;
            case protocol::FrameType::Condition:
                on_condition(relay, body);
                break;
            case protocol::FrameType::Log:
                on_log(body);
                break;
            case protocol::FrameType::Statistics:
                on_statistics(relay, body);
                break;
            default:
                ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                                errmsg("the sink sent a frame of unknown type %d",
                                       static_cast<int>(type))));
        }
    }
    return there;
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
