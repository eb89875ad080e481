// Builds the frames that a relay sends. Runs in the unit tests.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "protocol/frames.hpp"

namespace outbox::test {

struct Message {
    std::string topic = "topic";
    std::optional<std::string> key;
    std::optional<std::string> payload;
    std::vector<std::pair<std::string, std::optional<std::string>>> headers;
    int32_t partition = protocol::kNull;
    uint16_t flags = 0;
    int64_t timestamp = 1700000000123;
};

// The id of message 258 is 00000000-0000-0000-0000-000000000102.
std::string message_body(uint64_t number, const Message& message);
std::string settings_body(const std::map<std::string, std::string>& settings,
                          uint32_t version = protocol::kVersion);
std::string frame(protocol::FrameType type, std::string_view body);

// A decoded message and the bytes it points into.
class Decoded {
  public:
    explicit Decoded(const Message& message, uint64_t number = 1);
    Decoded(const Decoded&) = delete;
    const protocol::MessageView& view() const { return view_; }

  private:
    std::string body_;
    protocol::MessageView view_;
};

}  // namespace outbox::test
