// outbox-kafka against librdkafka's mock cluster, while nothing goes wrong.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sink/kafka/topic.hpp"
#include "support/fake_relay.hpp"
#include "support/mock_cluster.hpp"
#include "support/sequence.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

class KafkaSink : public testing::Test {
  protected:
    void TearDown() override {
        EXPECT_TRUE(relay_.violations.empty()) << relay_.violations.front();
    }

    MockCluster cluster_{3};
    FakeRelay relay_{OUTBOX_KAFKA_PROGRAM, cluster_.settings()};
};

TEST_F(KafkaSink, SaysWhoItIsBeforeABrokerAnswers) {
    FakeRelay relay(OUTBOX_KAFKA_PROGRAM, {{"bootstrap_servers", "127.0.0.1:1"}});
    ASSERT_TRUE(relay.until_ready());
    EXPECT_EQ(relay.name->rfind("outbox-kafka ", 0), 0u);
    EXPECT_NE(relay.name->find("(librdkafka "), std::string::npos);
}

TEST_F(KafkaSink, MessagesArriveAsTheyWereSent) {
    cluster_.create_topic("exact", 4);
    Message message;
    message.topic = "exact";
    message.partition = 3;
    message.key = std::string("k\0y", 3);
    message.payload = std::string("\xff\0\n", 3);
    message.headers = {{"one", "1"}, {"empty", ""}, {"null", std::nullopt}, {"one", "again"}};
    relay_.send(message);
    Message tombstone;
    tombstone.topic = "exact";
    tombstone.partition = 3;
    tombstone.key = "";
    relay_.send(tombstone);
    Message hollow;
    hollow.topic = "exact";
    hollow.partition = 3;
    hollow.payload = "";
    relay_.send(hollow);
    ASSERT_TRUE(relay_.until_all_answered());

    auto records = cluster_.read("exact", 4);
    ASSERT_EQ(records.size(), 3u);
    EXPECT_EQ(records[0].partition, 3);
    EXPECT_EQ(records[0].key, message.key);
    EXPECT_EQ(records[0].payload, message.payload);
    EXPECT_EQ(records[0].timestamp, message.timestamp);
    ASSERT_EQ(records[0].headers.size(), 5u);
    EXPECT_EQ(records[0].headers[0].first, "id");
    EXPECT_EQ(records[0].headers[0].second, "00000000-0000-0000-0000-000000000001");
    EXPECT_TRUE(
        std::equal(message.headers.begin(), message.headers.end(), records[0].headers.begin() + 1));
    EXPECT_EQ(records[1].key, "");
    EXPECT_EQ(records[1].payload, std::nullopt);
    EXPECT_EQ(records[2].key, std::nullopt);
    EXPECT_EQ(records[2].payload, "");
}

TEST_F(KafkaSink, HeadersThatAreCompleteAreAllThereAre) {
    cluster_.create_topic("exact", 1);
    Message message;
    message.topic = "exact";
    message.headers = {{"first", "1"}, {"id", "another"}, {"id", std::nullopt}};
    message.flags = protocol::kFlagHeadersComplete;
    relay_.send(message);
    ASSERT_TRUE(relay_.until_all_answered());
    auto records = cluster_.read("exact", 1);
    ASSERT_EQ(records.size(), 1u);
    EXPECT_EQ(records[0].headers, message.headers);
}

TEST_F(KafkaSink, OrderIsKeptAndKeysGoWhereJavaSendsThem) {
    constexpr int kCount = 20000;
    cluster_.create_topic("ordered", 6);
    auto messages = sequence("ordered", kCount, 50);
    ASSERT_TRUE(deliver_all(relay_, messages));
    EXPECT_EQ(relay_.sent, static_cast<uint64_t>(kCount));
    auto records = cluster_.read("ordered", 6);
    expect_in_order(records, kCount);
    for (const Record& record : records)
        ASSERT_EQ(record.partition,
                  kafka::Partitioner::by_key(record.key->data(), record.key->size(), 6));
}

TEST_F(KafkaSink, MessagesWithoutAKeySpread) {
    cluster_.create_topic("spread", 4);
    Message message;
    message.topic = "spread";
    message.payload = "p";
    std::map<int32_t, int> counts;
    // A partition is kept for some milliseconds, so this takes some rounds.
    for (int round = 0; round < 200 && counts.size() < 4; ++round) {
        for (int i = 0; i < 20; ++i)
            relay_.send(message);
        ASSERT_TRUE(relay_.until_all_answered());
        if (round % 20 != 19) continue;
        counts.clear();
        for (const Record& record : cluster_.read("spread", 4))
            ++counts[record.partition];
    }
    EXPECT_EQ(counts.size(), 4u);
}

TEST_F(KafkaSink, ManyTopicsAtOnce) {
    std::vector<Message> messages;
    for (int i = 0; i < 3000; ++i) {
        Message message;
        message.topic = "topic" + std::to_string(i % 30);
        message.key = std::to_string(i % 7);
        message.payload = std::to_string(i);
        messages.push_back(message);
    }
    ASSERT_TRUE(deliver_all(relay_, messages));
    expect_in_order(cluster_.read("topic17", 4), 100);
}

TEST_F(KafkaSink, DrainAnswersEverythingAndEnds) {
    cluster_.create_topic("drained", 3);
    for (const Message& message : sequence("drained", 5000))
        relay_.send(message);
    relay_.drain();
    ASSERT_TRUE(relay_.until_all_answered());
    EXPECT_EQ(relay_.exit_status(), 0);
    expect_in_order(cluster_.read("drained", 3), 5000);
}

TEST_F(KafkaSink, DrainWithNothingToDoEnds) {
    ASSERT_TRUE(relay_.until_ready());
    relay_.drain();
    EXPECT_EQ(relay_.exit_status(), 0);
}

TEST_F(KafkaSink, AMessageThatGoesAloneArrivesToo) {
    cluster_.create_topic("lonely", 2);
    Message message;
    message.topic = "lonely";
    message.payload = "p";
    message.flags = protocol::kFlagAlone;
    for (int i = 0; i < 3; ++i)
        ASSERT_TRUE(relay_.until_answered(relay_.send(message)));
    EXPECT_TRUE(relay_.delivered(3));
    EXPECT_EQ(cluster_.read("lonely", 2).size(), 3u);
}

TEST_F(KafkaSink, AHugeMessageArrives) {
    cluster_.create_topic("huge", 1);
    Message message;
    message.topic = "huge";
    message.payload = std::string(3000000, 'h');
    ASSERT_TRUE(relay_.until_answered(relay_.send(message)));
    EXPECT_TRUE(relay_.delivered(1));
}

TEST_F(KafkaSink, StatisticsAreJson) {
    ASSERT_TRUE(relay_.until([&] { return relay_.statistics.size() >= 1; }));
    auto json = nlohmann::json::parse(relay_.statistics.front());
    EXPECT_TRUE(json.contains("brokers_up"));
    EXPECT_TRUE(json.contains("messages_queued"));
}

TEST_F(KafkaSink, ASmallClientQueueHoldsTheRelayBack) {
    cluster_.create_topic("narrow", 1);
    TemporaryFolder folder;
    FakeRelay relay(OUTBOX_KAFKA_PROGRAM,
                    cluster_.settings(folder.write("conf", "queue.buffering.max.messages=10\n")));
    ASSERT_TRUE(deliver_all(relay, sequence("narrow", 2000)));
    EXPECT_EQ(relay.sent, 2000u);
    expect_in_order(cluster_.read("narrow", 1), 2000);
    EXPECT_TRUE(relay.violations.empty());
}

}  // namespace
}  // namespace outbox::test
