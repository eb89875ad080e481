// What a sink says back: answers to messages, troubles, log lines. Runs in the sink programs.
#pragma once

#include <cstdint>
#include <string_view>

#include "protocol/frames.hpp"

namespace outbox::sink {

struct Failure {
    uint64_t number;
    std::string_view topic;
    protocol::FailureKind kind;
    int32_t code;
    std::string_view text;
};

class Reports {
  public:
    virtual ~Reports() = default;

    // Every message taken by Sink::submit gets exactly one of these two.
    virtual void delivered(uint64_t number) = 0;
    virtual void failed(const Failure& failure) = 0;

    // Trouble that concerns no single message; may be repeated as often as it is seen. recovered()
    // may be called at any time and counts only after trouble.
    virtual void trouble(int32_t code, std::string_view text) = 0;
    virtual void recovered() = 0;

    virtual void log(protocol::LogLevel level, std::string_view text) = 0;
    virtual void statistics(std::string_view json) = 0;
    // Nothing is to be done, and nothing will come by itself: the process may be stopped until the
    // relay has something for it. May be repeated.
    virtual void idle() = 0;
};

}  // namespace outbox::sink
