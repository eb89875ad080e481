// outbox-kafka: publishes the messages of one database to Kafka. The relay starts it.
#include "sink/common/program.hpp"
#include "sink/kafka/kafka_sink.hpp"

int main(int argc, char** argv) {
    using outbox::kafka::KafkaSink;
    outbox::sink::run_program(argc, argv, {"outbox-kafka", KafkaSink::library(), [](auto& reports) {
                                               return std::make_unique<KafkaSink>(reports);
                                           }});
}
