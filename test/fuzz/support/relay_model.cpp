// The relay's half of a conversation without the server around it. Runs in the fuzz targets.
#include "support/relay_model.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "support/check.hpp"

namespace outbox::fuzz {

using protocol::FrameType;
using protocol::Report;
using protocol::ReportBuffer;

namespace {

// Every byte of a view can be read: the sanitizer says if not.
void touch(protocol::Bytes bytes) {
    static volatile unsigned char sum;
    for (uint32_t i = 0; i < bytes.length; ++i)
        sum = static_cast<unsigned char>(sum + bytes.data[i]);
}

void must_be_counters(const Report& report) {
    auto json = nlohmann::json::parse(report.body, report.body + report.length, nullptr, false);
    must(json.is_object(), "statistics are an object for a real parser too");
    for (const auto& value : json)
        must(value.is_number(), "statistics are numbers");
}

}  // namespace

RelayModel::RelayModel(size_t place) {
    static char memory[kPlaces][ReportBuffer::kCapacity];
    buffer_.use(memory[place]);
}

bool RelayModel::receive(std::string_view bytes, size_t chunk) {
    while (!bytes.empty() && !broken_) {
        size_t room;
        char* at = buffer_.room(&room);
        must(room >= ReportBuffer::kLeastRoom, "there is room for more bytes");
        size_t take = std::min({room, chunk, bytes.size()});
        std::memcpy(at, bytes.data(), take);
        bytes.remove_prefix(take);
        buffer_.came(take);
        Report report;
        for (;;) {
            auto next = buffer_.next(&report);
            if (next == ReportBuffer::Next::Nothing) break;
            broken_ = next == ReportBuffer::Next::Damage || !handle(report);
            if (broken_) return false;
        }
    }
    return !broken_;
}

// A copy of exactly that size, so that one byte too many is noticed.
bool RelayModel::handle(const Report& report) {
    std::unique_ptr<char[]> body(new char[report.length]);
    if (report.length > 0) std::memcpy(body.get(), report.body, report.length);
    return handle_copy({report.type, body.get(), report.length});
}

bool RelayModel::handle_copy(const Report& report) {
    touch({report.body, report.length});
    switch (report.type) {
        case FrameType::Ready: {
            protocol::ReadyView ready;
            if (!protocol::decode_ready(report, &ready) || greeted_) return false;
            greeted_ = true;
            understood_.push_back("ready " + std::to_string(ready.version) + plain(ready.name));
            return ready.version == protocol::kVersion;
        }
        case FrameType::Delivered: {
            uint32_t count;
            if (!protocol::decode_delivered(report, &count)) return false;
            for (uint32_t i = 0; i < count; ++i) {
                if (!answer(protocol::number_at(report, i))) return false;
            }
            return true;
        }
        case FrameType::Failed: {
            protocol::FailedView failed;
            if (!protocol::decode_failed(report, &failed)) return false;
            touch(failed.text);
            understood_.push_back("failed " + plain(failed.text));
            return answer(failed.head.number);
        }
        case FrameType::Condition: {
            protocol::ConditionView condition;
            if (!protocol::decode_condition(report, &condition)) return false;
            understood_.push_back("condition " + plain(condition.text));
            return true;
        }
        case FrameType::Log: {
            protocol::LogView log;
            if (!protocol::decode_log(report, &log)) return false;
            understood_.push_back("log " + plain(log.text));
            return true;
        }
        case FrameType::Statistics:
            if (!protocol::decode_statistics(report)) return false;
            must_be_counters(report);
            understood_.push_back("statistics");
            return true;
        case FrameType::Idle:
            understood_.push_back("idle");
            return true;
        default:
            must(false, "only reports leave the buffer");
            return false;
    }
}

bool RelayModel::answer(uint64_t number) {
    understood_.push_back("answer " + std::to_string(number));
    return greeted_ && answered_.insert(number).second;
}

std::string RelayModel::plain(protocol::Bytes text) {
    touch(text);
    for (size_t size : {size_t{1}, size_t{7}, size_t{text.length} + 1}) {
        // Of exactly that size, so that one byte too many is noticed.
        auto line = std::make_unique<char[]>(size);
        size_t length = protocol::copy_plain(text, line.get(), size);
        must(length < size && line[length] == '\0', "a line ends within its buffer");
        must(std::all_of(line.get(), line.get() + length,
                         [](char c) { return c >= 0x20 && c < 0x7f; }),
             "a line is plain text");
        if (size > text.length) return std::string(line.get(), length);
    }
    return {};
}

}  // namespace outbox::fuzz
