// The frame format between the relay and a sink: layouts, encoders, decoders. Used by both
// processes.
//
// The relay starts the sink with one end of a socket pair as its standard input. Both ends run on
// one machine, so integers are in host byte order. Every frame is a FrameHeader and `length` bytes
// of body.
//
//   relay -> sink   Settings   once, first: protocol version, database, settings as name/value
//   pairs
//                   Message    one message, numbered 1, 2, 3, ... within this connection
//                   Reopen     a topic that was closed by a Failed report takes messages again
//                   Drain      no further message follows: deliver, report everything, exit with 0
//   sink -> relay   Ready      answer to Settings: version, and the sink's name for people
//                   Delivered  numbers of messages that the broker has acknowledged
//                   Failed     one message comes back undelivered, and why (FailureKind)
//                   Condition  trouble that concerns no single message began or ended
//                   Log        a line for the server's log; never message text, never a secret
//                   Statistics counters by name: a flat JSON object of numbers without blanks, at
//                              most kMaxStatistics bytes
//                   Idle       nothing will come until the relay writes: it may stop the process
//
// Each message is answered by exactly one Delivered or Failed, unless the connection ends first. A
// Failed closes its topic: the sink returns every later message of that topic (kind Returned) until
// Reopen, so that nothing overtakes the one that failed. A sink whose client is beyond repair
// reports what it knows and ends with exit status 75 (try again); the relay starts a fresh one and
// sends again, in order, what was not answered.
//
// Neither end trusts the other's lengths, numbers or texts. A relay that breaks these rules makes
// the sink end with exit status 76. A sink that breaks them is killed, what it had not answered is
// taken back, and after a pause another one is started; reports.hpp has the rules for its side.
//
// Idle is for sinks whose client has timers of its own. One that said it has to bear being stopped
// (SIGSTOP) at any moment, for any time, until the relay writes again or is gone.
//
// Rules for this file: no server header, no exceptions, no allocation, no standard containers.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace outbox::protocol {

constexpr uint32_t kVersion = 3;

// A body longer than this is a broken peer, not a large message (the largest message is 128 MiB).
constexpr uint32_t kMaxBody = 192u << 20;
constexpr uint32_t kMaxStatistics = 1000;
constexpr uint32_t kMaxTopicLength = 249;

enum class FrameType : uint8_t {
    Settings = 'S',
    Message = 'M',
    Reopen = 'O',
    Drain = 'D',
    Ready = 'R',
    Delivered = 'A',
    Failed = 'F',
    Condition = 'C',
    Log = 'L',
    Statistics = 'T',
    Idle = 'I',
};

struct FrameHeader {
    uint32_t length;  // of the body that follows, in bytes
    FrameType type;
    uint8_t reserved[3];
};
static_assert(sizeof(FrameHeader) == 8);

// Body of Message: this, then topic, key, payload, headers, each of the length given here.
// Headers are `header_count` times: uint32_t name length, int32_t value length (kNull for a null
// value), name, value.
struct MessageHead {
    uint64_t number;         // 1, 2, 3, ... within the connection
    int64_t timestamp;       // milliseconds since 1970-01-01 UTC, when the row was written
    uint8_t id[16];          // UUID in network byte order
    int32_t partition;       // kNull: the sink chooses by key
    int32_t key_length;      // kNull: no key
    int32_t payload_length;  // kNull: no payload (a tombstone)
    uint32_t headers_length;
    uint32_t header_count;
    uint16_t topic_length;
    uint16_t flags;  // kFlagAlone, kFlagHeadersComplete
};
static_assert(sizeof(MessageHead) == 56 && offsetof(MessageHead, number) == 0);

constexpr int32_t kNull = -1;

// Deliver this message in a batch of its own: its topic is under suspicion and the relay sends the
// next one of that topic only after the answer, so the answer concerns this message and no other.
constexpr uint16_t kFlagAlone = 1;

// The headers are all there are: the sink does not put the id before them.
constexpr uint16_t kFlagHeadersComplete = 2;

// Body of Delivered: uint64_t numbers, as many as fit the body.

// Why a message comes back.
enum class FailureKind : uint8_t {
    Topic =
        1,  // its topic takes no messages now (unknown, not permitted, ...): keep, try again later
    Message = 2,  // the broker refuses this message for good (too large, invalid, ...)
    Returned =
        3,  // not the message's fault (topic closed, client rebuilt): send it again, in order
    UnknownTopic = 4,  // as Topic; the broker does not know the topic
};

// Body of Failed: this, then `text_length` bytes of the broker's or the client's words.
struct FailedHead {
    uint64_t number;
    int32_t code;  // the client library's number for the error; 0 where there is none
    FailureKind kind;
    uint8_t reserved;
    uint16_t text_length;
};
static_assert(sizeof(FailedHead) == 16);

