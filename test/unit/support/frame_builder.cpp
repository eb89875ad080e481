// Builds the frames that a relay sends. Runs in the unit tests.
#include "support/frame_builder.hpp"

#include <stdexcept>

namespace outbox::test {

namespace {

template <typename T>
void put(std::string& to, const T& value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

int32_t length_of(const std::optional<std::string>& bytes) {
    return bytes ? static_cast<int32_t>(bytes->size()) : protocol::kNull;
}

void put_string(std::string& to, const std::string& text) {
    put(to, static_cast<uint32_t>(text.size()));
    to += text;
}

}  // namespace

std::string message_body(uint64_t number, const Message& message) {
    std::string headers;
    for (const auto& [name, value] : message.headers) {
        put(headers, static_cast<uint32_t>(name.size()));
        put(headers, length_of(value));
        headers += name + value.value_or("");
    }
    protocol::MessageHead head{};
    head.number = number;
    head.timestamp = message.timestamp;
    for (size_t i = 0; i < 8; ++i)
        head.id[15 - i] = static_cast<uint8_t>(number >> (8 * i));
    head.partition = message.partition;
    head.key_length = length_of(message.key);
    head.payload_length = length_of(message.payload);
    head.headers_length = static_cast<uint32_t>(headers.size());
    head.header_count = static_cast<uint32_t>(message.headers.size());
    head.topic_length = static_cast<uint16_t>(message.topic.size());
    head.flags = message.flags;
    std::string body;
    put(body, head);
    return body + message.topic + message.key.value_or("") + message.payload.value_or("") + headers;
}

std::string settings_body(const std::map<std::string, std::string>& settings, uint32_t version) {
    std::string body;
    put(body, version);
    for (const auto& [name, value] : settings) {
        put_string(body, name);
        put_string(body, value);
    }
    return body;
}

std::string frame(protocol::FrameType type, std::string_view body) {
    protocol::FrameHeader header{};
    header.length = static_cast<uint32_t>(body.size());
    header.type = type;
    std::string bytes;
    put(bytes, header);
    return bytes.append(body);
}

Decoded::Decoded(const Message& message, uint64_t number) : body_(message_body(number, message)) {
    if (!protocol::decode_message(body_.data(), body_.size(), &view_))
        throw std::logic_error("the message that the test built is damaged");
}

}  // namespace outbox::test
