// Owners of librdkafka's objects. Runs in outbox-kafka.
#pragma once

#include <librdkafka/rdkafka.h>

#include <memory>

namespace outbox::kafka {

template <auto destroy>
struct Destroy {
    template <typename T>
    void operator()(T* object) const {
        destroy(object);
    }
};

using Configuration = std::unique_ptr<rd_kafka_conf_t, Destroy<rd_kafka_conf_destroy>>;
using TopicConfiguration =
    std::unique_ptr<rd_kafka_topic_conf_t, Destroy<rd_kafka_topic_conf_destroy>>;
using TopicHandle = std::unique_ptr<rd_kafka_topic_t, Destroy<rd_kafka_topic_destroy>>;
using Queue = std::unique_ptr<rd_kafka_queue_t, Destroy<rd_kafka_queue_destroy>>;
using Event = std::unique_ptr<rd_kafka_event_t, Destroy<rd_kafka_event_destroy>>;
using Headers = std::unique_ptr<rd_kafka_headers_t, Destroy<rd_kafka_headers_destroy>>;
using Error = std::unique_ptr<rd_kafka_error_t, Destroy<rd_kafka_error_destroy>>;

// Waits for the client's threads, and so possibly for a name server: see Reaper.
using Client = std::unique_ptr<rd_kafka_t, Destroy<rd_kafka_destroy>>;

}  // namespace outbox::kafka
