// Which troubles are said again, and which are not.
#include "sink/common/condition.hpp"

#include <gtest/gtest.h>

namespace outbox::test {
namespace {

using namespace std::chrono_literals;
using sink::Clock;
using sink::Condition;
using sink::RepeatFilter;

constexpr Clock::time_point kStart{};

TEST(Condition, TheSameTroubleIsSaidOncePerHalfMinute) {
    Condition condition;
    EXPECT_TRUE(condition.began(1, "down", kStart));
    EXPECT_FALSE(condition.began(1, "down", kStart + 29s));
    EXPECT_TRUE(condition.began(2, "down", kStart + 29s));
    EXPECT_TRUE(condition.began(1, "refused", kStart + 29s));
    EXPECT_TRUE(condition.began(1, "down", kStart + 30s));
}

TEST(Condition, TheEndIsSaidOnceAndOnlyAfterTrouble) {
    Condition condition;
    EXPECT_FALSE(condition.ended());
    condition.began(1, "down", kStart);
    EXPECT_TRUE(condition.in_trouble());
    EXPECT_TRUE(condition.ended());
    EXPECT_FALSE(condition.in_trouble());
    EXPECT_FALSE(condition.ended());
}

TEST(Condition, TroubleThatComesBackIsSaidAtOnce) {
    Condition condition;
    EXPECT_TRUE(condition.began(1, "down", kStart));
    EXPECT_TRUE(condition.ended());
    EXPECT_TRUE(condition.began(1, "down", kStart + 1s));
}

TEST(RepeatFilter, DigitsMakeNoDifference) {
    RepeatFilter filter(1min);
    EXPECT_EQ(filter.admit(0, "failed after 17ms", kStart), 0u);
    EXPECT_FALSE(filter.admit(0, "failed after 3ms", kStart + 1s));
    EXPECT_FALSE(filter.admit(0, "failed after 5ms", kStart + 2s));
    EXPECT_EQ(filter.admit(0, "failed after 9ms", kStart + 1min), 2u);
    EXPECT_EQ(filter.admit(0, "failed after 9ms", kStart + 2min), 0u);
}

TEST(RepeatFilter, ManyTextsDoNotGrowIt) {
    RepeatFilter filter(1min);
    for (int i = 0; i < 100000; ++i)
        EXPECT_TRUE(filter.admit(i, "text", kStart + i * 1ms));
}

}  // namespace
}  // namespace outbox::test
