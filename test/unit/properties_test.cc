// The properties file: its syntax, and who may be able to read it.
#include "sink/common/properties.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sink/common/errors.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

using sink::ConfigurationError;
using sink::Property;

std::string refusal_of(const std::string& path) {
    try {
        sink::read_properties(path);
        return "";
    } catch (const ConfigurationError& error) {
        return error.what();
    }
}

TEST(Properties, Syntax) {
    auto properties = sink::parse_properties(
        "# comment\n"
        "\n"
        "  a = 1  \r\n"
        "b=\n"
        "\tc.d\t=\tx = y # z\n"
        "   # another\n"
        "e=last",
        "file");
    ASSERT_EQ(properties.size(), 4u);
    EXPECT_EQ(properties[0].name, "a");
    EXPECT_EQ(properties[0].value, "1");
    EXPECT_EQ(properties[0].line, 3);
    EXPECT_EQ(properties[1].name, "b");
    EXPECT_EQ(properties[1].value, "");
    EXPECT_EQ(properties[2].name, "c.d");
    EXPECT_EQ(properties[2].value, "x = y # z");
    EXPECT_EQ(properties[3].name, "e");
    EXPECT_EQ(properties[3].value, "last");
    EXPECT_EQ(properties[3].line, 7);
    EXPECT_TRUE(sink::parse_properties("", "file").empty());
}

TEST(Properties, ALineThatIsNotUnderstoodIsNamedNotShown) {
    for (const char* text : {"a=1\nhunter2\n", "a=1\n=hunter2\n"}) {
        try {
            sink::parse_properties(text, "/etc/x.conf");
            FAIL();
        } catch (const ConfigurationError& error) {
            std::string words = error.what();
            EXPECT_NE(words.find("/etc/x.conf"), std::string::npos);
            EXPECT_NE(words.find("line 2"), std::string::npos);
            EXPECT_EQ(words.find("hunter2"), std::string::npos);
        }
    }
}

TEST(Properties, AFileForItsOwnerAloneIsRead) {
    TemporaryFolder folder;
    for (mode_t mode : {0600, 0400, 0700}) {
        auto properties = sink::read_properties(folder.write("conf", "a=b\n", mode));
        ASSERT_EQ(properties.size(), 1u);
        EXPECT_EQ(properties[0].value, "b");
    }
}

TEST(Properties, AFileThatOthersCanReachIsRefused) {
    TemporaryFolder folder;
    for (mode_t mode : {0644, 0640, 0620, 0610, 0604, 0602, 0601}) {
        std::string words = refusal_of(folder.write("conf", "a=hunter2\n", mode));
        EXPECT_NE(words.find(folder.path("conf")), std::string::npos) << mode;
        EXPECT_NE(words.find("chmod 600"), std::string::npos) << mode;
        EXPECT_EQ(words.find("hunter2"), std::string::npos) << mode;
    }
}

TEST(Properties, AFileOfSomebodyElseIsRefused) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    TemporaryFolder folder;
    std::string path = folder.write("conf", "a=b\n");
    ASSERT_EQ(::chown(path.c_str(), 65534, 65534), 0);
    EXPECT_NE(refusal_of(path).find("does not belong"), std::string::npos);
}

TEST(Properties, OnlyRegularFilesByAbsolutePathsAreRead) {
    TemporaryFolder folder;
    EXPECT_NE(refusal_of("relative.conf").find("absolute"), std::string::npos);
    EXPECT_NE(refusal_of("").find("absolute"), std::string::npos);
    EXPECT_NE(refusal_of(folder.path("missing")).find("cannot be opened"), std::string::npos);
    EXPECT_NE(refusal_of(folder.path("")).find("not a regular file"), std::string::npos);
    std::string fifo = folder.path("fifo");
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    EXPECT_NE(refusal_of(fifo).find("not a regular file"), std::string::npos);
}

}  // namespace
}  // namespace outbox::test
