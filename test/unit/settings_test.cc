// The first frame of a connection.
#include "sink/common/settings.hpp"

#include <gtest/gtest.h>

#include "sink/common/errors.hpp"
#include "support/frame_builder.hpp"

namespace outbox::test {
namespace {

using protocol::FrameType;
using sink::Frame;
using sink::Settings;

Settings decode(const std::string& body, FrameType type = FrameType::Settings) {
    return Settings::decode({type, body.data(), body.size()});
}

TEST(Settings, NamesAndValues) {
    Settings settings = decode(settings_body({{"a", "1"}, {"b", ""}, {"c", "x=y"}}));
    EXPECT_EQ(settings.text("a"), "1");
    EXPECT_EQ(settings.text("b"), "");
    EXPECT_EQ(settings.text("c"), "x=y");
    EXPECT_EQ(settings.text("d"), "");
    EXPECT_EQ(settings.number("a", 7), 1);
    EXPECT_EQ(settings.number("b", 7), 7);
    EXPECT_EQ(settings.number("d", 7), 7);
    EXPECT_THROW(settings.number("c", 7), sink::ConfigurationError);
}

TEST(Settings, EveryTruncationIsNoticed) {
    const std::string body = settings_body({{"name", "value"}});
    for (size_t length = 0; length < body.size(); ++length) {
        if (length == sizeof(uint32_t)) continue;  // no settings at all
        EXPECT_THROW(decode(body.substr(0, length)), sink::ProtocolError) << length;
    }
}

TEST(Settings, ValuesThatNoRelaySends) {
    EXPECT_THROW(decode(settings_body({{"path", std::string("/a\0b", 4)}})), sink::ProtocolError);
    Settings settings = decode(settings_body(
        {{"low", "-1"}, {"high", "9223372036854775807"}, {"higher", "9223372036854775808"}}));
    for (const char* name : {"low", "high", "higher"})
        EXPECT_THROW(settings.number(name, 7), sink::ConfigurationError) << name;
}

TEST(Settings, AnotherVersionOrFrameIsRefused) {
    EXPECT_THROW(decode(settings_body({}, protocol::kVersion + 1)), sink::ProtocolError);
    EXPECT_THROW(decode(settings_body({}), FrameType::Drain), sink::ProtocolError);
}

}  // namespace
}  // namespace outbox::test
