// How far apart a relay's passes are: as far as transactions come close together, or many messages.
#include "worker/pace.hpp"

#include <gtest/gtest.h>

namespace outbox::test {
namespace {

// A relay that passes as soon as it may and there is something: `per_ms` transactions come in a
// millisecond, each of so many messages.
class Relay {
  public:
    void work(double per_ms, int passes, int messages = 1) {
        while (passes-- > 0) {
            int64_t began = now_;
            now_ += pace.rest_us(now_);
            double missing = 1 - left_ - per_ms * static_cast<double>(now_ - began) / 1000;
            if (missing > 0) now_ += static_cast<int64_t>(missing / per_ms * 1000 + 1);
            double found = per_ms * static_cast<double>(now_ - began) / 1000 + left_;
            left_ = found - static_cast<int>(found);
            pass(static_cast<int>(found), messages);
        }
    }
    void pass(int transactions, int messages = 1) {
        pace.begin_pass(now_);
        pace.end_pass(transactions, transactions * messages, true);
    }
    // One that did not get to the end.
    void part(int transactions) {
        pace.begin_pass(now_);
        pace.end_pass(transactions, transactions, false);
    }
    void idle(int64_t us) { now_ += us; }
    int64_t rest() const { return pace.rest_us(now_); }

    // It has looked once, and found nothing.
    Relay() { pass(0); }

    Pace pace;

  private:
    int64_t now_ = 1'000'000;
    double left_ = 0;
};

constexpr int64_t kMillisecond = 1000;

TEST(Pace, TheFirstPassMayBeginAtOnce) {
    EXPECT_EQ(Pace().rest_us(0), 0);
    Relay relay;
    relay.idle(kMillisecond);
    EXPECT_EQ(relay.rest(), 0);
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

TEST(Pace, ManyMessagesCountAsSeveralTransactions) {
    struct Case {
        double per_ms;
        int messages;
        double distance_ms;
    };
    for (const Case& one : {Case{0.5, 100, 3}, Case{0.8, 100, 5}, Case{1.6, 100, 10},
                            Case{5, 15, 5}, Case{0.05, 100, 1}}) {
        Relay relay;
        relay.pass(4, one.messages);
        relay.work(one.per_ms, 60, one.messages);
        EXPECT_NEAR(static_cast<double>(relay.pace.distance_us()), one.distance_ms * 1000, 600)
            << one.per_ms << " of " << one.messages;
    }
}

TEST(Pace, AFewMessagesOfALoneTransactionAreNoLoad) {
    for (int messages : {1, 31, 32}) {
        Relay relay;
        relay.work(1000, 100);
        relay.pass(1, messages);
        EXPECT_EQ(relay.rest() == kMillisecond, messages < 32) << messages;
    }
}

TEST(Pace, WhatWaitedSaysNothing) {
    Relay relay;
    relay.part(8000);
    EXPECT_FALSE(relay.pace.caught_up());
    relay.pass(5000);  // the rest of it
    EXPECT_TRUE(relay.pace.caught_up());
    EXPECT_EQ(relay.rest(), kMillisecond);
    relay.pass(5000);
    EXPECT_GT(relay.rest(), kMillisecond);
    // Nor does it end a load.
    relay.work(1000, 100);
    relay.part(1);
    relay.pass(1);
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
        pace.end_pass(1000, 1000, true);
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
        pace.end_pass(100, 100, true);
    }
    EXPECT_LE(pace.distance_us(), Pace::kLongestUs);
    pace.end_pass(0, 0, true);
    EXPECT_EQ(pace.distance_us(), Pace::kShortestUs);
}

}  // namespace
}  // namespace outbox::test
