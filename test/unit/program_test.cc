// How the programs begin and end.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "support/fake_relay.hpp"
#include "support/mock_cluster.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

using namespace std::chrono_literals;
using protocol::FrameType;
using Clock = std::chrono::steady_clock;

struct Output {
    std::string text;
    int status;
};

Output run(const std::string& command) {
    Output output;
    FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    for (int c; (c = std::fgetc(pipe)) != EOF;)
        output.text += static_cast<char>(c);
    int status = ::pclose(pipe);
    output.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return output;
}

TEST(Program, PrintsItsVersions) {
    Output kafka = run(OUTBOX_KAFKA_PROGRAM " --version");
    EXPECT_EQ(kafka.status, 0);
    EXPECT_EQ(kafka.text.rfind("outbox-kafka ", 0), 0u);
    EXPECT_NE(kafka.text.find("(librdkafka "), std::string::npos);
    Output file = run(OUTBOX_FILE_PROGRAM " --version");
    EXPECT_EQ(file.status, 0);
    EXPECT_EQ(file.text.rfind("outbox-file ", 0), 0u);
}

TEST(Program, TellsWhoeverStartsItByHand) {
    for (const char* program : {OUTBOX_KAFKA_PROGRAM, OUTBOX_FILE_PROGRAM}) {
        Output output = run(std::string(program) + " postgres </dev/null");
        EXPECT_EQ(output.status, 64);
        EXPECT_NE(output.text.find("the relay"), std::string::npos);
    }
}

class Refusals : public testing::Test {
  protected:
    // The condition that was sent before the program ended with EX_CONFIG.
    std::string refusal(const std::string& program, const FakeRelay::Settings& settings) {
        FakeRelay relay(program, settings);
        EXPECT_EQ(relay.exit_status(), 78);
        EXPECT_FALSE(relay.name);
        if (relay.conditions.size() != 1) return "no condition";
        EXPECT_TRUE(relay.conditions[0].trouble);
        EXPECT_TRUE(relay.conditions[0].fatal);
        return relay.conditions[0].text;
    }
    std::string kafka(const std::string& properties, mode_t mode = 0600) {
        return refusal(OUTBOX_KAFKA_PROGRAM,
                       {{"bootstrap_servers", "127.0.0.1:1"},
                        {"config_file", folder_.write("conf", properties, mode)}});
    }

    TemporaryFolder folder_;
};

TEST_F(Refusals, OfKafka) {
    EXPECT_EQ(refusal(OUTBOX_KAFKA_PROGRAM, {{"bootstrap_servers", ""}}),
              "outbox.kafka_bootstrap_servers is not set");
    EXPECT_NE(kafka("acks=1").find("the property acks"), std::string::npos);
    EXPECT_NE(kafka("plugin.library.paths=/tmp/x.so").find("load code"), std::string::npos);
    EXPECT_NE(kafka("no.such=1").find("no.such"), std::string::npos);
    EXPECT_NE(kafka("linger.ms=1", 0644).find("chmod 600"), std::string::npos);
    EXPECT_NE(kafka("security.protocol=ssl\nssl.ca.location=/no/such/file").find("librdkafka"),
              std::string::npos);
    EXPECT_NE(refusal(OUTBOX_KAFKA_PROGRAM,
                      {{"bootstrap_servers", "127.0.0.1:1"}, {"config_file", "/no/such/file"}})
                  .find("/no/such/file"),
              std::string::npos);
}

TEST_F(Refusals, OfFile) {
    EXPECT_EQ(refusal(OUTBOX_FILE_PROGRAM, {}), "outbox.file_path is not set");
    EXPECT_NE(refusal(OUTBOX_FILE_PROGRAM, {{"path", "relative"}}).find("absolute"),
              std::string::npos);
    EXPECT_NE(refusal(OUTBOX_FILE_PROGRAM, {{"path", "/no/such/folder/file"}}).find("/no/such"),
              std::string::npos);
    EXPECT_NE(refusal(OUTBOX_FILE_PROGRAM, {{"path", folder_.path("out")},
                                            {"config_file", folder_.write("conf", "what=ever")}})
                  .find("what"),
              std::string::npos);
}

class Endings : public testing::TestWithParam<const char*> {
  protected:
    FakeRelay::Settings settings(const std::string& servers) {
        return {{"bootstrap_servers", servers}, {"path", folder_.path("out")}};
    }
    TemporaryFolder folder_;
};

TEST_P(Endings, TheRelayIsGone) {
    for (const char* servers : {"127.0.0.1:1", "no-such-host.invalid:9092"}) {
        FakeRelay relay(GetParam(), settings(servers));
        ASSERT_TRUE(relay.until_ready());
        for (int i = 0; i < 1000; ++i) {
            Message message;
            message.topic = "topic";
            message.payload = "p";
            relay.send(message);
        }
        relay.hang_up();
        auto start = Clock::now();
        EXPECT_EQ(relay.exit_status(), 0);
        EXPECT_LT(Clock::now() - start, 1s) << servers;
    }
}

// A Message that is right but for one field of its head.
template <typename T>
std::string spoiled(size_t offset, T value) {
    Message message;
    message.headers = {{"name", "value"}};
    std::string body = message_body(1, message);
    std::memcpy(body.data() + offset, &value, sizeof(value));
    return frame(FrameType::Message, body);
}

