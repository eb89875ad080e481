// The conversation between one relay and one sink: the program's only loop. Runs in the sink
// programs.
#include "sink/common/session.hpp"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "fault_point.hpp"
#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"

namespace outbox::sink {

using protocol::FailureKind;
using protocol::FrameType;

namespace {

constexpr std::string_view kClosedText = "returned: an earlier message of the topic failed";

int milliseconds_until(std::optional<Clock::time_point> when) {
    if (!when) return -1;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(*when - Clock::now()).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
}

}  // namespace

Session::Session(int socket, std::string name, const MakeSink& make_sink)
    : socket_(socket), name_(std::move(name)), sink_(make_sink(*this)) {}

Session::~Session() = default;

void Session::run() {
    while (!finished()) {
        if (!wait()) return;
        if (state_ != State::AwaitingSettings) sink_->poll();
        if (!read_frames()) return;
        if (!writer_.empty()) OUTBOX_FAULT_POINT("sink-before-reporting");
        if (!writer_.flush(socket_)) return;
    }
}

bool Session::finished() const {
    return state_ == State::Draining && sink_->idle() && writer_.empty();
}

// False when the relay is gone: what it had already written is then not read any more, because a
// successor may be sending the same messages through another sink by now.
bool Session::wait() {
    bool running = state_ != State::AwaitingSettings;
    pollfd fds[2] = {
        {socket_, static_cast<short>((busy_ ? 0 : POLLIN) | (writer_.empty() ? 0 : POLLOUT)), 0},
        {running ? sink_->wait_fd() : -1, POLLIN, 0},
    };
    if (::poll(fds, 2, milliseconds_until(running ? sink_->wake_at() : std::nullopt)) < 0)
        fds[0].revents = 0;  // interrupted
    readable_ = (fds[0].revents & POLLIN) != 0;
    return (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL)) == 0;
}

// One read, and every frame it completed. False when the relay is gone.
bool Session::read_frames() {
    if (readable_ && reader_.fill(socket_) == FrameReader::Fill::Closed) return false;
    do {
        busy_ = !submit_burst();
    } while (!busy_ && take_frames());
    return true;
}

// Up to the next frame that is no message, which has to wait until those before it are submitted.
// False: there is no message.
bool Session::take_frames() {
    while (auto frame = reader_.front()) {
        const bool message = frame->type == FrameType::Message && state_ != State::AwaitingSettings;
        if (burst_.full() || (!message && !burst_.empty())) break;
        if (message) {
            if (auto wrong = take_message(*frame)) {
                // What came before it is none the worse for it.
                if (!burst_.empty()) break;
                throw ProtocolError(*wrong);
            }
        } else {
            handle(*frame);
        }
        // What it points to stays until the next fill().
        reader_.pop();
    }
    burst_.arrange();
    return !burst_.empty();
}

void Session::handle(const Frame& frame) {
    if (state_ == State::AwaitingSettings) {
        OUTBOX_FAULT_POINT("sink-before-opening");
        sink_->open(Settings::decode(frame));
        writer_.ready(name_);
        state_ = State::Running;
        return;
    }
    switch (frame.type) {
        case FrameType::Reopen: {
            std::string_view topic(frame.body, frame.length);
            closed_.reopen(topic);
            sink_->reopen(topic);
            break;
        }
        case FrameType::Drain:
            OUTBOX_FAULT_POINT("sink-before-draining");
            state_ = State::Draining;
            sink_->drain();
            break;
        default:
            throw ProtocolError("a frame of unknown type " +
                                std::to_string(static_cast<int>(frame.type)));
    }
}

// What is wrong with it, if anything is: then it is not taken.
std::optional<std::string> Session::take_message(const Frame& frame) {
    protocol::MessageView message;
    if (!protocol::decode_message(frame.body, frame.length, &message))
        return "a Message frame is damaged";
    if (state_ == State::Draining) return "a Message after Drain";
    if (message.head.number != next_number_)
        return "message " + std::to_string(message.head.number) + " instead of " +
               std::to_string(next_number_);
    ++next_number_;
    burst_.add(message, sink_->place(message));
    return std::nullopt;
}

// False: the sink is busy, the rest has to wait.
bool Session::submit_burst() {
    for (; !burst_.empty(); burst_.pop()) {
        const protocol::MessageView& message = burst_.front();
        std::string_view topic = text_of(message.topic);
        if (closed_.closed(topic)) {
            failed({message.head.number, topic, FailureKind::Returned, 0, kClosedText});
            continue;
        }
        OUTBOX_FAULT_POINT("sink-after-receiving");
        if (sink_->submit(message) == Sink::Submit::Busy) return false;
    }
    return true;
}

void Session::delivered(uint64_t number) {
    writer_.delivered(number);
    if (condition_.in_trouble()) recovered();
}

// Messages that follow in the socket must not overtake the failed one, whatever the kind: also the
// Returned ones of a rebuilt client are sent again before anything later of their topic.
void Session::failed(const Failure& failure) {
    FailureKind kind = closed_.close(failure.topic, failure.kind);
    writer_.failed(failure.number, kind, failure.code, failure.text);
}

void Session::trouble(int32_t code, std::string_view text) {
    if (condition_.began(code, text, Clock::now())) writer_.condition(true, false, code, text);
}

void Session::recovered() {
    if (condition_.ended()) writer_.condition(false, false, 0, {});
}

void Session::log(protocol::LogLevel level, std::string_view text) {
    writer_.log(level, text);
}

void Session::statistics(std::string_view json) {
    writer_.statistics(json);
}

// Behind everything that was said before, so that the relay has heard it when it stops us.
void Session::idle() {
    if (state_ == State::Running && sink_->idle()) writer_.idle();
}

void Session::give_up(bool fatal_setting, int32_t code, std::string_view text) {
    if (fatal_setting)
        writer_.condition(true, true, code, text);
    else
        writer_.log(protocol::LogLevel::Error, text);
    writer_.flush_within(socket_, 1000);
}

}  // namespace outbox::sink
