// Queues frames for the relay and writes them as the socket takes them. Runs in the sink programs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/frames.hpp"
#include "protocol/reports.hpp"

namespace outbox::sink {

// Nothing here waits: what the relay has not read yet stays in memory. The relay's credit window
// bounds the answers; log lines and statistics are dropped while too much is queued.
class FrameWriter {
  public:
    void ready(std::string_view name);
    // Numbers are collected into one Delivered frame, which ends when another frame is added: the
    // relay sees all answers in the order in which they were given.
    void delivered(uint64_t number) { numbers_.push_back(number); }
    void failed(uint64_t number, protocol::FailureKind kind, int32_t code, std::string_view text);
    void condition(bool trouble, bool fatal, int32_t code, std::string_view text);
    void log(protocol::LogLevel level, std::string_view text);
    void statistics(std::string_view json);
    void idle();

    // Writes what the socket takes now; false when the relay is gone.
    bool flush(int fd);
    // Waits up to `milliseconds` for everything to be taken.
    void flush_within(int fd, int milliseconds);

    bool empty() const { return numbers_.empty() && written_ == queue_.size(); }

  private:
    static constexpr size_t kChattyLimit = size_t{1} << 20;
    static constexpr size_t kMaxNumbersPerFrame = protocol::kMaxNumbers;

    void frame(protocol::FrameType type, std::string_view head, std::string_view body);
    void seal_numbers();
    void append_frame(protocol::FrameType type, std::string_view head, std::string_view body);
    bool full() const { return queue_.size() - written_ > kChattyLimit; }

    std::vector<uint64_t> numbers_;
    std::string queue_;
    size_t written_ = 0;
};

}  // namespace outbox::sink
