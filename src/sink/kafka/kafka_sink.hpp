// The sink for Kafka: two producers, and what happens when one breaks. Runs in outbox-kafka.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "sink/common/file_descriptor.hpp"
#include "sink/common/repeat_filter.hpp"
#include "sink/common/reports.hpp"
#include "sink/common/sink.hpp"
#include "sink/kafka/configuration.hpp"
#include "sink/kafka/producer.hpp"
#include "sink/kafka/reaper.hpp"
#include "sink/kafka/statistics.hpp"

namespace outbox::kafka {

// Messages go through the stream producer; those under suspicion (kFlagAlone) through one that
// sends each of them in a request of its own.
//
// With enable.gapless.guarantee any refused batch breaks the stream producer for good: nothing that
// was behind the batch is sent any more. The sink then waits for the answers to what is under way,
// gives everything else back, and starts a new producer. Until that stands it takes no message.
//
// librdkafka's threads wake several times a second whatever they have to do. So when nothing has
// happened for half a minute the sink says that it is idle, and the relay stops the process until
// it has a message. Brokers close the connections meanwhile (connections.max.idle.ms), which is no
// trouble: it is when no broker takes the next one.
class KafkaSink final : public sink::Sink {
  public:
    explicit KafkaSink(sink::Reports& reports);
    ~KafkaSink() override;

    static std::string library();

    void open(const sink::Settings& settings) override;
    uint32_t place(const protocol::MessageView& message) const override;
    Submit submit(const protocol::MessageView& message) override;
    void drain() override {}
    bool idle() const override;
    void poll() override;
    int wait_fd() const override { return wake_.get(); }
    std::optional<sink::Clock::time_point> wake_at() const override;

  private:
    using Clock = sink::Clock;
    class Listener;

    enum class Stream {
        Running,
        Emptying,  // broken: answers are collected
        Absent,    // the next one comes at rebuild_at_
    };

    std::unique_ptr<Producer> make_stream();
    void tend_stream();
    void begin_emptying();
    void tend_emptying();
    void tend_absence();
    void tend_alone();

    void delivered(uint64_t number);
    void failed(bool alone, uint64_t number, std::string_view topic, rd_kafka_resp_err_t error,
                std::string_view text);
    void error(rd_kafka_resp_err_t error, std::string_view text);
    void log(int level, std::string_view facility, std::string_view text);
    void statistics(std::string_view json);
    void look_for_silence();
    void look_for_nobody();
    bool may_rest(const Statistics& summary) const;
    void look_after_rest(const Statistics& summary);
    void stir();
    bool has_rested() const;
    void trouble(int32_t code, std::string_view text);

    sink::Reports& reports_;
    sink::FileDescriptor wake_;
    Reaper reaper_;
    std::optional<ClientConfiguration> configuration_;
    std::unique_ptr<Listener> stream_listener_;
    std::unique_ptr<Listener> alone_listener_;
    std::unique_ptr<Producer> stream_;
    std::unique_ptr<Producer> alone_;

    Stream state_ = Stream::Running;
    Clock::time_point now_ = Clock::now();
    Clock::time_point broken_since_{};
    Clock::time_point give_back_at_{};
    Clock::time_point rebuild_at_{};
    Clock::duration rebuild_delay_{};
    size_t too_large_ = 0;  // reports of this error since the producer broke
    Clock::time_point alone_used_at_{};
    Clock::time_point touch_at_{};
    bool in_trouble_ = false;
    bool unexplained_ = false;  // no broker is there, and nothing has said why yet
    std::string last_words_;  // of a broker connection that failed; empty once they were passed on
    std::string last_activity_;  // of the statistics that were sent
    int quiet_ = 0;              // how often in a row the statistics were the same, without work
    Clock::time_point woken_at_{};
    bool closed_while_resting_ = false;  // all connections, and none is back
    sink::RepeatFilter log_filter_{std::chrono::minutes(1)};
};

}  // namespace outbox::kafka
