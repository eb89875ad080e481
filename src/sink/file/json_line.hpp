// A message as one line of JSON. Runs in outbox-file.
#pragma once

#include <string>

#include "protocol/frames.hpp"

namespace outbox::file {

// With keys in a fixed order and a newline at the end. Bytes that are no UTF-8 become
// {"base64": "..."}; what is absent becomes null.
std::string json_line(const protocol::MessageView& message);

}  // namespace outbox::file
