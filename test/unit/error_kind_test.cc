// The table of errors.
#include "sink/kafka/error_kind.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace outbox::test {
namespace {

using kafka::ErrorKind;
using kafka::kind_of;

TEST(ErrorKind, Success) {
    EXPECT_EQ(kind_of(RD_KAFKA_RESP_ERR_NO_ERROR), ErrorKind::Delivered);
}

TEST(ErrorKind, WhatTheClientRetriesIsNobodysFault) {
    for (auto error :
         {RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__TIMED_OUT,
          RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
          RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
          RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
          RD_KAFKA_RESP_ERR__AUTHENTICATION})
        EXPECT_EQ(kind_of(error), ErrorKind::Transient) << rd_kafka_err2name(error);
}

TEST(ErrorKind, TroubleWithTheTopicAccusesNoMessage) {
    for (auto error :
         {RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
          RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
          RD_KAFKA_RESP_ERR_INVALID_MSG})
        EXPECT_EQ(kind_of(error), ErrorKind::Topic) << rd_kafka_err2name(error);
}

TEST(ErrorKind, AnUnknownTopicIsAKindOfItsOwn) {
    for (auto error : {RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART})
        EXPECT_EQ(kind_of(error), ErrorKind::UnknownTopic) << rd_kafka_err2name(error);
}

TEST(ErrorKind, WhatABrokerSaysOfAMessage) {
    for (auto error : {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
                       RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, RD_KAFKA_RESP_ERR_INVALID_RECORD,
                       RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION})
        EXPECT_EQ(kind_of(error), ErrorKind::Message) << rd_kafka_err2name(error);
}

TEST(ErrorKind, EverythingElseIsSentAgain) {
    for (auto error :
         {RD_KAFKA_RESP_ERR__PURGE_QUEUE, RD_KAFKA_RESP_ERR__PURGE_INFLIGHT,
          RD_KAFKA_RESP_ERR__FATAL, RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE,
          RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
          RD_KAFKA_RESP_ERR_UNKNOWN, static_cast<rd_kafka_resp_err_t>(200)})
        EXPECT_EQ(kind_of(error), ErrorKind::Returned) << static_cast<int>(error);
}

// A new release of the library may know more errors: nothing it can say parks a message unless it
// is in the table.
TEST(ErrorKind, OnlyTheTableParksMessages) {
    const rd_kafka_err_desc* table;
    size_t count;
    rd_kafka_get_err_descs(&table, &count);
    int parked = 0;
    for (size_t i = 0; i < count; ++i)
        parked += kind_of(table[i].code) == ErrorKind::Message ? 1 : 0;
    EXPECT_LE(parked, 8);
}

}  // namespace
}  // namespace outbox::test
