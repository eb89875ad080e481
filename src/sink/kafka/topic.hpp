// One topic of one producer: librdkafka's handle, the partitioner, and what waits for its turn.
// Runs in outbox-kafka.
#pragma once

#include <atomic>
#include <deque>
#include <string>

#include "sink/common/clock.hpp"
#include "sink/kafka/handles.hpp"
#include "sink/kafka/owned_message.hpp"
#include "sink/kafka/partition_gate.hpp"

namespace outbox::kafka {

// How messages find their partition: by murmur2 of the key, as every Java producer does it. Without
// a key one partition is kept for some milliseconds, so that batches fill.
//
// librdkafka calls it from produce on the sink's thread, and from a thread of its own for messages
// that came before the topic's metadata did; hence the atomics, and nothing else is touched.
class Partitioner {
  public:
    explicit Partitioner(bool null_key_is_empty_key)
        : null_key_is_empty_key_(null_key_is_empty_key) {}

    // Makes `topics` call this object, which has to outlive every topic made with it.
    void attach_to(rd_kafka_topic_conf_t* topics);

    bool chooses_freely(bool key_absent) const { return key_absent && !null_key_is_empty_key_; }
    // 0 until it has been called once: the count is what the client last used.
    int32_t partition_count() const { return partition_count_.load(std::memory_order_relaxed); }
    void move_on() { kept_.store(-1, std::memory_order_relaxed); }

    static int32_t by_key(const void* key, size_t length, int32_t partition_count);

  private:
    int32_t choose(const rd_kafka_topic_t* topic, const void* key, size_t length, int32_t count);

    const bool null_key_is_empty_key_;
    std::atomic<int32_t> partition_count_{0};
    std::atomic<int32_t> kept_{-1};
};

struct Topic {
    Topic(std::string topic_name, uint32_t its_number, bool null_key_is_empty_key)
        : name(std::move(topic_name)), number(its_number), partitioner(null_key_is_empty_key) {}

    const std::string name;
    const uint32_t number;  // among the producer's topics
    Partitioner partitioner;
    TopicHandle handle;  // none where librdkafka refuses the name
    PartitionGate gate;

    // Messages in order that wait for the client: its queue is full, or its metadata says that the
    // topic is missing or closed to us and is being asked for anew.
    std::deque<OwnedMessage> backlog;
    bool asking = false;
    sink::Clock::time_point ask_until{};
    sink::Clock::time_point ask_again_at{};

    size_t in_client = 0;  // messages that librdkafka holds

    // One of its messages was taken for delivered without an answer (see Producer::on_reports):
    // that one and those behind it are sent again, by another producer.
    bool doubted = false;
};

}  // namespace outbox::kafka
