// The queue towards the relay: batching, order, and a relay that does not read.
#include "sink/common/frame_writer.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <string>
#include <vector>

#include "sink/common/file_descriptor.hpp"
#include "sink/common/frame_reader.hpp"

namespace outbox::test {
namespace {

using protocol::FrameType;
using sink::FrameReader;
using sink::FrameWriter;

class FrameWriterTest : public testing::Test {
  protected:
    struct Got {
        FrameType type;
        std::string body;
    };

    FrameWriterTest() {
        int ends[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        ours_ = sink::FileDescriptor(ends[0]);
        relay_ = sink::FileDescriptor(ends[1]);
    }
    std::vector<Got> read() {
        std::vector<Got> frames;
        while (reader_.fill(relay_.get()) == FrameReader::Fill::Data) {
            while (auto frame = reader_.front()) {
                frames.push_back({frame->type, std::string(frame->body, frame->length)});
                reader_.pop();
            }
        }
        return frames;
    }
    static std::vector<uint64_t> numbers(const Got& frame) {
        std::vector<uint64_t> numbers(frame.body.size() / sizeof(uint64_t));
        std::memcpy(numbers.data(), frame.body.data(), frame.body.size());
        return numbers;
    }

    sink::FileDescriptor ours_;
    sink::FileDescriptor relay_;
    FrameReader reader_;
    FrameWriter writer_;
};

TEST_F(FrameWriterTest, NumbersOfOneTurnTravelInOneFrame) {
    EXPECT_TRUE(writer_.empty());
    for (uint64_t number = 1; number <= 1000; ++number)
        writer_.delivered(number);
    EXPECT_FALSE(writer_.empty());
    EXPECT_TRUE(writer_.flush(ours_.get()));
    EXPECT_TRUE(writer_.empty());
    auto frames = read();
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(frames[0].type, FrameType::Delivered);
    auto got = numbers(frames[0]);
    ASSERT_EQ(got.size(), 1000u);
    EXPECT_EQ(got.front(), 1u);
    EXPECT_EQ(got.back(), 1000u);
}

TEST_F(FrameWriterTest, AnswersKeepTheirOrder) {
    writer_.delivered(1);
    writer_.failed(2, protocol::FailureKind::Message, 10, "too large");
    writer_.delivered(3);
    writer_.flush(ours_.get());
    auto frames = read();
    ASSERT_EQ(frames.size(), 3u);
    EXPECT_EQ(numbers(frames[0]), std::vector<uint64_t>{1});
    protocol::FailedHead head;
    ASSERT_EQ(frames[1].body.size(), sizeof(head) + 9);
    std::memcpy(&head, frames[1].body.data(), sizeof(head));
    EXPECT_EQ(head.number, 2u);
    EXPECT_EQ(head.kind, protocol::FailureKind::Message);
    EXPECT_EQ(head.code, 10);
    EXPECT_EQ(head.text_length, 9);
    EXPECT_EQ(frames[1].body.substr(sizeof(head)), "too large");
    EXPECT_EQ(numbers(frames[2]), std::vector<uint64_t>{3});
}

TEST_F(FrameWriterTest, ARelayThatDoesNotReadIsNotWaitedFor) {
    constexpr uint64_t kCount = 500000;
    for (uint64_t number = 1; number <= kCount; ++number) {
        writer_.delivered(number);
        if (number % 1000 == 0) {
            ASSERT_TRUE(writer_.flush(ours_.get()));
        }
    }
    EXPECT_FALSE(writer_.empty());
    uint64_t next = 1;
    while (next <= kCount) {
        for (const Got& frame : read()) {
            for (uint64_t number : numbers(frame))
                ASSERT_EQ(number, next++);
        }
        ASSERT_TRUE(writer_.flush(ours_.get()));
    }
    EXPECT_TRUE(writer_.empty());
}

TEST_F(FrameWriterTest, ChatterIsDroppedWhileTheRelayDoesNotReadAnswersAreNot) {
    const std::string line(1000, 'l');
    for (int i = 0; i < 5000; ++i)
        writer_.log(protocol::LogLevel::Info, line);
    writer_.delivered(7);
    writer_.statistics("{}");
    size_t lines = 0, answers = 0, statistics = 0;
    while (!writer_.empty()) {
        ASSERT_TRUE(writer_.flush(ours_.get()));
        for (const Got& frame : read()) {
            lines += frame.type == FrameType::Log ? 1 : 0;
            answers += frame.type == FrameType::Delivered ? 1 : 0;
            statistics += frame.type == FrameType::Statistics ? 1 : 0;
        }
    }
    EXPECT_LT(lines, 1200u);
    EXPECT_GT(lines, 900u);
    EXPECT_EQ(answers, 1u);
    EXPECT_EQ(statistics, 0u);
}

TEST_F(FrameWriterTest, AGoneRelayIsNoticed) {
    relay_.reset();
    writer_.delivered(1);
    EXPECT_FALSE(writer_.flush(ours_.get()));
}

TEST_F(FrameWriterTest, LongTextsAreCutToWhatAFrameCanSay) {
    writer_.condition(true, false, 1, std::string(100000, 'c'));
    writer_.flush(ours_.get());
    auto frames = read();
    ASSERT_EQ(frames.size(), 1u);
    protocol::ConditionHead head;
    std::memcpy(&head, frames[0].body.data(), sizeof(head));
    EXPECT_EQ(head.text_length, 65535);
    EXPECT_EQ(frames[0].body.size(), sizeof(head) + 65535);
    writer_.statistics(std::string(protocol::kMaxStatistics + 1, ' '));
    EXPECT_TRUE(writer_.empty());
}

}  // namespace
}  // namespace outbox::test
