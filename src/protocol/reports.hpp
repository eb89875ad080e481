// What the relay accepts from a sink: cuts its bytes into frames, decodes and checks them. Used by
// the relay, and by tests that need no server.
//
// A sink may be broken, or be another program than it should be. Whatever comes, memory stays
// bounded, nothing is read past an end, and a report is taken as a whole or not at all: a function
// here that returns false means that nothing more of this sink is to be believed.
//
// Rules for this file: those of frames.hpp.
#pragma once

#include "protocol/frames.hpp"

namespace outbox::protocol {

// Most numbers in one Delivered.
constexpr uint32_t kMaxNumbers = 1 << 16;
constexpr uint32_t kMaxText = UINT16_MAX;
constexpr uint32_t kMaxSinkName = 1000;
constexpr uint32_t kMaxReport = kMaxNumbers * sizeof(uint64_t);

inline const char* report_name(FrameType type) {
    switch (type) {
        case FrameType::Ready:
            return "Ready";
        case FrameType::Delivered:
            return "Delivered";
        case FrameType::Failed:
            return "Failed";
        case FrameType::Condition:
            return "Condition";
        case FrameType::Log:
            return "Log";
        case FrameType::Statistics:
            return "Statistics";
        case FrameType::Idle:
            return "Idle";
        default:
            return nullptr;  // a sink sends nothing else
    }
}

// Longest body of a report of this type.
inline uint32_t longest_report(FrameType type) {
    switch (type) {
        case FrameType::Ready:
            return static_cast<uint32_t>(sizeof(uint32_t)) + kMaxSinkName;
        case FrameType::Delivered:
            return kMaxReport;
        case FrameType::Failed:
            return static_cast<uint32_t>(sizeof(FailedHead)) + kMaxText;
        case FrameType::Condition:
            return static_cast<uint32_t>(sizeof(ConditionHead)) + kMaxText;
        case FrameType::Log:
            return static_cast<uint32_t>(sizeof(LogLevel)) + kMaxText;
        case FrameType::Statistics:
            return kMaxStatistics;
        case FrameType::Idle:
            return 0;
        default:
            return 0;
    }
}

// One frame from a sink; the body points into the buffer it was cut from.
struct Report {
    FrameType type;
    const char* body;
    uint32_t length;
};

// The bytes that have come and are not handled yet. It holds the longest report and some more: as
// long as every complete report is taken before the next bytes are asked for, there is room.
class ReportBuffer {
  public:
    static constexpr size_t kLeastRoom = 64 * 1024;
    static constexpr size_t kCapacity = sizeof(FrameHeader) + kMaxReport + kLeastRoom;

    // `memory` is kCapacity bytes and stays the caller's.
    void use(char* memory) { memory_ = memory; }
    void clear() { begin_ = end_ = 0; }

