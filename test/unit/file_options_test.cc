// What a properties file can ask of outbox-file.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "sink/common/errors.hpp"
#include "sink/file/options.hpp"
#include "support/frame_builder.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

using file::Options;
using file::OptionsFile;
using sink::ConfigurationError;

TEST(FileOptions, Known) {
    TemporaryFolder folder;
    Options options = Options::read(folder.write("conf",
                                                 "delay.ms=20\n"
                                                 "refuse.topic=bad\n"
                                                 "refuse.topic=worse\n"
                                                 "refuse.message.containing=poison\n"
                                                 "die.after=3\n"
                                                 "fsync=never\n"));
    EXPECT_EQ(options.delay.count(), 20);
    EXPECT_EQ(options.die_after, 3u);
    EXPECT_FALSE(options.sync);
    Message message;
    message.topic = "worse";
    message.payload = "some poison here";
    Decoded refused(message);
    EXPECT_TRUE(options.refuses_topic(refused.view()));
    EXPECT_TRUE(options.refuses_message(refused.view()));
    Decoded fine{Message{}};
    EXPECT_FALSE(options.refuses_topic(fine.view()));
    EXPECT_FALSE(options.refuses_message(fine.view()));
}

TEST(FileOptions, RefusedByName) {
    TemporaryFolder folder;
    for (const char* text : {"delay=1", "delay.ms=x", "die.after=", "fsync=sometimes"}) {
        try {
            Options::read(folder.write("conf", text));
            FAIL() << text;
        } catch (const ConfigurationError& error) {
            std::string name(text, strcspn(text, "="));
            EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
        }
    }
}

TEST(FileOptions, ChangesAreSeenAndBadOnesChangeNothing) {
    TemporaryFolder folder;
    OptionsFile options(folder.write("conf", "die.after=1"));
    EXPECT_EQ(options.current().die_after, 1u);
    folder.write("conf", "die.after=22");
    options.refresh();
    EXPECT_EQ(options.current().die_after, 22u);
    folder.write("conf", "die.after=333", 0644);
    EXPECT_THROW(options.refresh(), ConfigurationError);
    EXPECT_NO_THROW(options.refresh());
    EXPECT_EQ(options.current().die_after, 22u);
    folder.write("conf", "die.after=4444");
    options.refresh();
    EXPECT_EQ(options.current().die_after, 4444u);
}

}  // namespace
}  // namespace outbox::test
