// librdkafka's properties that a properties file may not set, and why. Runs in outbox-kafka.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace outbox::kafka {

// Nothing: it may be set to this value. Otherwise why not, in words that go behind the property's
// name and never hold the value.
std::optional<std::string> refusal(std::string_view name, std::string_view value);

}  // namespace outbox::kafka
