// Queues frames for the relay and writes them as the socket takes them. Runs in the sink programs.
#include "sink/common/frame_writer.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>

#include "sink/common/clock.hpp"

namespace outbox::sink {

using protocol::FrameHeader;
using protocol::FrameType;

namespace {

template <typename T>
std::string_view raw(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string_view short_enough(std::string_view text) {
    return text.substr(0, std::numeric_limits<uint16_t>::max());
}

}  // namespace

void FrameWriter::ready(std::string_view name) {
    frame(FrameType::Ready, raw(protocol::kVersion), name);
}

void FrameWriter::failed(uint64_t number, protocol::FailureKind kind, int32_t code,
                         std::string_view text) {
    text = short_enough(text);
    protocol::FailedHead head{};
    head.number = number;
    head.code = code;
    head.kind = kind;
    head.text_length = static_cast<uint16_t>(text.size());
    frame(FrameType::Failed, raw(head), text);
}

void FrameWriter::condition(bool trouble, bool fatal, int32_t code, std::string_view text) {
    text = short_enough(text);
    protocol::ConditionHead head{};
    head.code = code;
    head.trouble = trouble ? 1 : 0;
    head.fatal = fatal ? 1 : 0;
    head.text_length = static_cast<uint16_t>(text.size());
    frame(FrameType::Condition, raw(head), text);
}

void FrameWriter::log(protocol::LogLevel level, std::string_view text) {
    if (!full()) frame(FrameType::Log, raw(level), short_enough(text));
}

void FrameWriter::statistics(std::string_view json) {
    if (!full() && json.size() <= protocol::kMaxStatistics) frame(FrameType::Statistics, {}, json);
}

void FrameWriter::idle() {
    frame(FrameType::Idle, {}, {});
}

bool FrameWriter::flush(int fd) {
    seal_numbers();
    while (written_ < queue_.size()) {
        ssize_t sent = ::send(fd, queue_.data() + written_, queue_.size() - written_,
                              MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (sent < 0) return false;
        written_ += static_cast<size_t>(sent);
    }
    if (written_ == queue_.size()) {
        queue_.clear();
        written_ = 0;
        if (queue_.capacity() > kChattyLimit) queue_.shrink_to_fit();
    }
    return true;
}

void FrameWriter::flush_within(int fd, int milliseconds) {
    const auto end = Clock::now() + std::chrono::milliseconds(milliseconds);
    while (flush(fd) && !empty()) {
        auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
        if (left <= 0) return;
        pollfd wait{fd, POLLOUT, 0};
        ::poll(&wait, 1, static_cast<int>(left));
        if ((wait.revents & (POLLHUP | POLLERR)) != 0) return;
    }
}

void FrameWriter::frame(FrameType type, std::string_view head, std::string_view body) {
    seal_numbers();
    append_frame(type, head, body);
}

void FrameWriter::seal_numbers() {
    for (size_t at = 0; at < numbers_.size(); at += kMaxNumbersPerFrame) {
        size_t count = std::min(kMaxNumbersPerFrame, numbers_.size() - at);
        append_frame(
            FrameType::Delivered, {},
            {reinterpret_cast<const char*>(numbers_.data() + at), count * sizeof(uint64_t)});
    }
    numbers_.clear();
}

void FrameWriter::append_frame(FrameType type, std::string_view head, std::string_view body) {
    FrameHeader header{};
    header.length = static_cast<uint32_t>(head.size() + body.size());
    header.type = type;
    queue_.append(raw(header)).append(head).append(body);
}

}  // namespace outbox::sink
