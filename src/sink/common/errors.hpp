// The exceptions that end a sink program; run_program turns them into frames and exit statuses.
// Runs in the sink programs.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace outbox::sink {

// The settings cannot work. The text goes to the server's log: it names settings, properties and
// files, never a value.
class ConfigurationError : public std::runtime_error {
  public:
    explicit ConfigurationError(const std::string& text, int32_t code = 0)
        : std::runtime_error(text), code_(code) {}
    int32_t code() const { return code_; }

  private:
    int32_t code_;
};

// The relay broke the frame protocol.
class ProtocolError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A fresh process is the only way on.
class RestartNeeded : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace outbox::sink
