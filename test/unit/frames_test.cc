// The frame format: what is written is read back, and damage is noticed.
#include "protocol/frames.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "sink/common/bytes.hpp"
#include "support/frame_builder.hpp"

namespace outbox::test {
namespace {

using protocol::MessageView;
using sink::text_of;

Message full_message() {
    Message message;
    message.topic = "orders";
    message.key = "customer 7";
    message.payload = std::string("a\0b", 3);
    message.headers = {{"trace", "abc"}, {"empty", ""}, {"null", std::nullopt}};
    message.partition = 3;
    message.flags = protocol::kFlagAlone;
    return message;
}

TEST(Frames, MessageRoundTrip) {
    Decoded decoded(full_message(), 258);
    const MessageView& view = decoded.view();
    EXPECT_EQ(view.head.number, 258u);
    EXPECT_EQ(view.head.timestamp, 1700000000123);
    EXPECT_EQ(view.head.partition, 3);
    EXPECT_EQ(view.head.flags, protocol::kFlagAlone);
    EXPECT_EQ(view.head.header_count, 3u);
    EXPECT_EQ(text_of(view.topic), "orders");
    EXPECT_EQ(text_of(view.key), "customer 7");
    EXPECT_EQ(text_of(view.payload), std::string_view("a\0b", 3));

    protocol::BodyReader reader(view.headers.data, view.headers.length);
    protocol::HeaderView header;
    ASSERT_TRUE(protocol::next_header(&reader, &header));
    EXPECT_EQ(text_of(header.name), "trace");
    EXPECT_EQ(text_of(header.value), "abc");
    ASSERT_TRUE(protocol::next_header(&reader, &header));
    EXPECT_EQ(text_of(header.name), "empty");
    EXPECT_FALSE(header.value.absent());
    EXPECT_EQ(header.value.length, 0u);
    ASSERT_TRUE(protocol::next_header(&reader, &header));
    EXPECT_EQ(text_of(header.name), "null");
    EXPECT_TRUE(header.value.absent());
    EXPECT_FALSE(protocol::next_header(&reader, &header));
    EXPECT_FALSE(reader.failed());
}

TEST(Frames, AbsentIsNotEmpty) {
    Message message;
    Decoded absent(message);
    EXPECT_TRUE(absent.view().key.absent());
    EXPECT_TRUE(absent.view().payload.absent());
    message.key = "";
    message.payload = "";
    Decoded empty(message);
    EXPECT_FALSE(empty.view().key.absent());
    EXPECT_FALSE(empty.view().payload.absent());
    EXPECT_EQ(empty.view().payload.length, 0u);
}

TEST(Frames, EveryTruncationIsNoticed) {
    const std::string body = message_body(1, full_message());
    MessageView view;
    for (size_t length = 0; length < body.size(); ++length)
        EXPECT_FALSE(protocol::decode_message(body.data(), length, &view)) << length;
    EXPECT_TRUE(protocol::decode_message(body.data(), body.size(), &view));
    EXPECT_FALSE(protocol::decode_message((body + "x").data(), body.size() + 1, &view));
}

TEST(Frames, ImpossibleLengthsAreNoticed) {
    for (int32_t length :
         {-2, std::numeric_limits<int32_t>::min(), 1000, std::numeric_limits<int32_t>::max()}) {
        std::string body = message_body(1, full_message());
        std::memcpy(body.data() + offsetof(protocol::MessageHead, key_length), &length,
                    sizeof(length));
        MessageView view;
        EXPECT_FALSE(protocol::decode_message(body.data(), body.size(), &view)) << length;
    }
}

TEST(Frames, DamagedHeadersAreNoticed) {
    Message message;
    message.headers = {{"name", "value"}};
    std::string body = message_body(1, message);
    const uint32_t huge = std::numeric_limits<uint32_t>::max();
    MessageView view;
    ASSERT_TRUE(protocol::decode_message(body.data(), body.size(), &view));
    protocol::BodyReader reader(view.headers.data, view.headers.length);
    std::memcpy(body.data() + sizeof(protocol::MessageHead) + message.topic.size(), &huge,
                sizeof(huge));
    protocol::HeaderView header;
    EXPECT_FALSE(protocol::next_header(&reader, &header));
    EXPECT_TRUE(reader.failed());
    EXPECT_FALSE(protocol::decode_message(body.data(), body.size(), &view));
}

TEST(Frames, AsManyHeadersAsTheMessageSays) {
    Message message;
    message.headers = {{"name", "value"}};
    for (uint32_t count : {0u, 2u, std::numeric_limits<uint32_t>::max()}) {
        std::string body = message_body(1, message);
        std::memcpy(body.data() + offsetof(protocol::MessageHead, header_count), &count,
                    sizeof(count));
        MessageView view;
        EXPECT_FALSE(protocol::decode_message(body.data(), body.size(), &view)) << count;
    }
}

TEST(Frames, WhatEmitWouldRefuseIsNoMessage) {
    auto taken = [](const Message& message) {
        const std::string body = message_body(1, message);
        MessageView view;
        return protocol::decode_message(body.data(), body.size(), &view);
    };
    Message message;
    for (const std::string& topic : {std::string(), std::string("a\0b", 3), std::string("a b"),
                                     std::string("\xc3\xbc"), std::string(250, 'a')}) {
        message.topic = topic;
        EXPECT_FALSE(taken(message)) << topic;
    }
    message.topic = std::string(249, 'a');
    EXPECT_TRUE(taken(message));
    message.partition = -2;
    EXPECT_FALSE(taken(message));
}

TEST(Frames, AReaderThatFailedStaysFailed) {
    const char bytes[4] = {1, 0, 0, 0};
    protocol::BodyReader reader(bytes, sizeof(bytes));
    EXPECT_EQ(reader.get<uint64_t>(), 0u);
    EXPECT_TRUE(reader.failed());
    EXPECT_EQ(reader.get<uint32_t>(), 0u);
    EXPECT_TRUE(reader.failed());
}

}  // namespace
}  // namespace outbox::test
