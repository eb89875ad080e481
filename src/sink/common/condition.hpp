// Decides which troubles are worth a Condition frame. Runs in the sink programs.
#pragma once

#include <cstdint>
#include <string_view>

#include "sink/common/clock.hpp"
#include "sink/common/repeat_filter.hpp"

namespace outbox::sink {

// Trouble of the same code and words is sent once per 30 seconds while it lasts. When it has ended
// and begins anew it is sent at once: the relay shows the last state it heard of.
class Condition {
  public:
    bool began(int32_t code, std::string_view text, Clock::time_point now) {
        in_trouble_ = true;
        return filter_.admit(code, text, now).has_value();
    }
    bool ended() {
        if (!in_trouble_) return false;
        in_trouble_ = false;
        filter_.forget();
        return true;
    }
    bool in_trouble() const { return in_trouble_; }

  private:
    bool in_trouble_ = false;
    RepeatFilter filter_{std::chrono::seconds(30)};
};

}  // namespace outbox::sink