TEST_P(Endings, TheRelaySaysNonsense) {
    using protocol::MessageHead;
    protocol::FrameHeader huge{};
    huge.type = FrameType::Message;
    huge.length = protocol::kMaxBody + 1;
    Message truncated_by_c;
    truncated_by_c.topic = std::string("topic\0x", 7);
    const std::string good = frame(FrameType::Message, message_body(1, Message()));
    for (const std::string& bytes :
         {frame(static_cast<FrameType>('?'), "x"), frame(FrameType::Message, "too short"),
          frame(FrameType::Settings, settings_body({})),
          std::string(reinterpret_cast<const char*>(&huge), sizeof(huge)),
          frame(FrameType::Message, message_body(1, truncated_by_c)),
          frame(FrameType::Message, message_body(2, Message())), good + good,
          frame(FrameType::Drain, {}) + good,
          spoiled(offsetof(MessageHead, header_count), int32_t{0x7fffffff}),
          spoiled(offsetof(MessageHead, headers_length), uint32_t{0xffffffff}),
          spoiled(offsetof(MessageHead, payload_length), int32_t{-2}),
          spoiled(offsetof(MessageHead, partition), int32_t{-5})}) {
        FakeRelay relay(GetParam(), settings("127.0.0.1:1"));
        ASSERT_TRUE(relay.until_ready());
        relay.send_bytes(bytes);
        EXPECT_EQ(relay.exit_status(), 76);
        ASSERT_FALSE(relay.log.empty());
        EXPECT_NE(relay.log.back().find("protocol error"), std::string::npos);
    }
}

TEST_P(Endings, TheRelaySaysNonsenseFirst) {
    for (const std::string& bytes :
         {frame(FrameType::Drain, {}), frame(FrameType::Message, message_body(1, Message())),
          frame(FrameType::Settings, "\1"), frame(FrameType::Settings, settings_body({}, 7)),
          frame(FrameType::Settings, settings_body({{"path", std::string("/\0", 2)}}))}) {
        FakeRelay relay(FakeRelay::Greeting{bytes}, GetParam());
        EXPECT_EQ(relay.exit_status(), 76);
        EXPECT_FALSE(relay.name);
        ASSERT_FALSE(relay.log.empty());
        EXPECT_NE(relay.log.back().find("protocol error"), std::string::npos);
    }
}

// Half a frame, however large, is waited for; with the end of the stream it is forgotten.
TEST_P(Endings, TheRelayStopsInTheMiddle) {
    protocol::FrameHeader huge{};
    huge.type = FrameType::Message;
    huge.length = protocol::kMaxBody;
    for (size_t length : {size_t{1}, sizeof(huge) - 1, sizeof(huge)}) {
        FakeRelay relay(GetParam(), settings("127.0.0.1:1"));
        ASSERT_TRUE(relay.until_ready());
        relay.send_bytes({reinterpret_cast<const char*>(&huge), length});
        relay.hang_up();
        EXPECT_EQ(relay.exit_status(), 0);
    }
}

TEST_P(Endings, SignalsForTheServerAreNotForTheSink) {
    FakeRelay relay(GetParam(), settings("127.0.0.1:1"));
    ASSERT_TRUE(relay.until_ready());
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE})
        ASSERT_EQ(::kill(relay.pid(), signal), 0);
    relay.drain();
    EXPECT_EQ(relay.exit_status(), 0);
}

// The process that started the sink dies without closing anything: the test keeps the socket open.
TEST_P(Endings, TheParentDies) {
    int ends[2];
    int report[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    ASSERT_EQ(::pipe2(report, O_CLOEXEC), 0);
    pid_t parent = ::fork();
    ASSERT_GE(parent, 0);
    if (parent == 0) {
        pid_t sink = ::fork();
        if (sink == 0) {
            ::dup2(ends[1], 0);
            ::execl(GetParam(), GetParam(), "test", nullptr);
            ::_exit(127);
        }
        ssize_t wrote = ::write(report[1], &sink, sizeof(sink));
        ::pause();
        ::_exit(wrote > 0 ? 0 : 1);
    }
    ::close(ends[1]);
    pid_t sink = 0;
    ASSERT_EQ(::read(report[0], &sink, sizeof(sink)), static_cast<ssize_t>(sizeof(sink)));
    std::string greeting = frame(FrameType::Settings, settings_body(settings("127.0.0.1:1")));
    ASSERT_GT(::send(ends[0], greeting.data(), greeting.size(), 0), 0);
    char byte;
    ASSERT_EQ(::recv(ends[0], &byte, 1, 0), 1);  // Ready: it has tied itself to its parent
    ::kill(parent, SIGKILL);
    ::waitpid(parent, nullptr, 0);
    // The end of the stream comes when the sink, the last one to hold the other end, is gone.
    timeval patience{10, 0};
    ::setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ssize_t got = 1;
    while (got > 0)
        got = ::recv(ends[0], &byte, 1, 0);
    EXPECT_EQ(got, 0) << "the sink lives on without its parent";
    if (got != 0) ::kill(sink, SIGKILL);
    ::close(ends[0]);
    ::close(report[0]);
    ::close(report[1]);
}

INSTANTIATE_TEST_SUITE_P(, Endings, testing::Values(OUTBOX_KAFKA_PROGRAM, OUTBOX_FILE_PROGRAM),
                         [](const auto& test) {
                             std::string name(test.param);
                             return name.substr(name.rfind('-') + 1);
                         });

}  // namespace
}  // namespace outbox::test