// Body of Condition: this, then `text_length` bytes. In trouble: what is wrong ("all brokers down",
// ...). Not in trouble: the earlier trouble is over; the text is empty.
struct ConditionHead {
    int32_t code;
    uint8_t trouble;  // 1: began, 0: ended
    uint8_t fatal;  // 1: the sink can't go on with these settings and will exit (a refused setting,
                    // ...)
    uint16_t text_length;
};
static_assert(sizeof(ConditionHead) == 8);

enum class LogLevel : uint8_t { Error = 3, Warning = 4, Notice = 5, Info = 6, Debug = 7 };

// Body of Log: uint8_t LogLevel, then text. Body of Reopen: the topic's name. Body of Statistics:
// JSON. Drain and Idle have none. Body of Ready: uint32_t version, then the name. Body of Settings:
// uint32_t version, then pairs of strings (name, value) to the end of the body. A string is a
// uint32_t length and its bytes.

// A view of bytes that somebody else owns. A null view (data == nullptr, absent) differs from an
// empty one.
struct Bytes {
    const char* data = nullptr;
    uint32_t length = 0;
    bool absent() const { return data == nullptr; }
};

// Reads values off a body; after a read past its end `failed()` is true and every read gives zeros.
class BodyReader {
  public:
    BodyReader(const char* data, size_t length) : at_(data), end_(data + length) {}

    template <typename T>
    T get() {
        T value;
        memset(static_cast<void*>(&value), 0, sizeof(T));
        if (!has(sizeof(T))) return value;
        memcpy(static_cast<void*>(&value), at_, sizeof(T));
        at_ += sizeof(T);
        return value;
    }
    // `length` bytes as a view into the body.
    Bytes bytes(size_t length) {
        if (!has(length)) return Bytes{"", 0};
        Bytes view{at_, static_cast<uint32_t>(length)};
        at_ += length;
        return view;
    }
    // As `bytes`, where kNull means absent. Any other negative length fails.
    Bytes nullable(int32_t length) {
        if (length == kNull) return Bytes{};
        if (length < 0) {
            failed_ = true;
            return Bytes{"", 0};
        }
        return bytes(static_cast<size_t>(length));
    }
    Bytes string() {
        uint32_t length = get<uint32_t>();
        return bytes(length);
    }
    Bytes rest() { return bytes(remaining()); }
    size_t remaining() const { return static_cast<size_t>(end_ - at_); }
    bool failed() const { return failed_; }

  private:
    bool has(size_t length) {
        if (failed_ || length > remaining()) {
            failed_ = true;
            return false;
        }
        return true;
    }
    const char* at_;
    const char* end_;
    bool failed_ = false;
};

// A Message frame, decoded; the views point into the body.
struct MessageView {
    MessageHead head;
    Bytes topic;
    Bytes key;
    Bytes payload;
    Bytes headers;
};

// One header of a message.
struct HeaderView {
    Bytes name;
    Bytes value;
};

// Takes the next header off `reader` (made over MessageView::headers); false at the end or on
// damage, which `reader->failed()` tells apart.
inline bool next_header(BodyReader* reader, HeaderView* header) {
    if (reader->failed() || reader->remaining() == 0) return false;
    uint32_t name_length = reader->get<uint32_t>();
    int32_t value_length = reader->get<int32_t>();
    header->name = reader->bytes(name_length);
    header->value = reader->nullable(value_length);
    return !reader->failed();
}

// Whether these are as many headers as the message says: clients ask for memory by that number.
inline bool headers_add_up(const MessageView& message) {
    BodyReader reader(message.headers.data, message.headers.length);
    HeaderView header;
    uint32_t count = 0;
    while (next_header(&reader, &header))
        ++count;
    return !reader.failed() && count == message.head.header_count;
}

// A name with a zero byte in it would be another topic's for a client written in C.
inline bool is_topic_name(Bytes name) {
    if (name.length == 0 || name.length > kMaxTopicLength) return false;
    for (uint32_t i = 0; i < name.length; ++i) {
        char c = name.data[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-') return false;
    }
    return true;
}

// Decodes the body of a Message; false if it is none: its lengths do not add up, or emit() would
// not have taken it.
inline bool decode_message(const char* body, size_t length, MessageView* message) {
    BodyReader reader(body, length);
    message->head = reader.get<MessageHead>();
    message->topic = reader.bytes(message->head.topic_length);
    message->key = reader.nullable(message->head.key_length);
    message->payload = reader.nullable(message->head.payload_length);
    message->headers = reader.bytes(message->head.headers_length);
    return !reader.failed() && reader.remaining() == 0 && message->head.partition >= kNull &&
           is_topic_name(message->topic) && headers_add_up(*message);
}

}  // namespace outbox::protocol
