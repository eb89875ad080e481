// Sorts Kafka's errors into the kinds that the relay tells apart. Runs in outbox-kafka.
#pragma once

#include <librdkafka/rdkafka.h>

namespace outbox::kafka {

enum class ErrorKind {
    Delivered,     // no error
    Transient,     // the client retries by itself; should it come back all the same: send it again
    UnknownTopic,  // the brokers do not know the topic
    Topic,         // the topic takes no messages now
    Message,       // this message is refused for good
    Returned,      // says nothing about the message: send it again
};

ErrorKind kind_of(rd_kafka_resp_err_t error);

}  // namespace outbox::kafka
