// outbox-kafka against librdkafka's mock cluster, when things go wrong. The mock does not check
// sequence numbers: it stands for a broker that has not heard of the producer yet.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <string>

#include "support/fake_relay.hpp"
#include "support/mock_cluster.hpp"
#include "support/sequence.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

using protocol::FailureKind;

class KafkaFailures : public testing::Test {
  protected:
    void TearDown() override {
        EXPECT_TRUE(relay_.violations.empty()) << relay_.violations.front();
    }

    Message message(const std::string& topic, const std::string& payload = "p") {
        Message message;
        message.topic = topic;
        message.key = "k";
        message.payload = payload;
        return message;
    }
    bool condition_seen(bool trouble, const std::string& text = "") {
        return std::any_of(relay_.conditions.begin(), relay_.conditions.end(), [&](auto& seen) {
            return seen.trouble == trouble && seen.text.find(text) != std::string::npos;
        });
    }

    TemporaryFolder folder_;
    MockCluster cluster_;
    // librdkafka has at most five messages of a partition under way, or else one batch: to have
    // several batches under way they have to be tiny.
    FakeRelay relay_{OUTBOX_KAFKA_PROGRAM,
                     cluster_.settings(folder_.write("conf", "batch.num.messages=1\n"))};
};

// Only the first one is accused, nothing overtakes it, and once it is out of the way (here:
// accepted) all arrive in order.
TEST_F(KafkaFailures, NothingOvertakesARefusedFirstMessage) {
    cluster_.create_topic("first", 1);
    cluster_.set_round_trip(1, 20);
    cluster_.refuse({RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE});
    auto messages = sequence("first", 60, 1);
    for (const Message& one : messages)
        relay_.send(one);
    ASSERT_TRUE(relay_.until_all_answered());
    EXPECT_EQ(relay_.answers.at(1).kind, FailureKind::Message);
    EXPECT_EQ(relay_.answers.at(1).code, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    EXPECT_NE(relay_.answers.at(1).text.find("too large"), std::string::npos);
    for (uint64_t number = 2; number <= relay_.sent; ++number) {
        ASSERT_FALSE(relay_.delivered(number)) << number;
        ASSERT_EQ(relay_.answers.at(number).kind, FailureKind::Returned) << number;
    }
    relay_.reopen("first");
    ASSERT_TRUE(deliver_all(relay_, messages));
    expect_in_order(cluster_.read("first", 1), 60);
}

// Without the partition gate librdkafka would report messages of the first batch as delivered when
// the second one is (rd_kafka_dr_implicit_ack), and lose them.
TEST_F(KafkaFailures, ATransientErrorAtFirstContactLosesNothing) {
    cluster_.create_topic("contact", 2);
    cluster_.set_round_trip(1, 20);
    cluster_.refuse({RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                     RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION});
    ASSERT_TRUE(deliver_all(relay_, sequence("contact", 60)));
    EXPECT_EQ(relay_.sent, 60u);
    expect_in_order(cluster_.read("contact", 2), 60);
}

// The same later on, at a broker that has forgotten the producer (the mock never knows one): the
// topic was made anew, say. What the client takes for delivered is sent again with all that
// follows.
TEST_F(KafkaFailures, ATransientErrorAtABrokerThatForgotTheProducerLosesNothing) {
    cluster_.create_topic("forgotten", 1);
    auto messages = sequence("forgotten", 200, 1);
    ASSERT_TRUE(deliver_all(relay_, {messages.begin(), messages.begin() + 1}));
    cluster_.set_round_trip(1, 20);
    cluster_.refuse({RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION});
    ASSERT_TRUE(deliver_all(relay_, {messages.begin() + 1, messages.end()}));
    // All are there, and the last copies are in order: nothing ends behind what came after it.
    std::map<int, size_t> last;
    size_t place = 0;
    for (const Record& record : cluster_.read("forgotten", 1))
        last[std::stoi(*record.payload)] = place++;
    EXPECT_EQ(last.size(), 200u);
    for (auto one = last.begin(); std::next(one) != last.end(); ++one)
        EXPECT_LT(one->second, std::next(one)->second) << one->first;
    EXPECT_TRUE(condition_seen(true, "they are sent again"));
    EXPECT_TRUE(relay_.until([&] { return condition_seen(false); }));
}

// What a real broker answers to the batches behind a refused one.
TEST_F(KafkaFailures, ARefusedBatchInTheStreamKeepsOrder) {
    cluster_.create_topic("stream", 1);
    ASSERT_TRUE(deliver_all(relay_, {message("stream", "0")}));
    cluster_.set_round_trip(1, 20);
    auto messages = sequence("stream", 61, 1);
    messages.erase(messages.begin());
    for (Message& one : messages)
        one.key = "k";
    cluster_.refuse({RD_KAFKA_RESP_ERR_INVALID_RECORD,
                     RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                     RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                     RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                     RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER});
    for (const Message& one : messages)
        relay_.send(one);
    ASSERT_TRUE(relay_.until_all_answered());
    EXPECT_FALSE(relay_.delivered(2));
    EXPECT_EQ(relay_.answers.at(2).kind, FailureKind::Message);
    EXPECT_TRUE(condition_seen(true, "the producer had to be replaced"));
    cluster_.take_again();
    relay_.reopen("stream");
    ASSERT_TRUE(deliver_all(relay_, messages));
    expect_in_order(cluster_.read("stream", 1), 61);
}

TEST_F(KafkaFailures, AFatalErrorOfOneTopicOnlyDelaysTheOthers) {
    cluster_.create_topic("bad", 1);
    cluster_.create_topic("good", 1);
    ASSERT_TRUE(deliver_all(relay_, {message("bad"), message("good", "0")}));
    cluster_.refuse({RD_KAFKA_RESP_ERR_INVALID_RECORD});
    uint64_t refused = relay_.send(message("bad"));
    ASSERT_TRUE(relay_.until_answered(refused));
    EXPECT_EQ(relay_.answers.at(refused).kind, FailureKind::Message);
    auto messages = sequence("good", 1000, 1);
    messages.erase(messages.begin());
    for (Message& one : messages)
        one.key = "k";
    ASSERT_TRUE(deliver_all(relay_, messages));
    expect_in_order(cluster_.read("good", 1), 1000);
    EXPECT_TRUE(relay_.until([&] { return condition_seen(false); }));
}

TEST_F(KafkaFailures, ASequenceErrorMeansANewProducerAndNoAccusation) {
    cluster_.create_topic("sequence", 1);
    ASSERT_TRUE(deliver_all(relay_, {message("sequence", "0")}));
    cluster_.refuse({RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER});
    uint64_t number = relay_.send(message("sequence", "1"));
    ASSERT_TRUE(relay_.until_answered(number));
    EXPECT_EQ(relay_.answers.at(number).kind, FailureKind::Returned);
    ASSERT_TRUE(relay_.until([&] { return condition_seen(true); }));
    relay_.reopen("sequence");
    ASSERT_TRUE(deliver_all(relay_, {message("sequence", "1")}));
    expect_in_order(cluster_.read("sequence", 1), 2);
    ASSERT_TRUE(relay_.until([&] { return condition_seen(false); }));
    EXPECT_EQ(relay_.conditions.size(), 2u);
}

// Not allowed to produce idempotently: librdkafka gives up, the sink does not.
TEST_F(KafkaFailures, AClusterThatRefusesTheProducerHeals) {
    MockCluster cluster;  // the fixture's sink has introduced itself already
    cluster.create_topic("later", 1);
    cluster.refuse_producers({RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
                              RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED});
    FakeRelay relay(OUTBOX_KAFKA_PROGRAM, cluster.settings());
    ASSERT_TRUE(deliver_all(relay, sequence("later", 100)));
    ASSERT_FALSE(relay.conditions.empty());
    EXPECT_TRUE(relay.conditions.front().trouble);
    EXPECT_FALSE(relay.conditions.front().fatal);
    EXPECT_NE(relay.conditions.front().text.find("uthoriz"), std::string::npos)
        << relay.conditions.front().text;
    expect_in_order(cluster.read("later", 1), 100);
}

TEST_F(KafkaFailures, ARefusedMessageThatWentAloneDisturbsNobody) {
    cluster_.create_topic("suspect", 1);
    cluster_.create_topic("busy", 1);
    ASSERT_TRUE(deliver_all(relay_, {message("busy")}));
    Message alone = message("suspect");
    alone.flags = protocol::kFlagAlone;
    for (auto [error, kind] :
         {std::pair{RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, FailureKind::Message},
          std::pair{RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, FailureKind::Topic},
          std::pair{RD_KAFKA_RESP_ERR_INVALID_MSG, FailureKind::Topic},
          std::pair{RD_KAFKA_RESP_ERR_INVALID_RECORD, FailureKind::Message}}) {
        cluster_.refuse({error});
        uint64_t number = relay_.send(alone);
        ASSERT_TRUE(relay_.until_answered(number));
        EXPECT_EQ(relay_.answers.at(number).kind, kind);
        EXPECT_EQ(relay_.answers.at(number).code, error);
        relay_.reopen("suspect");
    }
    uint64_t number = relay_.send(alone);
    ASSERT_TRUE(relay_.until_answered(number));
    EXPECT_TRUE(relay_.delivered(number));
    ASSERT_TRUE(relay_.until_answered(relay_.send(message("busy"))));
    EXPECT_TRUE(relay_.delivered(relay_.sent));
    EXPECT_TRUE(relay_.conditions.empty());
}

// A checksum that is wrong: bits flipped on the way.
TEST_F(KafkaFailures, ABatchThatWasSpoiledOnItsWayAccusesNoMessage) {
    cluster_.create_topic("spoiled", 1);
    ASSERT_TRUE(deliver_all(relay_, {message("spoiled", "0")}));
    cluster_.refuse({RD_KAFKA_RESP_ERR_INVALID_MSG});
    uint64_t number = relay_.send(message("spoiled", "1"));
    ASSERT_TRUE(relay_.until_answered(number));
    EXPECT_EQ(relay_.answers.at(number).kind, FailureKind::Topic);
    relay_.reopen("spoiled");
    ASSERT_TRUE(deliver_all(relay_, {message("spoiled", "1")}));
    expect_in_order(cluster_.read("spoiled", 1), 2);
}

// What brokers before 2.4 say of a message without key in a compacted topic.
TEST_F(KafkaFailures, ACorruptMessageWithoutKeyIsRefused) {
    cluster_.create_topic("compacted", 1);
    cluster_.refuse({RD_KAFKA_RESP_ERR_INVALID_MSG});
    Message keyless = message("compacted");
    keyless.key.reset();
    uint64_t number = relay_.send(keyless);
    ASSERT_TRUE(relay_.until_answered(number));
    EXPECT_EQ(relay_.answers.at(number).kind, FailureKind::Message);
    EXPECT_NE(relay_.answers.at(number).text.find("compacted"), std::string::npos);
}

TEST_F(KafkaFailures, AMissingTopicIsKeptApartAndHeals) {
    cluster_.create_topic("there", 1);
    cluster_.set_topic_error("missing", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    relay_.send(message("missing"));
    relay_.send(message("missing"));
    uint64_t other = relay_.send(message("there"));
    ASSERT_TRUE(relay_.until_answered(other));
    EXPECT_TRUE(relay_.delivered(other));
    EXPECT_FALSE(relay_.answers.contains(1));
    ASSERT_TRUE(relay_.until_all_answered());
    EXPECT_EQ(relay_.answers.at(1).kind, FailureKind::UnknownTopic);
    EXPECT_EQ(relay_.answers.at(2).kind, FailureKind::Returned);

    // The client remembers that the topic is missing; what it remembers is not the last word.
    cluster_.set_topic_error("missing", RD_KAFKA_RESP_ERR_NO_ERROR);
    relay_.reopen("missing");
    uint64_t again = relay_.send(message("missing"));
    ASSERT_TRUE(relay_.until_answered(again));
    EXPECT_TRUE(relay_.delivered(again)) << relay_.answers.at(again).text;
}

TEST_F(KafkaFailures, AProbeSeesATopicThatHasHealed) {
    cluster_.set_topic_error("probed", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    Message alone = message("probed");
    alone.flags = protocol::kFlagAlone;
    uint64_t number = relay_.send(alone);
    ASSERT_TRUE(relay_.until_answered(number));
    EXPECT_EQ(relay_.answers.at(number).kind, FailureKind::UnknownTopic);
    EXPECT_EQ(relay_.answers.at(number).code, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    cluster_.set_topic_error("probed", RD_KAFKA_RESP_ERR_NO_ERROR);
    relay_.reopen("probed");
    number = relay_.send(alone);
    ASSERT_TRUE(relay_.until_answered(number));
    EXPECT_TRUE(relay_.delivered(number)) << relay_.answers.at(number).text;
}

TEST_F(KafkaFailures, APartitionThatDoesNotExistAccusesTheMessage) {
    cluster_.create_topic("small", 2);
    ASSERT_TRUE(deliver_all(relay_, {message("small")}));
    Message wrong = message("small");
    wrong.partition = 17;
    uint64_t number = relay_.send(wrong);
    ASSERT_TRUE(relay_.until_answered(number));
    EXPECT_EQ(relay_.answers.at(number).kind, FailureKind::Message);
    EXPECT_EQ(relay_.answers.at(number).code, RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION);
    relay_.reopen("small");
    ASSERT_TRUE(deliver_all(relay_, {message("small")}));
}

TEST_F(KafkaFailures, ABrokerThatGoesAndComesLosesNothing) {
    cluster_.create_topic("bumpy", 3);
    auto messages = sequence("bumpy", 3000);
    std::vector<Message> first(messages.begin(), messages.begin() + 1000);
    std::vector<Message> second(messages.begin() + 1000, messages.end());
    ASSERT_TRUE(deliver_all(relay_, first));
    cluster_.set_down(1);
    for (const Message& one : second)
        relay_.send(one);
    ASSERT_TRUE(relay_.until([&] { return condition_seen(true, "brokers are down"); }));
    EXPECT_EQ(relay_.answers.size(), 1000u);
    // That they are down is no reason; the next attempt to connect has one.
    EXPECT_TRUE(relay_.until([&] { return condition_seen(true, "(all brokers are down)"); }));
    cluster_.set_up(1);
    ASSERT_TRUE(relay_.until_all_answered());
    ASSERT_TRUE(relay_.until([&] { return condition_seen(false); }));
    expect_in_order(cluster_.read("bumpy", 3), 3000);
}

TEST_F(KafkaFailures, TroubleEndsWithoutMessagesToo) {
    ASSERT_TRUE(relay_.until_ready());
    cluster_.create_topic("quiet", 1);
    ASSERT_TRUE(deliver_all(relay_, {message("quiet")}));
    cluster_.set_down(1);
    ASSERT_TRUE(relay_.until([&] { return condition_seen(true); }));
    cluster_.set_up(1);
    EXPECT_TRUE(relay_.until([&] { return condition_seen(false); }));
}

// The client tries again and says nothing of it.
TEST_F(KafkaFailures, SilenceOfConnectedBrokersIsTrouble) {
    cluster_.create_topic("silent", 1);
    FakeRelay relay(OUTBOX_KAFKA_PROGRAM,
                    cluster_.settings(folder_.write("silent", "statistics.interval.ms=500\n")));
    ASSERT_TRUE(deliver_all(relay, {message("silent", "0")}));
    cluster_.refuse(std::vector(2000, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS));
    uint64_t number = relay.send(message("silent", "1"));
    auto silence = [&](auto& seen) {
        return seen.trouble && seen.text.find("acknowledged nothing") != std::string::npos &&
               seen.text.find("silent") != std::string::npos;
    };
    ASSERT_TRUE(relay.until(
        [&] { return std::any_of(relay.conditions.begin(), relay.conditions.end(), silence); }));
    cluster_.take_again();
    ASSERT_TRUE(relay.until_answered(number));
    EXPECT_TRUE(relay.delivered(number));
    EXPECT_TRUE(relay.until([&] { return !relay.conditions.back().trouble; }));
    expect_in_order(cluster_.read("silent", 1), 2);
}

TEST_F(KafkaFailures, ASecretStaysInside) {
    constexpr char kSecret[] = "canary-hunter2";
    TemporaryFolder folder;
    // The mock knows no SASL, so authentication fails in one way or another.
    FakeRelay relay(OUTBOX_KAFKA_PROGRAM,
                    cluster_.settings(folder.write("conf",
                                                   "security.protocol=SASL_PLAINTEXT\n"
                                                   "sasl.mechanisms=PLAIN\n"
                                                   "sasl.username=canary-user\n"
                                                   "sasl.password=canary-hunter2\n")));
    relay.send(message("any", kSecret));
    ASSERT_TRUE(relay.until([&] { return relay.conditions.size() >= 1; }));
    EXPECT_TRUE(relay.conditions.front().trouble);
    EXPECT_FALSE(relay.conditions.front().fatal);
    ASSERT_TRUE(relay.until([&] { return relay.statistics.size() >= 1; }));
    std::string everything = relay.name.value_or("");
    for (const auto& seen : relay.conditions)
        everything += seen.text;
    for (const auto& line : relay.log)
        everything += line;
    for (const auto& json : relay.statistics)
        everything += json;
    EXPECT_EQ(everything.find("canary"), std::string::npos) << everything;
}

// librdkafka quotes no secret here, but what it and brokers will say is not known: every value of
// the file is hidden, also a word that is in nearly all of its errors.
TEST_F(KafkaFailures, WhatTheFileSaysIsHiddenInTheClientsWords) {
    TemporaryFolder folder;
    FakeRelay relay(OUTBOX_KAFKA_PROGRAM,
                    {{"database", "shop"},
                     {"bootstrap_servers", "127.0.0.1:1"},
                     {"config_file", folder.write("conf", "client.rack=refused\n")}});
    relay.send(message("any"));
    ASSERT_TRUE(relay.until([&] { return relay.conditions.size() >= 1; }));
    const std::string& words = relay.conditions.front().text;
    EXPECT_EQ(words.find("refused"), std::string::npos) << words;
    EXPECT_NE(words.find("***"), std::string::npos) << words;
}

}  // namespace
}  // namespace outbox::test
