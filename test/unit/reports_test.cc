// What the relay accepts from a sink: every report that a sink writes, and nothing that only looks
// like one.
#include "protocol/reports.hpp"

#include <gtest/gtest.h>

#include <memory>

#include "support/frame_builder.hpp"
#include "worker/log_limit.hpp"

namespace outbox::test {
namespace {

using protocol::FrameType;
using protocol::Report;
using protocol::ReportBuffer;
using Next = ReportBuffer::Next;

template <typename T>
std::string raw(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string header(FrameType type, uint32_t length) {
    protocol::FrameHeader header{};
    header.type = type;
    header.length = length;
    return raw(header);
}

class Buffer {
  public:
    Buffer() { buffer_.use(memory_.get()); }
    void put(std::string_view bytes) {
        size_t room;
        char* at = buffer_.room(&room);
        ASSERT_LE(bytes.size(), room);
        bytes.copy(at, bytes.size());
        buffer_.came(bytes.size());
    }
    Next next() { return buffer_.next(&report); }
    size_t room() {
        size_t room;
        buffer_.room(&room);
        return room;
    }
    Report report{};

  private:
    std::unique_ptr<char[]> memory_{new char[ReportBuffer::kCapacity]};
    ReportBuffer buffer_;
};

TEST(ReportBuffer, CutsWhateverWayItComes) {
    const std::string stream = frame(FrameType::Log, "\3one") + frame(FrameType::Statistics, "{}");
    for (size_t piece = 1; piece <= stream.size(); ++piece) {
        Buffer buffer;
        std::vector<std::string> bodies;
        for (size_t at = 0; at < stream.size(); at += piece) {
            buffer.put(std::string_view(stream).substr(at, piece));
            while (buffer.next() == Next::Report)
                bodies.emplace_back(buffer.report.body, buffer.report.length);
        }
        EXPECT_EQ(bodies, (std::vector<std::string>{"\3one", "{}"})) << piece;
    }
}

TEST(ReportBuffer, KnowsDamageBeforeTheBodyComes) {
    for (FrameType type : {FrameType::Ready, FrameType::Delivered, FrameType::Failed,
                           FrameType::Condition, FrameType::Log, FrameType::Statistics}) {
        Buffer fits;
        fits.put(header(type, protocol::longest_report(type)));
        EXPECT_EQ(fits.next(), Next::Nothing);
        for (uint32_t length : {protocol::longest_report(type) + 1, UINT32_MAX}) {
            Buffer buffer;
            buffer.put(header(type, length));
            EXPECT_EQ(buffer.next(), Next::Damage);
            EXPECT_EQ(buffer.report.length, length);
        }
    }
    Buffer idle;
    idle.put(header(FrameType::Idle, 0) + header(FrameType::Idle, 1));
    EXPECT_EQ(idle.next(), Next::Report);
    EXPECT_EQ(idle.next(), Next::Damage);
    // What only a relay sends, and what nobody does.
    for (char type : {'S', 'M', 'O', 'D', '\0', '?', '\xff'}) {
        Buffer buffer;
        buffer.put(header(static_cast<FrameType>(type), 0));
        EXPECT_EQ(buffer.next(), Next::Damage);
    }
}

TEST(ReportBuffer, HasRoomBehindTheLargestUnfinishedReport) {
    Buffer buffer;
    std::string largest = frame(FrameType::Delivered, std::string(protocol::kMaxReport, 'x'));
    largest.pop_back();
    buffer.put(largest);
    EXPECT_EQ(buffer.next(), Next::Nothing);
    EXPECT_GT(buffer.room(), ReportBuffer::kLeastRoom);
    buffer.put("x");
    EXPECT_EQ(buffer.next(), Next::Report);
    EXPECT_EQ(buffer.room(), ReportBuffer::kCapacity);
}

bool takes_failed(protocol::FailedHead head, const std::string& text) {
    const std::string body = raw(head) + text;
    protocol::FailedView view;
    return protocol::decode_failed({FrameType::Failed, body.data(), uint32_t(body.size())}, &view);
}

TEST(Reports, FailedIsTakenWholeOrNot) {
    protocol::FailedHead head{};
    head.text_length = 4;
    for (int kind = 0; kind < 256; ++kind) {
        head.kind = static_cast<protocol::FailureKind>(kind);
        EXPECT_EQ(takes_failed(head, "text"), kind >= 1 && kind <= 4) << kind;
    }
    head.kind = protocol::FailureKind::Topic;
    EXPECT_FALSE(takes_failed(head, "tex"));
    EXPECT_FALSE(takes_failed(head, "text "));
    protocol::FailedView view;
    EXPECT_FALSE(protocol::decode_failed({FrameType::Failed, "", 0}, &view));
}

bool takes_condition(uint8_t trouble, uint8_t fatal, uint16_t length, const std::string& text) {
    protocol::ConditionHead head{};
    head.trouble = trouble;
    head.fatal = fatal;
    head.text_length = length;
    const std::string body = raw(head) + text;
    protocol::ConditionView view;
    return protocol::decode_condition({FrameType::Condition, body.data(), uint32_t(body.size())},
                                      &view);
}

TEST(Reports, ConditionIsTakenWholeOrNot) {
    EXPECT_TRUE(takes_condition(1, 1, 4, "text"));
    EXPECT_TRUE(takes_condition(1, 0, 4, "text"));
    EXPECT_TRUE(takes_condition(0, 0, 0, ""));
    EXPECT_FALSE(takes_condition(0, 1, 0, ""));
    EXPECT_FALSE(takes_condition(2, 0, 0, ""));
    EXPECT_FALSE(takes_condition(1, 0, 5, "text"));
    EXPECT_FALSE(takes_condition(1, 0, 3, "text"));
}

TEST(Reports, DeliveredIsWholeNumbersAndAtLeastOne) {
    uint32_t count;
    EXPECT_FALSE(protocol::decode_delivered({FrameType::Delivered, "", 0}, &count));
    EXPECT_FALSE(protocol::decode_delivered({FrameType::Delivered, "123456789", 9}, &count));
    EXPECT_TRUE(protocol::decode_delivered({FrameType::Delivered, "1234567812345678", 16}, &count));
    EXPECT_EQ(count, 2u);
}

TEST(Reports, LogHasALevel) {
    protocol::LogView view;
    EXPECT_FALSE(protocol::decode_log({FrameType::Log, "", 0}, &view));
    EXPECT_FALSE(protocol::decode_log({FrameType::Log, "\2x", 2}, &view));
    EXPECT_TRUE(protocol::decode_log({FrameType::Log, "\3x", 2}, &view));
    EXPECT_TRUE(protocol::decode_log({FrameType::Log, "\7", 1}, &view));
    EXPECT_FALSE(protocol::decode_log({FrameType::Log, "\10x", 2}, &view));
}

bool takes_statistics(std::string_view text) {
    return protocol::decode_statistics(
        {FrameType::Statistics, text.data(), static_cast<uint32_t>(text.size())});
}

TEST(Reports, StatisticsAreCounters) {
    for (const char* text : {"{}", R"({"a":1})", R"({"a_1":0,"b":-12,"c":0.25,"d":1e-05,"e":3.5E)"})
        EXPECT_EQ(takes_statistics(text), text[strlen(text) - 1] == '}') << text;
    for (const char* text : {"",
                             "{",
                             "}",
                             "[]",
                             "1",
                             "null",
                             "{}x",
                             "{},{}",
                             R"({"a"})",
                             R"({"a":})",
                             R"({"a":1,})",
                             R"({"a":01})",
                             R"({"a":1.})",
                             R"({"a":.5})",
                             R"({"a":-})",
                             R"({"a":1e})",
                             R"({"a":1e999})",
                             R"({"a":"b"})",
                             R"({"a":{}})",
                             R"({"a":[1]})",
                             R"({"a":true})",
                             R"({a:1})",
                             R"({"A":1})",
                             R"({"a": 1})",
                             R"({"\u0000":1})",
                             "{\"\xff\":1}"})
        EXPECT_FALSE(takes_statistics(text)) << text;
}

TEST(Reports, TextBecomesOneLineOfAscii) {
    const std::string text("a\nb\tc\r\x1b[2J\x7f\xc3\xbc\0d", 15);
    char line[100];
    EXPECT_EQ(protocol::copy_plain({text.data(), 15}, line, sizeof(line)), 15u);
    EXPECT_STREQ(line, "a b c??[2J????d");
    EXPECT_EQ(protocol::copy_plain({text.data(), 15}, line, 4), 3u);
    EXPECT_STREQ(line, "a b");
    EXPECT_EQ(protocol::copy_plain({"", 0}, line, 1), 0u);
    EXPECT_STREQ(line, "");
}

TEST(LogLimit, AFewAtOnceThenOneNowAndThen) {
    LogLimit limit(3, 1000);
    int64_t now = 1700000000000;
    auto admitted = [&](int tries) {
        int count = 0;
        while (tries-- > 0)
            count += limit.admit(now) ? 1 : 0;
        return count;
    };
    EXPECT_EQ(admitted(1000), 3);
    EXPECT_EQ(limit.take_held_back(), 997);
    EXPECT_EQ(limit.take_held_back(), 0);
    now += 999;
    EXPECT_EQ(admitted(10), 0);
    now += 1;
    EXPECT_EQ(admitted(10), 1);
    now += 2500;
    EXPECT_EQ(admitted(10), 2);
    now += 500;
    EXPECT_EQ(admitted(10), 1);
    now += 1000000;
    EXPECT_EQ(admitted(10), 3);
    // A clock that is set back neither opens the gates nor closes them for good.
    now -= 1000000;
    EXPECT_EQ(admitted(10), 0);
    now += 1000;
    EXPECT_EQ(admitted(10), 1);
}

}  // namespace
}  // namespace outbox::test
