// A relay that sends rubbish: a whole sink program but for its client library, fed with any stream
// of bytes. It ends in one of the ways it is meant to end, and whatever it says on the way is what
// a relay understands; no message gets two answers, none gets one that was not sent.
//
// The first byte chooses the sink: an even one outbox-file's, writing to /dev/null; an odd one a
// sink that is driven by the second byte. The rest is the stream.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"
#include "sink/common/file_descriptor.hpp"
#include "sink/common/session.hpp"
#include "sink/file/file_sink.hpp"
#include "support/check.hpp"
#include "support/relay_model.hpp"

namespace outbox::fuzz {
namespace {

using protocol::FailureKind;

// Answers in every way that Sink allows, as its seed says.
class MoodySink final : public sink::Sink {
  public:
    MoodySink(sink::Reports& reports, uint8_t seed) : reports_(reports), seed_(seed) {}

    void open(const sink::Settings& settings) override {
        static_cast<void>(settings.number("max_message_bytes", 1));
    }
    uint32_t place(const protocol::MessageView& message) const override {
        return static_cast<uint32_t>(message.head.partition) % 3;
    }
    Submit submit(const protocol::MessageView& message) override {
        const uint64_t number = message.head.number;
        switch (mood() % 8) {
            case 0:
                busy_ = true;
                return Submit::Busy;
            case 1:
                reports_.failed(
                    {number, sink::text_of(message.topic), kind(), 7, "failed at once"});
                return Submit::Taken;
            case 2:
                reports_.trouble(number % 2 ? 1 : 2, "trouble");
                break;
            case 3:
                reports_.log(protocol::LogLevel::Warning, sink::text_of(message.payload));
                break;
            case 4:
                reports_.statistics(R"({"count":1})");
                reports_.idle();
                break;
            default:
                break;
        }
        taken_.push_back({number, std::string(sink::text_of(message.topic))});
        return Submit::Taken;
    }
    void drain() override {}
    bool idle() const override { return taken_.empty(); }
    void poll() override {
        busy_ = false;
        for (; !taken_.empty(); taken_.pop_front()) {
            if (mood() % 4 == 0)
                reports_.failed({taken_.front().number, taken_.front().topic, kind(), 0, "failed"});
            else
                reports_.delivered(taken_.front().number);
        }
    }
    std::optional<sink::Clock::time_point> wake_at() const override {
        if (busy_ || !taken_.empty()) return sink::Clock::now();
        return std::nullopt;
    }

  private:
    struct Taken {
        uint64_t number;
        std::string topic;
    };
    uint8_t mood() { return seed_ = static_cast<uint8_t>(seed_ * 5 + 3); }
    FailureKind kind() { return static_cast<FailureKind>(1 + mood() / 4 % 4); }

    sink::Reports& reports_;
    uint8_t seed_;
    bool busy_ = false;
    std::deque<Taken> taken_;
};

// outbox-file's, which must not write where an input tells it to.
class HarmlessFileSink final : public sink::Sink {
  public:
    explicit HarmlessFileSink(sink::Reports& reports) : sink_(reports) {}
    void open(const sink::Settings&) override {
        sink_.open(sink::Settings({{"path", "/dev/null"}}));
    }
    Submit submit(const protocol::MessageView& message) override { return sink_.submit(message); }
    void drain() override { sink_.drain(); }
    bool idle() const override { return sink_.idle(); }
    void poll() override { sink_.poll(); }
    std::optional<sink::Clock::time_point> wake_at() const override { return sink_.wake_at(); }

  private:
    file::FileSink sink_;
};

// As program.cpp does; any other exception ends the target, and so is a finding.
void converse(int socket, bool file, uint8_t seed) {
    sink::Session session(socket, "fuzzed",
                          [&](sink::Reports& reports) -> std::unique_ptr<sink::Sink> {
                              if (file) return std::make_unique<HarmlessFileSink>(reports);
                              return std::make_unique<MoodySink>(reports, seed);
                          });
    try {
        session.run();
    } catch (const sink::ConfigurationError& error) {
        session.give_up(true, error.code(), error.what());
    } catch (const sink::ProtocolError& error) {
        session.give_up(false, 0, error.what());
    }
}

std::string read_all(int socket) {
    std::string all;
    char block[65536];
    for (ssize_t got; (got = ::recv(socket, block, sizeof(block), MSG_DONTWAIT)) > 0;)
        all.append(block, static_cast<size_t>(got));
    return all;
}

// How many Message frames the stream has at most.
uint64_t messages_in(std::string_view stream) {
    return stream.size() / (sizeof(protocol::FrameHeader) + sizeof(protocol::MessageHead));
}

void run(bool file, uint8_t seed, std::string_view stream) {
    int ends[2];
    must(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "a socket pair");
    sink::FileDescriptor relay(ends[0]), sink(ends[1]);
    if (!stream.empty())
        static_cast<void>(::send(relay.get(), stream.data(), stream.size(), MSG_DONTWAIT));
    ::shutdown(relay.get(), SHUT_WR);
    converse(sink.get(), file, seed);
    RelayModel model;
    must(model.receive(read_all(relay.get()), 4096), "a sink says what a relay understands");
    if (!model.answered().empty()) {
        must(*model.answered().begin() >= 1, "answers begin with 1");
        must(*model.answered().rbegin() <= messages_in(stream), "answers are for messages");
    }
}

}  // namespace
}  // namespace outbox::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size < 2) return 0;
    outbox::fuzz::run(bytes[0] % 2 == 0, bytes[1],
                      {reinterpret_cast<const char*>(bytes) + 2, size - 2});
    return 0;
}
