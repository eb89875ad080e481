// How far apart a relay's passes over the log are. Relay.
//
// A request to the broker costs more CPU, there and here, than the messages in it, so under load a
// pass should find the messages of several transactions. It keeps as many milliseconds of distance
// to the pass before as transactions come in a millisecond: one up to a thousand a second, five at
// five thousand, ten at most. Many messages at once count as several transactions. That average
// follows a load that begins, over some passes; one that has ended is known at once by a pass that
// finds a lone transaction of a few messages.
#pragma once

#include <stdint.h>

namespace outbox {

class Pace {
  public:
    static constexpr int64_t kShortestUs = 1000;
    static constexpr int64_t kLongestUs = 10 * 1000;

    // Times are microseconds of any clock that goes evenly on.
    void begin_pass(int64_t now_us) {
        since_us_ = now_us - begun_us_;
        begun_us_ = now_us;
    }

    // That pass found so many messages, which this many transactions had committed since the one
    // before; `all`: and there was nothing more. What waited already says nothing about what comes.
    void end_pass(int transactions, int messages, bool all) {
        const bool is_new = all && caught_up_;
        caught_up_ = all;
        if (!is_new) return;
        int found = transactions;
        if (messages / kMessages > found) found = messages / kMessages;
        if (found <= 1) {
            rate_ = 0;
            return;
        }
        double now = since_us_ > 0 ? found * 1000.0 / static_cast<double>(since_us_) : kMostRate;
        if (now > kMostRate) now = kMostRate;
        rate_ += (now - rate_) / kSmoothing;
    }

    // The last pass left nothing: only then is there a distance to keep.
    bool caught_up() const { return caught_up_; }

    int64_t distance_us() const {
        int64_t distance = static_cast<int64_t>(rate_ * 1000 + 0.5);
        return distance < kShortestUs ? kShortestUs : distance;
    }

    // How long it is until the next pass may begin.
    int64_t rest_us(int64_t now_us) const { return rest(distance_us(), now_us); }
    // The same for one that somebody waits for.
    int64_t shortest_rest_us(int64_t now_us) const { return rest(kShortestUs, now_us); }

  private:
    static constexpr double kMostRate = kLongestUs / 1000.0;
    static constexpr int kMessages = 16;     // so many at once count as a transaction
    static constexpr double kSmoothing = 4;  // passes that the rate is an average of, roughly

    int64_t rest(int64_t distance_us, int64_t now_us) const {
        int64_t passed = now_us - begun_us_;
        return passed < distance_us ? distance_us - passed : 0;
    }

    int64_t begun_us_ = -kLongestUs;
    int64_t since_us_ = 0;  // from the pass before to this one
    double rate_ = 0;       // transactions a millisecond
    bool caught_up_ = false;
};

}  // namespace outbox
