// Conversions between the protocol's views and the standard library's. Runs in the sink programs.
#pragma once

#include <string_view>

#include "protocol/frames.hpp"

namespace outbox::sink {

// An absent view becomes an empty one: ask absent() first where the difference matters.
inline std::string_view text_of(const protocol::Bytes& bytes) {
    return bytes.absent() ? std::string_view() : std::string_view(bytes.data, bytes.length);
}

}  // namespace outbox::sink
