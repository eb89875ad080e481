// The settings that the relay sends first: names and values. Runs in the sink programs.
#include "sink/common/settings.hpp"

#include <charconv>

#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"

namespace outbox::sink {

namespace {

// Sums of a few of them are far from an overflow.
constexpr int64_t kLargestNumber = int64_t{1} << 50;

}  // namespace

Settings Settings::decode(const Frame& frame) {
    if (frame.type != protocol::FrameType::Settings)
        throw ProtocolError("the first frame is not Settings");
    protocol::BodyReader reader(frame.body, frame.length);
    auto version = reader.get<uint32_t>();
    if (!reader.failed() && version != protocol::kVersion)
        throw ProtocolError("the relay speaks protocol version " + std::to_string(version) +
                            ", this sink speaks " + std::to_string(protocol::kVersion) +
                            ": outbox.so and the sink program are of different releases");
    Settings settings;
    while (!reader.failed() && reader.remaining() > 0) {
        std::string name(text_of(reader.string()));
        std::string value(text_of(reader.string()));
        // The C functions that these end in would see less of them.
        if (name.find('\0') != std::string::npos || value.find('\0') != std::string::npos)
            throw ProtocolError("a zero byte in a setting");
        settings.values_.insert_or_assign(std::move(name), std::move(value));
    }
    if (reader.failed()) throw ProtocolError("the Settings frame is damaged");
    return settings;
}

std::string Settings::text(std::string_view name) const {
    auto found = values_.find(name);
    return found == values_.end() ? std::string() : found->second;
}

int64_t Settings::number(std::string_view name, int64_t otherwise) const {
    auto found = values_.find(name);
    if (found == values_.end() || found->second.empty()) return otherwise;
    const std::string& value = found->second;
    int64_t number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size())
        throw ConfigurationError("the setting " + std::string(name) + " is not a whole number");
    if (number < 0 || number > kLargestNumber)
        throw ConfigurationError("the setting " + std::string(name) + " is out of range");
    return number;
}

}  // namespace outbox::sink
