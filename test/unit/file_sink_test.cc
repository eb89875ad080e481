// outbox-file, with everything that can be asked of it.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/fake_relay.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

using protocol::FailureKind;

class FileSink : public testing::Test {
  protected:
    FakeRelay::Settings settings(const std::string& config_file = "") {
        return {{"path", folder_.path("out")}, {"config_file", config_file}};
    }
    static Message message(const std::string& payload, const std::string& topic = "topic") {
        Message message;
        message.topic = topic;
        message.payload = payload;
        return message;
    }
    std::vector<std::string> payloads(const std::string& file = "out") {
        std::vector<std::string> payloads;
        std::istringstream lines(folder_.read(file));
        for (std::string line; std::getline(lines, line);)
            payloads.push_back(nlohmann::json::parse(line)["payload"]);
        return payloads;
    }

    TemporaryFolder folder_;
};

TEST_F(FileSink, AppendsLinesInOrder) {
    folder_.write("out", "");
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings());
    ASSERT_TRUE(relay.until_ready());
    EXPECT_EQ(relay.name->rfind("outbox-file ", 0), 0u);
    std::vector<std::string> expected;
    for (int i = 0; i < 5000; ++i) {
        expected.push_back(std::to_string(i));
        relay.send(message(expected.back()));
    }
    ASSERT_TRUE(relay.until_all_answered());
    EXPECT_EQ(payloads(), expected);
    relay.drain();
    EXPECT_EQ(relay.exit_status(), 0);

    FakeRelay second(OUTBOX_FILE_PROGRAM, settings());
    second.send(message("more"));
    ASSERT_TRUE(second.until_all_answered());
    expected.push_back("more");
    EXPECT_EQ(payloads(), expected);
    EXPECT_TRUE(second.violations.empty());
}

TEST_F(FileSink, TheFileIsForItsOwnerAlone) {
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings());
    ASSERT_TRUE(relay.until_ready());
    struct stat status {};
    ASSERT_EQ(::stat(folder_.path("out").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(FileSink, FollowsRotation) {
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings());
    ASSERT_TRUE(relay.until_answered(relay.send(message("old"))));
    std::filesystem::rename(folder_.path("out"), folder_.path("out.1"));
    ASSERT_TRUE(relay.until_answered(relay.send(message("new"))));
    EXPECT_EQ(payloads("out.1"), std::vector<std::string>{"old"});
    EXPECT_EQ(payloads("out"), std::vector<std::string>{"new"});
}

// The kernel cuts a write short where its process is killed; here the limit of a file's size does.
TEST_F(FileSink, AMessageBehindHalfALineIsNotLost) {
    std::string torn;
    {
        FakeRelay relay(OUTBOX_FILE_PROGRAM, settings());
        ASSERT_TRUE(relay.until_answered(relay.send(message("whole"))));
        const rlim_t most = folder_.read("out").size() + 13;
        const struct rlimit limit { most, most };
        ASSERT_EQ(::prlimit(relay.pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
        relay.send(message("torn"));
        EXPECT_EQ(relay.exit_status(), -SIGXFSZ);
        torn = folder_.read("out");
        ASSERT_EQ(torn.size(), most);
    }
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings());
    ASSERT_TRUE(relay.until_answered(relay.send(message("torn"))));
    ASSERT_TRUE(relay.until_answered(relay.send(message("behind"))));
    const std::string text = folder_.read("out");
    ASSERT_EQ(text.substr(0, torn.size() + 1), torn + "\n");
    folder_.write("rest", text.substr(torn.size() + 1));
    EXPECT_EQ(payloads("rest"), (std::vector<std::string>{"torn", "behind"}));
}

TEST_F(FileSink, HalfALineOfAFileThatIsRotatedInIsEnded) {
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings());
    ASSERT_TRUE(relay.until_answered(relay.send(message("old"))));
    folder_.write("other", "half");
    std::filesystem::rename(folder_.path("other"), folder_.path("out"));
    ASSERT_TRUE(relay.until_answered(relay.send(message("new"))));
    const std::string text = folder_.read("out");
    ASSERT_EQ(text.substr(0, 5), "half\n");
    folder_.write("rest", text.substr(5));
    EXPECT_EQ(payloads("rest"), std::vector<std::string>{"new"});
}

TEST_F(FileSink, RefusesTopicsUntilItIsHealed) {
    auto config = folder_.write("conf", "refuse.topic=bad\n");
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings(config));
    relay.send(message("1", "bad"));
    relay.send(message("2", "bad"));
    relay.send(message("3", "good"));
    ASSERT_TRUE(relay.until_all_answered());
    EXPECT_EQ(relay.answers.at(1).kind, FailureKind::Topic);
    EXPECT_EQ(relay.answers.at(2).kind, FailureKind::Returned);
    EXPECT_TRUE(relay.delivered(3));
    folder_.write("conf", "# healed\n");
    ASSERT_TRUE(relay.until_answered(relay.send(message("4", "bad"))));
    EXPECT_EQ(relay.answers.at(4).kind, FailureKind::Returned);
    relay.reopen("bad");
    ASSERT_TRUE(relay.until_answered(relay.send(message("5", "bad"))));
    EXPECT_TRUE(relay.delivered(5));
}

TEST_F(FileSink, RefusesMessages) {
    auto config = folder_.write("conf", "refuse.message.containing=poison\n");
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings(config));
    relay.send(message("fine"));
    relay.send(message("this is poison"));
    relay.send(message("behind it"));
    ASSERT_TRUE(relay.until_all_answered());
    EXPECT_TRUE(relay.delivered(1));
    EXPECT_EQ(relay.answers.at(2).kind, FailureKind::Message);
    EXPECT_EQ(relay.answers.at(3).kind, FailureKind::Returned);
}

TEST_F(FileSink, CanBeSlow) {
    auto config = folder_.write("conf", "delay.ms=20\n");
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings(config));
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 10; ++i)
        relay.send(message("p"));
    relay.drain();
    ASSERT_TRUE(relay.until_all_answered());
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(200));
    EXPECT_EQ(relay.exit_status(), 0);
}

TEST_F(FileSink, CanDie) {
    auto config = folder_.write("conf", "die.after=3\n");
    FakeRelay relay(OUTBOX_FILE_PROGRAM, settings(config));
    for (int i = 0; i < 10; ++i)
        relay.send(message(std::to_string(i)));
    EXPECT_EQ(relay.exit_status(), -SIGABRT);
    EXPECT_GE(payloads().size(), 3u);
}

TEST_F(FileSink, AFullDiskIsTroubleNotLoss) {
    FakeRelay relay(OUTBOX_FILE_PROGRAM, {{"path", "/dev/full"}});
    relay.send(message("p"));
    ASSERT_TRUE(relay.until([&] { return !relay.conditions.empty(); }));
    EXPECT_TRUE(relay.conditions[0].trouble);
    EXPECT_FALSE(relay.conditions[0].fatal);
    EXPECT_NE(relay.conditions[0].text.find("/dev/full"), std::string::npos);
    EXPECT_TRUE(relay.answers.empty());
}

}  // namespace
}  // namespace outbox::test
