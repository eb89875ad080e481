// librdkafka's mock cluster inside the test, and a consumer that reads it. Runs in the unit tests.
#pragma once

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/fake_relay.hpp"

namespace outbox::test {

struct Record {
    std::optional<std::string> key;
    std::optional<std::string> payload;
    std::vector<std::pair<std::string, std::optional<std::string>>> headers;
    int64_t timestamp;
    int32_t partition;
};

class MockCluster {
  public:
    explicit MockCluster(int brokers = 1);
    ~MockCluster();
    MockCluster(const MockCluster&) = delete;

    std::string bootstrap() const { return rd_kafka_mock_cluster_bootstraps(cluster_); }
    rd_kafka_mock_cluster_t* get() { return cluster_; }

    void create_topic(const std::string& name, int partitions);
    // The next produce requests are answered with these errors.
    void refuse(const std::vector<rd_kafka_resp_err_t>& errors);
    void take_again();
    // The next producers that introduce themselves are answered with these errors.
    void refuse_producers(const std::vector<rd_kafka_resp_err_t>& errors);
    void set_topic_error(const std::string& topic, rd_kafka_resp_err_t error) {
        rd_kafka_mock_topic_set_error(cluster_, topic.c_str(), error);
    }
    void set_down(int broker) { rd_kafka_mock_broker_set_down(cluster_, broker); }
    void set_up(int broker) { rd_kafka_mock_broker_set_up(cluster_, broker); }
    void set_round_trip(int broker, int milliseconds) {
        rd_kafka_mock_broker_set_rtt(cluster_, broker, milliseconds);
    }

    // Everything in these partitions, in order.
    std::vector<Record> read(const std::string& topic, int partitions);

    // What a relay sends to a sink for this cluster.
    FakeRelay::Settings settings(const std::string& config_file = "") const;

  private:
    rd_kafka_t* host_;
    rd_kafka_mock_cluster_t* cluster_;
};

}  // namespace outbox::test
