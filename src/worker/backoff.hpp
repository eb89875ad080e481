// How long to wait after a failure: doubling from a first pause to a longest one. Launcher and
// relay.
#pragma once

#include <stdint.h>

namespace outbox {

class Backoff {
  public:
    constexpr Backoff(int64_t first_ms, int64_t longest_ms)
        : first_ms_(first_ms), longest_ms_(longest_ms) {}

    // The pause after one more failure, in milliseconds.
    int64_t next_ms() {
        pause_ms_ = pause_ms_ == 0 ? first_ms_ : pause_ms_ * 2;
        if (pause_ms_ > longest_ms_) pause_ms_ = longest_ms_;
        return pause_ms_;
    }
    void reset() { pause_ms_ = 0; }

  private:
    int64_t first_ms_;
    int64_t longest_ms_;
    int64_t pause_ms_ = 0;
};

}  // namespace outbox
