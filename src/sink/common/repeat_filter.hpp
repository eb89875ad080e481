// Lets a text through once per interval. Runs in the sink programs.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "sink/common/clock.hpp"

namespace outbox::sink {

// Texts that differ in their digits only (durations, counters, ports) count as the same.
class RepeatFilter {
  public:
    explicit RepeatFilter(Clock::duration interval) : interval_(interval) {}

    // Nothing: held back. Otherwise how often it was held back since it last went through.
    std::optional<uint64_t> admit(int32_t code, std::string_view text, Clock::time_point now);
    void forget() { seen_.clear(); }

  private:
    static constexpr size_t kMaxTexts = 256;

    struct Seen {
        Clock::time_point at;
        uint64_t held_back;
    };
    Clock::duration interval_;
    std::map<std::pair<int32_t, std::string>, Seen> seen_;
};

}  // namespace outbox::sink