    // Where the next bytes belong, and how many of them; what next() gave is void after this.
    char* room(size_t* size) {
        if (begin_ > 0) memmove(memory_, memory_ + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
        *size = kCapacity - end_;
        return memory_ + end_;
    }
    // So many bytes were put there.
    void came(size_t size) { end_ += size; }

    enum class Next {
        Report,   // complete
        Nothing,  // not yet
        Damage,   // a type or a length that no report has; *report says which
    };
    Next next(Report* report) {
        FrameHeader header;
        size_t there = end_ - begin_;
        if (there < sizeof(header)) return Next::Nothing;
        memcpy(static_cast<void*>(&header), memory_ + begin_, sizeof(header));
        *report = Report{header.type, memory_ + begin_ + sizeof(header), header.length};
        // Before the body is waited for: it may never come, and it may never end.
        if (!report_name(header.type) || header.length > longest_report(header.type))
            return Next::Damage;
        if (there - sizeof(header) < header.length) return Next::Nothing;
        begin_ += sizeof(header) + header.length;
        return Next::Report;
    }

  private:
    char* memory_ = nullptr;
    size_t begin_ = 0;
    size_t end_ = 0;
};

struct ReadyView {
    uint32_t version;
    Bytes name;
};

inline bool decode_ready(const Report& report, ReadyView* view) {
    BodyReader reader(report.body, report.length);
    view->version = reader.get<uint32_t>();
    view->name = reader.rest();
    return !reader.failed();
}

// The number at `index` of a Delivered.
inline uint64_t number_at(const Report& report, uint32_t index) {
    uint64_t number;
    memcpy(&number, report.body + index * sizeof(number), sizeof(number));
    return number;
}

inline bool decode_delivered(const Report& report, uint32_t* count) {
    *count = static_cast<uint32_t>(report.length / sizeof(uint64_t));
    return *count > 0 && report.length % sizeof(uint64_t) == 0;
}

struct FailedView {
    FailedHead head;
    Bytes text;
};

inline bool decode_failed(const Report& report, FailedView* view) {
    BodyReader reader(report.body, report.length);
    view->head = reader.get<FailedHead>();
    view->text = reader.bytes(view->head.text_length);
    if (reader.failed() || reader.remaining() > 0) return false;
    switch (view->head.kind) {
        case FailureKind::Topic:
        case FailureKind::Message:
        case FailureKind::Returned:
        case FailureKind::UnknownTopic:
            return true;
    }
    return false;
}

struct ConditionView {
    ConditionHead head;
    Bytes text;
};

inline bool decode_condition(const Report& report, ConditionView* view) {
    BodyReader reader(report.body, report.length);
    view->head = reader.get<ConditionHead>();
    view->text = reader.bytes(view->head.text_length);
    // What cannot go on is in trouble.
    return !reader.failed() && reader.remaining() == 0 && view->head.trouble <= 1 &&
           view->head.fatal <= view->head.trouble;
}

struct LogView {
    LogLevel level;
    Bytes text;
};

inline bool decode_log(const Report& report, LogView* view) {
    BodyReader reader(report.body, report.length);
    view->level = reader.get<LogLevel>();
    view->text = reader.rest();
    return !reader.failed() && view->level >= LogLevel::Error && view->level <= LogLevel::Debug;
}

// Takes a flat JSON object of numbers apart, character by character.
class CountersReader {
  public:
    CountersReader(const char* text, size_t length) : at_(text), end_(text + length) {}

    bool object() {
        if (!is('{')) return false;
        if (!is('}')) {
            do {
                if (!name() || !is(':') || !number()) return false;
            } while (is(','));
            if (!is('}')) return false;
        }
        return at_ == end_;
    }

  private:
    bool is(char c) {
        if (at_ == end_ || *at_ != c) return false;
        ++at_;
        return true;
    }
    static bool in_name(char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    }
    bool name() {
        if (!is('"')) return false;
        while (at_ < end_ && in_name(*at_))
            ++at_;
        return is('"');
    }
    size_t digits() {
        const char* first = at_;
        while (at_ < end_ && *at_ >= '0' && *at_ <= '9')
            ++at_;
        return static_cast<size_t>(at_ - first);
    }
    bool number() {
        is('-');
        if (!is('0') && digits() == 0) return false;
        if (is('.') && digits() == 0) return false;
        if (!is('e')) return true;
        if (!is('-')) is('+');
        // A larger exponent would be more than a server's number can hold.
        size_t exponent = digits();
        return exponent == 1 || exponent == 2;
    }

    const char* at_;
    const char* end_;
};

// True if these are statistics: they are shown to sessions as JSON, whose parser must not choke on
// them.
inline bool decode_statistics(const Report& report) {
    return CountersReader(report.body, report.length).object();
}

// Copies `text` as plain ASCII that fits `size` bytes, zero-terminated: what a sink says ends in
// the server's log and in a status that databases of every encoding show. Returns its length.
inline size_t copy_plain(Bytes text, char* to, size_t size) {
    size_t length = text.length < size ? text.length : size - 1;
    for (size_t i = 0; i < length; ++i) {
        char c = text.data[i];
        if (c == '\n' || c == '\t') c = ' ';
        to[i] = c >= 0x20 && c < 0x7f ? c : '?';
    }
    to[length] = '\0';
    return length;
}

}  // namespace outbox::protocol
