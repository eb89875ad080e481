// A tiny relay: starts a sink program on a socket pair and keeps account of its answers. Runs in
// the unit tests.
#include "support/fake_relay.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace outbox::test {

using protocol::FrameType;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

FakeRelay::FakeRelay(const std::string& program, const Settings& settings)
    : FakeRelay(Greeting{frame(FrameType::Settings, settings_body(settings))}, program) {}

FakeRelay::FakeRelay(const Greeting& greeting, const std::string& program) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        throw std::runtime_error("socketpair");
    socket_ = ends[0];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
    char* arguments[] = {const_cast<char*>(program.c_str()), const_cast<char*>("test"), nullptr};
    int error = ::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    if (error != 0) throw std::runtime_error(program + ": " + std::strerror(error));
    send_bytes(greeting.bytes);
}

FakeRelay::~FakeRelay() {
    hang_up();
    if (pid_ > 0) exit_status(milliseconds(5000));
}

void FakeRelay::hang_up() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
}

uint64_t FakeRelay::send(const Message& message) {
    send_frame(FrameType::Message, message_body(++sent, message));
    return sent;
}

void FakeRelay::send_frame(FrameType type, std::string_view body) {
    send_bytes(frame(type, body));
}

void FakeRelay::send_bytes(std::string_view bytes) {
    while (!bytes.empty()) {
        ssize_t took = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (took > 0) {
            bytes.remove_prefix(static_cast<size_t>(took));
        } else if (errno == EAGAIN) {
            pollfd wait{socket_, POLLOUT | POLLIN, 0};
            ::poll(&wait, 1, 1000);
            read_once(milliseconds(0));
        } else {
            return;  // the sink is gone; until() says so
        }
    }
}

bool FakeRelay::until(const std::function<bool()>& done) {
    const auto end = Clock::now() + kPatience;
    while (!done()) {
        auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
        if (left.count() <= 0 || gone_ || socket_ < 0) return false;
        read_once(left);
    }
    return true;
}

bool FakeRelay::read_once(milliseconds patience) {
    pollfd wait{socket_, POLLIN, 0};
    if (::poll(&wait, 1, static_cast<int>(patience.count())) <= 0) return false;
    char block[65536];
    ssize_t got = ::recv(socket_, block, sizeof(block), MSG_DONTWAIT);
    if (got <= 0) {
        gone_ = got == 0 || errno != EAGAIN;
        return false;
    }
    input_.append(block, static_cast<size_t>(got));
    take_frames();
    return true;
}

void FakeRelay::take_frames() {
    size_t at = 0;
    protocol::FrameHeader header;
    while (input_.size() - at >= sizeof(header)) {
        std::memcpy(&header, input_.data() + at, sizeof(header));
        if (input_.size() - at - sizeof(header) < header.length) break;
        take(header.type, input_.data() + at + sizeof(header), header.length);
        at += sizeof(header) + header.length;
    }
    input_.erase(0, at);
}

void FakeRelay::take(FrameType type, const char* body, size_t length) {
    protocol::BodyReader reader(body, length);
    auto rest = [&reader] {
        protocol::Bytes bytes = reader.rest();
        return std::string(bytes.data, bytes.length);
    };
    switch (type) {
        case FrameType::Ready:
            if (reader.get<uint32_t>() != protocol::kVersion) violations.push_back("version");
            name = rest();
            break;
        case FrameType::Delivered:
            while (reader.remaining() > 0)
                answer(reader.get<uint64_t>(), {true, {}, 0, {}});
            break;
        case FrameType::Failed: {
            auto head = reader.get<protocol::FailedHead>();
            if (reader.remaining() != head.text_length) violations.push_back("text_length");
            answer(head.number, {false, head.kind, head.code, rest()});
            break;
        }
        case FrameType::Condition: {
            auto head = reader.get<protocol::ConditionHead>();
            if (reader.remaining() != head.text_length) violations.push_back("text_length");
            conditions.push_back({head.trouble != 0, head.fatal != 0, head.code, rest()});
            break;
        }
        case FrameType::Log:
            reader.get<protocol::LogLevel>();
            log.push_back(rest());
            break;
        case FrameType::Statistics:
            if (length > protocol::kMaxStatistics) violations.push_back("long statistics");
            statistics.push_back(rest());
            break;
        case FrameType::Idle:
            if (length > 0) violations.push_back("Idle with a body");
            ++idle;
            break;
        default:
            violations.push_back("a frame of type " + std::to_string(static_cast<int>(type)));
    }
    if (reader.failed()) violations.push_back("a short body");
}

void FakeRelay::answer(uint64_t number, Answer given) {
    if (number == 0 || number > sent)
        violations.push_back("an answer to " + std::to_string(number) + ", which was not sent");
    if (!answers.emplace(number, std::move(given)).second)
        violations.push_back("a second answer to " + std::to_string(number));
    answer_order.push_back(number);
}

int FakeRelay::exit_status(milliseconds patience) {
    const auto end = Clock::now() + patience;
    if (socket_ >= 0) {
        until([this] { return gone_; });
    }
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
        if (Clock::now() > end) ::kill(pid_, SIGKILL);
        std::this_thread::sleep_for(milliseconds(1));
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace outbox::test
