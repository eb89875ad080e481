// How far apart a relay's passes are: as far as transactions come close together.
#include "worker/pace.hpp"

#include <gtest/gtest.h>

namespace outbox::test {
namespace {

// A relay that passes as soon as it may and finds `per_ms` transactions a millisecond.
class Relay {
  public:
    void work(double per_ms, int passes) {
        while (passes-- > 0) {
            int64_t began = now_;
            now_ += pace.rest_us(now_);
            double found = per_ms * static_cast<double>(now_ - began) / 1000 + left_;
            left_ = found - static_cast<int>(found);
            pass(static_cast<int>(found));
        }
    }
    void pass(int transactions) {
        pace.begin_pass(now_);
        pace.end_pass(transactions);
    }
    void idle(int64_t us) { now_ += us; }
    int64_t rest() const { return pace.rest_us(now_); }

    Pace pace;

  private:
    int64_t now_ = 1'000'000;
    double left_ = 0;
};

constexpr int64_t kMillisecond = 1000;

TEST(Pace, TheFirstPassMayBeginAtOnce) {
    EXPECT_EQ(Pace().rest_us(0), 0);
    EXPECT_EQ(Relay().rest(), 0);
}

TEST(Pace, AThousandASecondLeavesItAtAMillisecond) {
    Relay relay;
    for (double per_ms : {0.01, 0.5, 1.0}) {
        relay.work(per_ms, 100);
        EXPECT_EQ(relay.rest(), kMillisecond) << per_ms;
    }
}

TEST(Pace, FollowsTheRateUpToTenMilliseconds) {
    for (int per_ms : {3, 5, 9}) {
        Relay relay;
        // Two at first, as with a millisecond's distance.
        relay.pass(2 * per_ms);
        relay.work(per_ms, 40);
        EXPECT_NEAR(static_cast<double>(relay.rest()), per_ms * 1000.0, 300) << per_ms;
    }
    Relay relay;
    relay.work(1000, 100);
    EXPECT_EQ(relay.rest(), Pace::kLongestUs);
}

TEST(Pace, ABurstAfterAPauseIsNotHeldBack) {
    Relay relay;
    relay.idle(1'000'000);
    EXPECT_EQ(relay.rest(), 0);
    relay.pass(5000);
    EXPECT_LE(relay.rest(), 2 * kMillisecond);
}

TEST(Pace, OnePassIsNoLoad) {
    Relay relay;
    relay.work(0.5, 10);
    relay.idle(kMillisecond);
    relay.pass(1'000'000);
    EXPECT_LE(relay.rest(), 3 * kMillisecond);
}

TEST(Pace, ALoneTransactionEndsIt) {
    Relay relay;
    relay.work(1000, 100);
    relay.idle(4 * kMillisecond);
    EXPECT_EQ(relay.rest(), 6 * kMillisecond);  // this once
    relay.idle(6 * kMillisecond);
    relay.pass(1);
    EXPECT_EQ(relay.rest(), kMillisecond);
}

TEST(Pace, AnIdleRelayIsNotHeldBackByTheLoadBefore) {
    Relay relay;
    relay.work(1000, 100);
    relay.idle(Pace::kLongestUs);
    EXPECT_EQ(relay.rest(), 0);
}

TEST(Pace, WhoeverIsWaitedForKeepsAMillisecond) {
    Pace pace;
    int64_t now = 0;
    for (int i = 0; i < 100; ++i) {
        now += kMillisecond;
        pace.begin_pass(now);
        pace.end_pass(1000);
    }
    EXPECT_EQ(pace.rest_us(now), Pace::kLongestUs);
    EXPECT_EQ(pace.shortest_rest_us(now), kMillisecond);
    EXPECT_EQ(pace.shortest_rest_us(now + 700), 300);
    EXPECT_EQ(pace.shortest_rest_us(now + kMillisecond), 0);
}

TEST(Pace, TwoPassesAtTheSameMomentAreNoInfiniteRate) {
    Pace pace;
    for (int i = 0; i < 3; ++i) {
        pace.begin_pass(5);
        pace.end_pass(100);
    }
    EXPECT_LE(pace.distance_us(), Pace::kLongestUs);
    pace.end_pass(0);
    EXPECT_EQ(pace.distance_us(), Pace::kShortestUs);
}

}  // namespace
}  // namespace outbox::test
