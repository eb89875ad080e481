// outbox-kafka without work: it says so, and bears being stopped and continued.
#include <gtest/gtest.h>

#include <csignal>

#include "support/fake_relay.hpp"
#include "support/mock_cluster.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

// With statistics every few milliseconds the time of quiet is over soon.
class IdleKafkaSink : public testing::Test {
  protected:
    void TearDown() override {
        EXPECT_TRUE(relay_.violations.empty()) << relay_.violations.front();
    }
    bool until_idle() {
        const int before = relay_.idle;
        return relay_.until([&] { return relay_.idle > before; });
    }
    FakeRelay::Settings settings() {
        auto settings = cluster_.settings();
        settings["config_file"] =
            folder_.write("client",
                          "statistics.interval.ms=50\n"
                          "reconnect.backoff.ms=10\nreconnect.backoff.max.ms=10\n");
        return settings;
    }
    Message message(const std::string& payload) {
        Message message;
        message.topic = "idle";
        message.key = "k";
        message.payload = payload;
        return message;
    }

    MockCluster cluster_;
    TemporaryFolder folder_;
    FakeRelay relay_{OUTBOX_KAFKA_PROGRAM, settings()};
};

// The client may have much to say before it is known to the sink.
TEST_F(IdleKafkaSink, StatisticsOfAClientThatIsStillBeingMade) {
    auto settings = cluster_.settings();
    settings["config_file"] = folder_.write("client", "statistics.interval.ms=1\n");
    for (int i = 0; i < 5; ++i) {
        FakeRelay relay(OUTBOX_KAFKA_PROGRAM, settings);
        ASSERT_TRUE(relay.until_ready());
        relay.drain();
        ASSERT_EQ(relay.exit_status(), 0);
    }
}

TEST_F(IdleKafkaSink, SaysSoAlsoIfItNeverHadAMessage) {
    EXPECT_TRUE(until_idle());
}

// As many as a stopped process may have to hear of when it goes on.
TEST_F(IdleKafkaSink, ConnectionsThatAreClosedWhileItIsStoppedAreNoTrouble) {
    cluster_.create_topic("idle", 1);
    for (int round = 0; round < 6; ++round) {
        ASSERT_TRUE(until_idle());
        ::kill(relay_.pid(), SIGSTOP);
        cluster_.set_down(1);
        cluster_.set_up(1);
        ::kill(relay_.pid(), SIGCONT);
        ASSERT_TRUE(relay_.until_answered(relay_.send(message(std::to_string(round)))));
    }
    EXPECT_TRUE(relay_.conditions.empty()) << relay_.conditions.front().text;
    EXPECT_TRUE(relay_.log.empty()) << relay_.log.front();
    EXPECT_EQ(cluster_.read("idle", 1).size(), 6u);
}

TEST_F(IdleKafkaSink, ABrokerThatIsGoneWhenItGoesOnIs) {
    cluster_.create_topic("idle", 1);
    ASSERT_TRUE(until_idle());
    ::kill(relay_.pid(), SIGSTOP);
    cluster_.set_down(1);
    ::kill(relay_.pid(), SIGCONT);
    const uint64_t number = relay_.send(message("p"));
    ASSERT_TRUE(relay_.until([&] { return !relay_.conditions.empty(); }));
    EXPECT_NE(relay_.conditions.front().text.find("Connect"), std::string::npos);
    EXPECT_NE(relay_.conditions.front().text.find("all brokers are down"), std::string::npos);
    cluster_.set_up(1);
    EXPECT_TRUE(relay_.until_answered(number));
    EXPECT_FALSE(relay_.conditions.back().trouble);
}

}  // namespace
}  // namespace outbox::test
