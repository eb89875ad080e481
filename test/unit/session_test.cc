// The conversation of a sink program: what comes in together is submitted place by place, and
// nothing passes what has to stay behind it.
#include "sink/common/session.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"
#include "sink/common/file_descriptor.hpp"
#include "support/frame_builder.hpp"

namespace outbox::test {
namespace {

using protocol::FailureKind;
using protocol::FrameType;
using Events = std::vector<std::string>;
using CameBack = std::map<uint64_t, FailureKind>;

// A message's place is its partition. Answers everything in poll().
class RecordingSink final : public sink::Sink {
  public:
    RecordingSink(sink::Reports& reports, Events& events, int busy_at)
        : reports_(reports), events_(events), busy_at_(busy_at) {}

    void open(const sink::Settings&) override {}
    uint32_t place(const protocol::MessageView& message) const override {
        return static_cast<uint32_t>(message.head.partition);
    }
    Submit submit(const protocol::MessageView& message) override {
        if (static_cast<int>(events_.size()) == busy_at_ && !busy_) {
            busy_ = true;
            return Submit::Busy;
        }
        std::string number = std::to_string(message.head.number);
        if (sink::text_of(message.payload) == "fails") {
            events_.push_back("fails " + number);
            reports_.failed({message.head.number, sink::text_of(message.topic),
                             FailureKind::Message, 1, "failed"});
        } else {
            events_.push_back(number + " " + std::string(sink::text_of(message.payload)));
            taken_.push_back(message.head.number);
        }
        return Submit::Taken;
    }
    void reopen(std::string_view topic) override {
        events_.push_back("reopen " + std::string(topic));
    }
    void drain() override { events_.push_back("drain"); }
    bool idle() const override { return taken_.empty(); }
    void poll() override {
        for (uint64_t number : taken_)
            reports_.delivered(number);
        taken_.clear();
    }
    std::optional<sink::Clock::time_point> wake_at() const override { return sink::Clock::now(); }

  private:
    sink::Reports& reports_;
    Events& events_;
    int busy_at_;
    bool busy_ = false;
    std::vector<uint64_t> taken_;
};

class SessionTest : public testing::Test {
  protected:
    SessionTest() {
        int ends[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        relay_ = sink::FileDescriptor(ends[0]);
        sink_ = sink::FileDescriptor(ends[1]);
        stream_ = frame(FrameType::Settings, settings_body({}));
    }
    void message(int32_t partition, const std::string& payload = "",
                 const std::string& topic = "topic") {
        Message one;
        one.topic = topic;
        one.partition = partition;
        one.payload = payload;
        stream_ += frame(FrameType::Message, message_body(++number_, one));
    }
    // All of it comes in at once; what the sink was asked for, in order.
    Events converse(int busy_at = -1) {
        stream_ += frame(FrameType::Drain, "");
        EXPECT_EQ(::send(relay_.get(), stream_.data(), stream_.size(), MSG_DONTWAIT),
                  static_cast<ssize_t>(stream_.size()));
        sink::Session session(sink_.get(), "test", [&](sink::Reports& reports) {
            return std::make_unique<RecordingSink>(reports, events_, busy_at);
        });
        session.run();
        return events_;
    }
    // The messages that came back, by number.
    CameBack came_back() {
        std::string said(1 << 20, '\0');
        ssize_t length = ::recv(relay_.get(), said.data(), said.size(), MSG_DONTWAIT);
        CameBack found;
        protocol::BodyReader reader(said.data(), length < 0 ? 0 : static_cast<size_t>(length));
        while (reader.remaining() > 0 && !reader.failed()) {
            auto header = reader.get<protocol::FrameHeader>();
            auto body = reader.bytes(header.length);
            if (header.type != FrameType::Failed) continue;
            auto head = protocol::BodyReader(body.data, body.length).get<protocol::FailedHead>();
            EXPECT_TRUE(found.emplace(head.number, head.kind).second) << "twice: " << head.number;
        }
        EXPECT_FALSE(reader.failed());
        return found;
    }

    sink::FileDescriptor relay_, sink_;
    std::string stream_;
    uint64_t number_ = 0;
    Events events_;
};

TEST_F(SessionTest, SubmitsWhatCameTogetherPlaceByPlace) {
    for (int32_t partition : {1, 0, 1, 0, 2, 1})
        message(partition);
    EXPECT_EQ(converse(), Events({"2 ", "4 ", "1 ", "3 ", "6 ", "5 ", "drain"}));
}

TEST_F(SessionTest, ABusySinkGetsTheSameMessageAgainAndTheRestBehindIt) {
    for (int32_t partition : {1, 0, 1, 0})
        message(partition, "text");
    EXPECT_EQ(converse(2), Events({"2 text", "4 text", "1 text", "3 text", "drain"}));
}

TEST_F(SessionTest, MessagesDoNotPassAReopening) {
    message(1, "fails");
    message(1);
    stream_ += frame(FrameType::Reopen, "topic");
    message(0);
    EXPECT_EQ(converse(), Events({"fails 1", "reopen topic", "3 ", "drain"}));
    EXPECT_EQ(came_back(), CameBack({{1, FailureKind::Message}, {2, FailureKind::Returned}}));
}

// Also those that came before it, but of another place: the relay sends them again, in order.
TEST_F(SessionTest, WhatIsSubmittedBehindAFailureOfItsTopicComesBack) {
    message(1);
    message(0, "fails");
    message(0, "", "other");
    message(0);
    EXPECT_EQ(converse(), Events({"fails 2", "3 ", "drain"}));
    EXPECT_EQ(came_back(), CameBack({{1, FailureKind::Returned},
                                     {2, FailureKind::Message},
                                     {4, FailureKind::Returned}}));
}

TEST_F(SessionTest, MoreThanABurstStaysInOrderWithinAPlace) {
    for (size_t i = 0; i < sink::Burst::kMost + 10; ++i)
        message(0);
    Events events = converse();
    ASSERT_EQ(events.size(), sink::Burst::kMost + 11);
    for (size_t i = 0; i + 1 < events.size(); ++i)
        EXPECT_EQ(events[i], std::to_string(i + 1) + " ");
}

TEST_F(SessionTest, ADamagedMessageEndsItBehindThoseBeforeIt) {
    message(1);
    message(0);
    ++number_;
    message(0);
    EXPECT_THROW(converse(), sink::ProtocolError);
    EXPECT_EQ(events_, Events({"2 ", "1 "}));
}

}  // namespace
}  // namespace outbox::test
