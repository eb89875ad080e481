// The summary of librdkafka's statistics.
#include "sink/kafka/statistics.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "protocol/frames.hpp"

namespace outbox::test {
namespace {

TEST(Statistics, Summary) {
    auto summary = kafka::summarize(R"({"msg_cnt": 12, "msg_size": 3456, "txmsgs": 9, "brokers": {
        "a:9092/bootstrap": {"nodeid": -1, "state": "UP", "source": "configured"},
        "a:9092/1": {"nodeid": 1, "state": "UP", "outbuf_msg_cnt": 3, "waitresp_msg_cnt": 4,
                     "rtt": {"p99": 1500}},
        "b:9092/2": {"nodeid": 2, "state": "DOWN", "txerrs": 2, "rtt": {"p99": 250}}}})");
    ASSERT_TRUE(summary);
    EXPECT_TRUE(summary->connected);
    EXPECT_LE(summary->json.size(), protocol::kMaxStatistics);
    auto json = nlohmann::json::parse(summary->json);
    EXPECT_EQ(json["brokers"], 2);
    EXPECT_EQ(json["brokers_up"], 1);
    EXPECT_EQ(json["messages_queued"], 12);
    EXPECT_EQ(json["messages_under_way"], 4);
    EXPECT_EQ(json["connection_errors"], 2);
    EXPECT_EQ(json["round_trip_p99_ms"], 1.5);
}

TEST(Statistics, TimeAloneIsNoActivity) {
    auto first = kafka::summarize(R"({"tx": 10, "txmsgs": 5})");
    auto idle = kafka::summarize(R"({"tx": 12, "txmsgs": 5})");
    auto busy = kafka::summarize(R"({"tx": 12, "txmsgs": 6})");
    EXPECT_EQ(first->activity, idle->activity);
    EXPECT_NE(first->activity, busy->activity);
}

TEST(Statistics, AskingIsAnyRequestAndAnyStepOfAConnection) {
    auto asking = [](const std::string& broker) {
        return kafka::summarize(R"({"brokers": {"a": {"nodeid": 1, "state": "UP"}, "b": )" +
                                broker + "}}")
            ->asking;
    };
    for (const char* calm : {R"({"state": "UP", "outbuf_cnt": 0, "waitresp_cnt": 0})",
                             R"({"state": "INIT"})", R"({"state": "DOWN"})"})
        EXPECT_FALSE(asking(calm)) << calm;
    for (const char* busy : {R"({"state": "UP", "outbuf_cnt": 1})",
                             R"({"state": "UP", "waitresp_cnt": 1})", R"({"state": "CONNECT"})",
                             R"({"state": "AUTH_HANDSHAKE"})", R"({"state": "APIVERSION_QUERY"})"})
        EXPECT_TRUE(asking(busy)) << busy;
}

TEST(Statistics, WhatIsNoStatistics) {
    EXPECT_FALSE(kafka::summarize("not json"));
    EXPECT_FALSE(kafka::summarize("[]"));
    auto empty = kafka::summarize("{}");
    ASSERT_TRUE(empty);
    EXPECT_FALSE(empty->connected);
}

}  // namespace
}  // namespace outbox::test
