// The settings that the relay sends first: names and values. Runs in the sink programs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "sink/common/frame_reader.hpp"

namespace outbox::sink {

class Settings {
  public:
    Settings() = default;
    explicit Settings(std::map<std::string, std::string, std::less<>> values)
        : values_(std::move(values)) {}

    // Throws ProtocolError if the frame is damaged or speaks another version.
    static Settings decode(const Frame& frame);

    // Empty where the relay did not send it.
    std::string text(std::string_view name) const;
    // Throws ConfigurationError where the value is not a whole number, or one that no
    // setting has.
    int64_t number(std::string_view name, int64_t otherwise) const;

  private:
    std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace outbox::sink
