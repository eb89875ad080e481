// librdkafka's mock cluster inside the test, and a consumer that reads it. Runs in the unit tests.
#include "support/mock_cluster.hpp"

#include <stdexcept>

namespace outbox::test {

namespace {

// Kafka's numbers of requests.
constexpr int16_t kProduce = 0;
constexpr int16_t kInitProducerId = 22;

std::optional<std::string> bytes(const void* data, size_t length) {
    if (data == nullptr) return std::nullopt;
    return std::string(static_cast<const char*>(data), length);
}

Record record_of(const rd_kafka_message_t* message) {
    Record record{bytes(message->key, message->key_len),
                  bytes(message->payload, message->len),
                  {},
                  rd_kafka_message_timestamp(message, nullptr),
                  message->partition};
    rd_kafka_headers_t* headers = nullptr;
    rd_kafka_message_headers(message, &headers);
    const char* name;
    const void* value;
    size_t length;
    for (size_t i = 0;
         headers != nullptr && rd_kafka_header_get_all(headers, i, &name, &value, &length) == 0;
         ++i)
        record.headers.emplace_back(name, bytes(value, length));
    return record;
}

}  // namespace

MockCluster::MockCluster(int brokers) {
    char text[512];
    rd_kafka_conf_t* configuration = rd_kafka_conf_new();
    rd_kafka_conf_set(configuration, "log_level", "2", text, sizeof(text));
    host_ = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, text, sizeof(text));
    if (host_ == nullptr) throw std::runtime_error(text);
    cluster_ = rd_kafka_mock_cluster_new(host_, brokers);
}

MockCluster::~MockCluster() {
    rd_kafka_mock_cluster_destroy(cluster_);
    rd_kafka_destroy(host_);
}

void MockCluster::create_topic(const std::string& name, int partitions) {
    if (rd_kafka_mock_topic_create(cluster_, name.c_str(), partitions, 1) != 0)
        throw std::runtime_error("cannot create the topic " + name);
}

void MockCluster::refuse(const std::vector<rd_kafka_resp_err_t>& errors) {
    rd_kafka_mock_push_request_errors_array(cluster_, kProduce, errors.size(), errors.data());
}

void MockCluster::refuse_producers(const std::vector<rd_kafka_resp_err_t>& errors) {
    rd_kafka_mock_push_request_errors_array(cluster_, kInitProducerId, errors.size(),
                                            errors.data());
}

void MockCluster::take_again() {
    rd_kafka_mock_clear_request_errors(cluster_, kProduce);
}

std::vector<Record> MockCluster::read(const std::string& topic, int partitions) {
    char text[512];
    rd_kafka_conf_t* configuration = rd_kafka_conf_new();
    for (auto [name, value] :
         {std::pair{"bootstrap.servers", bootstrap()}, std::pair{"group.id", std::string("test")},
          std::pair{"enable.partition.eof", std::string("true")},
          std::pair{"check.crcs", std::string("true")}})
        rd_kafka_conf_set(configuration, name, value.c_str(), text, sizeof(text));
    rd_kafka_t* consumer = rd_kafka_new(RD_KAFKA_CONSUMER, configuration, text, sizeof(text));
    if (consumer == nullptr) throw std::runtime_error(text);
    auto* list = rd_kafka_topic_partition_list_new(partitions);
    for (int32_t i = 0; i < partitions; ++i)
        rd_kafka_topic_partition_list_add(list, topic.c_str(), i)->offset =
            RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_assign(consumer, list);
    rd_kafka_topic_partition_list_destroy(list);

    std::vector<Record> records;
    for (int ended = 0; ended < partitions;) {
        rd_kafka_message_t* message = rd_kafka_consumer_poll(consumer, 60000);
        if (message == nullptr) break;
        if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) records.push_back(record_of(message));
        if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) ++ended;
        rd_kafka_message_destroy(message);
    }
    rd_kafka_destroy_flags(consumer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return records;
}

FakeRelay::Settings MockCluster::settings(const std::string& config_file) const {
    return {{"database", "test"},
            {"bootstrap_servers", bootstrap()},
            {"config_file", config_file},
            {"max_message_bytes", "1000000"},
            {"max_in_flight_messages", "10000"},
            {"max_in_flight_bytes", "10000000"}};
}

}  // namespace outbox::test
