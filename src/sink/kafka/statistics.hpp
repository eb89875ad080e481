// The few numbers of librdkafka's statistics that an operator looks at. Runs in outbox-kafka.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace outbox::kafka {

struct Statistics {
    bool connected = false;  // to at least one broker
    bool asking = false;     // a request is not answered, or a connection is being made
    std::string json;        // for the relay; fits its limit
    std::string activity;    // stays the same while nothing happens
};

// Nothing where the text is not what librdkafka writes.
std::optional<Statistics> summarize(std::string_view librdkafka_json);

}  // namespace outbox::kafka
