// Messages as lines of JSON.
#include "sink/file/json_line.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/frame_builder.hpp"

namespace outbox::test {
namespace {

using namespace std::string_literals;

TEST(JsonLine, KeysComeInAFixedOrder) {
    Message message;
    message.topic = "orders";
    message.key = "k";
    message.payload = "{\"a\": 1}";
    message.headers = {{"h", "v"}, {"empty", ""}, {"null", std::nullopt}};
    message.partition = 2;
    EXPECT_EQ(file::json_line(Decoded(message, 258).view()),
              "{\"topic\":\"orders\",\"partition\":2,\"key\":\"k\",\"payload\":\"{\\\"a\\\": 1}\","
              "\"headers\":[[\"id\",\"00000000-0000-0000-0000-000000000102\"],[\"h\",\"v\"],"
              "[\"empty\",\"\"],[\"null\",null]],"
              "\"id\":\"00000000-0000-0000-0000-000000000102\",\"timestamp\":1700000000123}\n");
}

TEST(JsonLine, HeadersThatAreCompleteStayAsTheyAre) {
    Message message;
    message.headers = {{"first", "1"}, {"id", "another"}};
    message.flags = protocol::kFlagHeadersComplete;
    auto line = nlohmann::json::parse(file::json_line(Decoded(message, 258).view()));
    EXPECT_EQ(line["headers"].dump(), "[[\"first\",\"1\"],[\"id\",\"another\"]]");
    EXPECT_EQ(line["id"], "00000000-0000-0000-0000-000000000102");
}

TEST(JsonLine, AbsentIsNullAndEmptyIsEmpty) {
    Message message;
    auto absent = nlohmann::json::parse(file::json_line(Decoded(message).view()));
    EXPECT_TRUE(absent["partition"].is_null());
    EXPECT_TRUE(absent["key"].is_null());
    EXPECT_TRUE(absent["payload"].is_null());
    message.key = message.payload = "";
    auto empty = nlohmann::json::parse(file::json_line(Decoded(message).view()));
    EXPECT_EQ(empty["key"], "");
    EXPECT_EQ(empty["payload"], "");
}

TEST(JsonLine, AnyTextStaysOnOneLineAndComesBack) {
    Message message;
    message.payload = "line\nbreak \0 \"quote\" \\ \x01 \xC3\xA9 \xF0\x9F\x98\x80"s;
    std::string line = file::json_line(Decoded(message).view());
    EXPECT_EQ(line.find('\n'), line.size() - 1);
    EXPECT_EQ(nlohmann::json::parse(line)["payload"], *message.payload);
}

TEST(JsonLine, BytesThatAreNoUtf8) {
    struct Case {
        std::string bytes;
        std::string base64;
    };
    for (const Case& one :
         {Case{"\xff", "/w=="}, Case{"\xff\xfe", "//4="}, Case{"\xff\xfe\xfd", "//79"},
          Case{"\x80\0\0\0"s, "gAAAAA=="},
          // Cut, overlong, and a surrogate.
          Case{"\xC3", "ww=="}, Case{"\xC0\x80", "wIA="}, Case{"\xED\xA0\x80", "7aCA"}}) {
        Message message;
        message.key = one.bytes;
        auto json = nlohmann::json::parse(file::json_line(Decoded(message).view()));
        EXPECT_EQ(json["key"], (nlohmann::json{{"base64", one.base64}}));
    }
}

}  // namespace
}  // namespace outbox::test
