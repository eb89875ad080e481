// One librdkafka producer: messages in, delivery reports out. Runs in outbox-kafka.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>

#include "protocol/frames.hpp"
#include "sink/common/clock.hpp"
#include "sink/kafka/configuration.hpp"
#include "sink/kafka/handles.hpp"
#include "sink/kafka/topic.hpp"

namespace outbox::kafka {

// What a producer has to say, from inside submit() and poll().
class ProducerEvents {
  public:
    virtual ~ProducerEvents() = default;

    // Every message taken gets one of these three.
    virtual void on_delivered(uint64_t number) = 0;
    virtual void on_failed(uint64_t number, std::string_view topic, rd_kafka_resp_err_t error,
                           std::string_view text) = 0;
    // It was still waiting in the sink when an earlier message of its topic failed.
    virtual void on_returned(uint64_t number, std::string_view topic) = 0;

    virtual void on_error(rd_kafka_resp_err_t error, std::string_view text) = 0;
    virtual void on_log(int level, std::string_view facility, std::string_view text) = 0;
    virtual void on_statistics(std::string_view json) = 0;
};

// librdkafka's event interface: no callback of ours but the partitioner ever runs on its threads.
class Producer {
  public:
    using Clock = sink::Clock;

    // `wake_fd` becomes readable (8 bytes are written to it) when poll() has something to do.
    // Throws ConfigurationError where the configuration does not fit together.
    Producer(Configuration configuration, bool null_key_is_empty_key, int wake_fd,
             ProducerEvents& events);
    ~Producer();
    Producer(const Producer&) = delete;
    Producer& operator=(const Producer&) = delete;

    // See Sink::place(): the partition of a topic, as far as it is known. Different ones may have
    // the same place.
    uint32_t place(const protocol::MessageView& message) const;
    // False: the queue of the client is full, or it has failed for good. Offer it again later.
    bool submit(const protocol::MessageView& message);

    void poll();
    std::optional<Clock::time_point> wake_at() const;

    // Messages without an answer, and those of them that librdkafka holds.
    size_t outstanding() const { return in_client_ + waiting_; }
    size_t in_client() const { return in_client_; }

    // Set once librdkafka has declared the producer broken, or has claimed what it cannot know.
    bool broken() const { return broken_; }
    rd_kafka_resp_err_t broken_error(std::string* text) const;
    // How long librdkafka has held messages without an answer to any of them, and a topic of
    // theirs. It says nothing of the errors that it meets and tries again after.
    Clock::duration silent_for(std::string_view* topic) const;
    // Gives back what waits in the sink, and what librdkafka holds: always what is queued, and what
    // is under way only when asked to. Reports come with the next poll()s.
    void give_back(bool under_way);

    // Lets the brokers be asked for metadata of all topics, which opens a connection.
    void touch_cluster();

    // The client, to be destroyed by somebody who has time to wait. Nothing may be called after
    // that.
    Client release();

  private:
    enum class Produced { Taken, Full, TopicRefused, Answered };

    Topic* known(std::string_view name) const;  // or none
    Topic& topic(std::string_view name);
    // The partition that a message asks for or its key leads to; none where any will do.
    static std::optional<int32_t> partition_of(const Topic& topic,
                                               const protocol::MessageView& message);
    // `owned` is the same message, if it is one that waited; it is moved from when it waits again.
    bool offer(Topic& topic, const protocol::MessageView& message, OwnedMessage* owned);
    Produced produce(Topic& topic, const protocol::MessageView& message, int32_t partition);
    Produced refused(Topic& topic, const protocol::MessageView& message, rd_kafka_resp_err_t error);
    void learn_partition_count(Topic& topic, const protocol::MessageView& message);
    void wait_in_backlog(Topic& topic, std::vector<OwnedMessage> messages);
    void resume(Topic& topic);
    void return_waiting(Topic& topic);
    void ask_for_metadata(Topic* topic);
    void fail(Topic& topic, uint64_t number, rd_kafka_resp_err_t error, std::string_view text);

    void on_reports(rd_kafka_event_t* event);
    void doubt(Topic& topic);
    void on_event(rd_kafka_event_t* event);

    struct NameHash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const {
            return std::hash<std::string_view>()(text);
        }
    };

    ProducerEvents& events_;
    const bool null_key_is_empty_key_;
    // Destroyed in this order, backwards: librdkafka waits for handles that are still held.
    Client client_;
    Queue queue_;
    std::unordered_map<std::string, std::unique_ptr<Topic>, NameHash, std::equal_to<>> topics_;

    Topic* last_topic_ = nullptr;
    rd_kafka_resp_err_t refusal_ = RD_KAFKA_RESP_ERR_NO_ERROR;  // of the last TopicRefused
    size_t in_client_ = 0;
    Clock::time_point answered_at_{};  // or since when it holds any
    size_t waiting_ = 0;               // in gates and backlogs
    bool events_left_ = false;         // in the client's queue
    bool backlogs_ = false;            // some topic may have a backlog
    bool broken_ = false;
    std::string broken_words_;  // where it was not librdkafka that said so
    std::mt19937 random_{std::random_device()()};
    Clock::time_point now_ = Clock::now();
    Clock::time_point keep_partition_until_ = now_;
    Clock::time_point forget_at_ = now_;
};

}  // namespace outbox::kafka
