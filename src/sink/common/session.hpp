// The conversation between one relay and one sink: the program's only loop. Runs in the sink
// programs.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "sink/common/burst.hpp"
#include "sink/common/closed_topics.hpp"
#include "sink/common/condition.hpp"
#include "sink/common/frame_reader.hpp"
#include "sink/common/frame_writer.hpp"
#include "sink/common/reports.hpp"
#include "sink/common/sink.hpp"

namespace outbox::sink {

class Session final : private Reports {
  public:
    using MakeSink = std::function<std::unique_ptr<Sink>(Reports&)>;

    // `socket` stays the caller's. `name` is what Ready tells people.
    Session(int socket, std::string name, const MakeSink& make_sink);
    ~Session() override;

    // Until the relay is gone or everything is drained. Throws what errors.hpp lists.
    void run();

    // Last words before the program ends with an error.
    void give_up(bool fatal_setting, int32_t code, std::string_view text);

  private:
    enum class State { AwaitingSettings, Running, Draining };

    void delivered(uint64_t number) override;
    void failed(const Failure& failure) override;
    void trouble(int32_t code, std::string_view text) override;
    void recovered() override;
    void log(protocol::LogLevel level, std::string_view text) override;
    void statistics(std::string_view json) override;
    void idle() override;

    bool wait();
    bool read_frames();
    bool take_frames();
    void handle(const Frame& frame);
    std::optional<std::string> take_message(const Frame& frame);
    bool submit_burst();
    bool finished() const;

    int socket_;
    std::string name_;
    FrameReader reader_;
    FrameWriter writer_;
    ClosedTopics closed_;
    Condition condition_;
    State state_ = State::AwaitingSettings;
    uint64_t next_number_ = 1;
    Burst burst_;            // taken from reader_, into whose buffer it points
    bool busy_ = false;      // the sink did not take the first message of burst_
    bool readable_ = false;  // as wait() saw it; never while busy_
    std::unique_ptr<Sink> sink_;
};

}  // namespace outbox::sink
