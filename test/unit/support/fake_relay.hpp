// A tiny relay: starts a sink program on a socket pair and keeps account of its answers. Runs in
// the unit tests.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "protocol/frames.hpp"
#include "support/frame_builder.hpp"

namespace outbox::test {

struct Answer {
    bool delivered;
    protocol::FailureKind kind;  // where not delivered
    int32_t code;
    std::string text;
};

struct ConditionSeen {
    bool trouble;
    bool fatal;
    int32_t code;
    std::string text;
};

class FakeRelay {
  public:
    using Settings = std::map<std::string, std::string>;
    static constexpr auto kPatience = std::chrono::seconds(60);

    // Starts `program` and sends the settings.
    FakeRelay(const std::string& program, const Settings& settings);
    // One that begins with these bytes instead of Settings.
    struct Greeting {
        std::string bytes;
    };
    FakeRelay(const Greeting& greeting, const std::string& program);
    ~FakeRelay();
    FakeRelay(const FakeRelay&) = delete;

    uint64_t send(const Message& message);
    void send_frame(protocol::FrameType type, std::string_view body);
    void send_bytes(std::string_view bytes);
    void reopen(const std::string& topic) { send_frame(protocol::FrameType::Reopen, topic); }
    void drain() { send_frame(protocol::FrameType::Drain, {}); }
    void hang_up();
    pid_t pid() const { return pid_; }

    // Reads what comes until `done`, or until the sink is gone or the patience is over; says
    // whether it is done.
    bool until(const std::function<bool()>& done);
    bool until_ready() {
        return until([this] { return name.has_value(); });
    }
    bool until_answered(uint64_t number) {
        return until([this, number] { return answers.contains(number); });
    }
    bool until_all_answered() {
        return until([this] { return answers.size() == sent; });
    }
    // Waits for the program's end: its exit status, or minus the signal. Killed if it does not
    // come.
    int exit_status(std::chrono::milliseconds patience = kPatience);

    bool delivered(uint64_t number) const {
        return answers.contains(number) && answers.at(number).delivered;
    }

    std::optional<std::string> name;  // of Ready
    uint64_t sent = 0;
    std::map<uint64_t, Answer> answers;
    std::vector<uint64_t> answer_order;
    std::vector<std::string> violations;  // of the protocol; has to stay empty
    std::vector<ConditionSeen> conditions;
    std::vector<std::string> log;
    std::vector<std::string> statistics;
    int idle = 0;  // how often it said so

  private:
    bool read_once(std::chrono::milliseconds patience);
    void take_frames();
    void take(protocol::FrameType type, const char* body, size_t length);
    void answer(uint64_t number, Answer answer);

    int socket_ = -1;
    pid_t pid_ = -1;
    bool gone_ = false;
    std::string input_;
};

}  // namespace outbox::test
