// How many lines a sink may bring into the server's log: a few at once, then one now and then.
// Relay.
#pragma once

#include <stdint.h>

namespace outbox {

class LogLimit {
  public:
    constexpr LogLimit(int64_t at_once, int64_t interval_ms)
        : at_once_(at_once), interval_ms_(interval_ms), left_(at_once) {}

    // Whether one more line may be written at this time, in milliseconds of any clock.
    bool admit(int64_t now_ms) {
        if (now_ms < counted_ms_) counted_ms_ = now_ms;  // the clock was set back
        int64_t earned = (now_ms - counted_ms_) / interval_ms_;
        left_ = earned < at_once_ - left_ ? left_ + earned : at_once_;
        counted_ms_ = left_ == at_once_ ? now_ms : counted_ms_ + earned * interval_ms_;
        if (left_ == 0) {
            ++held_back_;
            return false;
        }
        --left_;
        return true;
    }
    // How many were not written since this was asked last.
    int64_t take_held_back() {
        int64_t count = held_back_;
        held_back_ = 0;
        return count;
    }

  private:
    int64_t at_once_;
    int64_t interval_ms_;
    int64_t left_;
    int64_t counted_ms_ = 0;  // what was earned up to here is in left_
    int64_t held_back_ = 0;
};

}  // namespace outbox
