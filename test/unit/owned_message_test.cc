// A copy of a message says what the original says.
#include "sink/kafka/owned_message.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "sink/common/bytes.hpp"
#include "support/frame_builder.hpp"

namespace outbox::test {
namespace {

using kafka::OwnedMessage;
using sink::text_of;

TEST(OwnedMessage, OutlivesTheOriginal) {
    Message message;
    message.key = "key";
    message.payload = "payload";
    message.headers = {{"name", "value"}};
    auto decoded = std::make_unique<Decoded>(message, 5);
    OwnedMessage copy(decoded->view());
    decoded.reset();
    OwnedMessage moved(std::move(copy));
    EXPECT_EQ(moved.view().head.number, 5u);
    EXPECT_EQ(text_of(moved.view().topic), "topic");
    EXPECT_EQ(text_of(moved.view().key), "key");
    EXPECT_EQ(text_of(moved.view().payload), "payload");
    EXPECT_EQ(moved.view().headers.length, 8u + 4u + 5u);
}

TEST(OwnedMessage, AbsentIsNotEmpty) {
    Message message;
    message.payload = "";
    Decoded decoded(message);
    OwnedMessage copy(decoded.view());
    EXPECT_TRUE(copy.view().key.absent());
    EXPECT_FALSE(copy.view().payload.absent());
}

}  // namespace
}  // namespace outbox::test
