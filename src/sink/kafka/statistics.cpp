// The few numbers of librdkafka's statistics that an operator looks at. Runs in outbox-kafka.
#include "sink/kafka/statistics.hpp"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace outbox::kafka {

namespace {

// Any other state is one of the steps of a connection.
bool settled(std::string_view state) {
    return state == "UP" || state == "INIT" || state == "DOWN";
}

}  // namespace

std::optional<Statistics> summarize(std::string_view librdkafka_json) {
    using Json = nlohmann::ordered_json;
    const Json all = Json::parse(librdkafka_json, nullptr, false);
    if (!all.is_object()) return std::nullopt;

    Statistics statistics;
    int brokers = 0, brokers_up = 0;
    int64_t waiting = 0, under_way = 0, errors = 0, timeouts = 0, slowest_us = 0;
    const Json list = all.value("brokers", Json::object());
    for (const Json& broker : list) {
        const std::string state = broker.value("state", "");
        const bool up = state == "UP";
        statistics.connected = statistics.connected || up;
        // Without a number: an address of the bootstrap list, or librdkafka's own bookkeeping.
        if (broker.value("nodeid", -1) >= 0) {
            ++brokers;
            brokers_up += up ? 1 : 0;
        }
        statistics.asking = statistics.asking || !settled(state) ||
                            broker.value("outbuf_cnt", int64_t{0}) > 0 ||
                            broker.value("waitresp_cnt", int64_t{0}) > 0;
        waiting += broker.value("outbuf_msg_cnt", int64_t{0});
        under_way += broker.value("waitresp_msg_cnt", int64_t{0});
        errors += broker.value("txerrs", int64_t{0}) + broker.value("rxerrs", int64_t{0});
        timeouts += broker.value("req_timeouts", int64_t{0});
        if (broker.contains("rtt"))
            slowest_us = std::max(slowest_us, broker["rtt"].value("p99", int64_t{0}));
    }
    Json summary{
        {"brokers", brokers},
        {"brokers_up", brokers_up},
        {"messages_queued", all.value("msg_cnt", int64_t{0})},
        {"bytes_queued", all.value("msg_size", int64_t{0})},
        {"messages_sent", all.value("txmsgs", int64_t{0})},
        {"bytes_sent", all.value("txmsg_bytes", int64_t{0})},
        {"messages_in_output_buffers", waiting},
        {"messages_under_way", under_way},
        {"connection_errors", errors},
        {"request_timeouts", timeouts},
    };
    statistics.activity = summary.dump();
    summary["requests_sent"] = all.value("tx", int64_t{0});
    summary["round_trip_p99_ms"] = static_cast<double>(slowest_us) / 1000.0;
    statistics.json = summary.dump();
    return statistics;
}

}  // namespace outbox::kafka
