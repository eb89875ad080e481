// Messages that come in together: those of a place stand together, and keep their order.
#include "sink/common/burst.hpp"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

namespace outbox::test {
namespace {

using sink::Burst;

void add(Burst& burst, uint64_t number, uint32_t place) {
    protocol::MessageView message;
    message.head.number = number;
    burst.add(message, place);
}

// The numbers 1, 2, 3, ... with these places, in the order in which they come out.
std::vector<uint64_t> arranged(Burst& burst, std::initializer_list<uint32_t> places) {
    uint64_t number = 0;
    for (uint32_t place : places)
        add(burst, ++number, place);
    burst.arrange();
    std::vector<uint64_t> numbers;
    for (; !burst.empty(); burst.pop())
        numbers.push_back(burst.front().head.number);
    return numbers;
}

using Numbers = std::vector<uint64_t>;

TEST(Burst, OnePlaceKeepsItsOrder) {
    Burst burst;
    EXPECT_EQ(arranged(burst, {7, 7, 7, 7}), Numbers({1, 2, 3, 4}));
}

TEST(Burst, PlacesComeOneAfterTheOther) {
    Burst burst;
    EXPECT_EQ(arranged(burst, {2, 0, 0xffffffff, 2, 0, 2}), Numbers({2, 5, 1, 4, 6, 3}));
}

TEST(Burst, IsEmptyAgainForTheNext) {
    Burst burst;
    EXPECT_TRUE(burst.empty());
    arranged(burst, {3, 1, 2});
    EXPECT_TRUE(burst.empty());
    EXPECT_EQ(arranged(burst, {2, 1}), Numbers({2, 1}));
}

TEST(Burst, KeepsTheOrderOfManyInAPlace) {
    Burst burst;
    uint64_t number = 0;
    for (; !burst.full(); ++number)
        add(burst, number, static_cast<uint32_t>(number % 6));
    EXPECT_EQ(number, Burst::kMost);
    burst.arrange();
    uint64_t last = 0, count = 0;
    for (uint32_t place = 0; !burst.empty(); burst.pop(), ++count) {
        uint64_t now = burst.front().head.number;
        if (now % 6 != place) {
            EXPECT_EQ(now % 6, ++place);
        } else if (count > 0) {
            EXPECT_GT(now, last);
        }
        last = now;
    }
    EXPECT_EQ(count, Burst::kMost);
}

}  // namespace
}  // namespace outbox::test
