// The closing rule.
#include "sink/common/closed_topics.hpp"

#include <gtest/gtest.h>

namespace outbox::test {
namespace {

using protocol::FailureKind;
using sink::ClosedTopics;

TEST(ClosedTopics, AnyFailureClosesUntilReopen) {
    for (FailureKind kind : {FailureKind::Topic, FailureKind::Message, FailureKind::Returned}) {
        ClosedTopics topics;
        EXPECT_FALSE(topics.closed("a"));
        EXPECT_EQ(topics.close("a", kind), kind);
        EXPECT_TRUE(topics.closed("a"));
        EXPECT_FALSE(topics.closed("b"));
        topics.reopen("b");
        EXPECT_TRUE(topics.closed("a"));
        topics.reopen("a");
        EXPECT_FALSE(topics.closed("a"));
    }
}

TEST(ClosedTopics, OnlyTheFirstAccusationCounts) {
    ClosedTopics topics;
    EXPECT_EQ(topics.close("a", FailureKind::Message), FailureKind::Message);
    EXPECT_EQ(topics.close("a", FailureKind::Message), FailureKind::Returned);
    EXPECT_EQ(topics.close("a", FailureKind::Topic), FailureKind::Returned);
    EXPECT_EQ(topics.close("b", FailureKind::Topic), FailureKind::Topic);
    topics.reopen("a");
    EXPECT_EQ(topics.close("a", FailureKind::Topic), FailureKind::Topic);
}

TEST(ClosedTopics, AReturnedMessageDoesNotHideTheCulprit) {
    ClosedTopics topics;
    EXPECT_EQ(topics.close("a", FailureKind::Returned), FailureKind::Returned);
    EXPECT_EQ(topics.close("a", FailureKind::Message), FailureKind::Message);
    EXPECT_EQ(topics.close("a", FailureKind::Message), FailureKind::Returned);
}

}  // namespace
}  // namespace outbox::test
