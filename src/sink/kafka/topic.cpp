// One topic of one producer: librdkafka's handle, the partitioner, and what waits for its turn.
// Runs in outbox-kafka.
#include "sink/kafka/topic.hpp"

namespace outbox::kafka {

void Partitioner::attach_to(rd_kafka_topic_conf_t* topics) {
    rd_kafka_topic_conf_set_opaque(topics, this);
    rd_kafka_topic_conf_set_partitioner_cb(
        topics,
        [](const rd_kafka_topic_t* topic, const void* key, size_t length, int32_t count, void* self,
           void*) { return static_cast<Partitioner*>(self)->choose(topic, key, length, count); });
}

int32_t Partitioner::by_key(const void* key, size_t length, int32_t partition_count) {
    return rd_kafka_msg_partitioner_murmur2(nullptr, key, length, partition_count, nullptr,
                                            nullptr);
}

int32_t Partitioner::choose(const rd_kafka_topic_t* topic, const void* key, size_t length,
                            int32_t count) {
    partition_count_.store(count, std::memory_order_relaxed);
    if (!chooses_freely(key == nullptr)) return by_key(key, length, count);
    int32_t kept = kept_.load(std::memory_order_relaxed);
    if (kept < 0 || kept >= count || rd_kafka_topic_partition_available(topic, kept) == 0) {
        kept = rd_kafka_msg_partitioner_random(topic, key, length, count, nullptr, nullptr);
        kept_.store(kept, std::memory_order_relaxed);
    }
    return kept;
}

}  // namespace outbox::kafka
