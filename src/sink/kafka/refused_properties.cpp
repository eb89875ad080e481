// librdkafka's properties that a properties file may not set, and why. Runs in outbox-kafka.
#include "sink/kafka/refused_properties.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

namespace outbox::kafka {

namespace {

constexpr std::string_view kLoadsCode = "would load code into the client";
constexpr std::string_view kRunsCommand = "would run a command";
constexpr std::string_view kPointer = "can only be set by a program that links librdkafka";
constexpr std::string_view kUnacknowledged =
    "must stay \"all\": a message is settled when all in-sync replicas have it";
constexpr std::string_view kExpires =
    "must stay 0: a message that expires in the client would be lost";
constexpr std::string_view kGivesUp =
    "cannot be set: a client that gives up after some attempts would let a later message overtake";
constexpr std::string_view kIdempotent =
    "must stay on: without it a retry can duplicate and reorder messages";
constexpr std::string_view kGapless =
    "must stay on: without it a batch could be delivered behind a failed one";
constexpr std::string_view kReports = "cannot be set: the sink needs a report for every message";
constexpr std::string_view kLogs = "cannot be set: the sink passes the client's log on by itself";
constexpr std::string_view kElsewhere = "is given by outbox.kafka_bootstrap_servers";
constexpr std::string_view kMock = "would publish to a cluster that does not exist";
constexpr std::string_view kPartitioner =
    "can be murmur2_random or murmur2 only: with another one a key would go to another partition "
    "than with every Java producer, and away from its earlier messages";

using Rule = bool (*)(std::string_view value);

bool any(std::string_view) {
    return true;
}
bool not_all_acks(std::string_view value) {
    return value != "all" && value != "-1";
}
bool not_zero(std::string_view value) {
    return value != "0";
}
bool not_murmur2(std::string_view value) {
    return value != "murmur2_random" && value != "murmur2";
}
bool not_fifo(std::string_view value) {
    return value != "fifo";
}

bool not_true(std::string_view value) {
    std::string lower(value);
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return lower != "true" && lower != "t" && lower != "1";
}

bool more_than_five(std::string_view value) {
    int number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    return error != std::errc() || end != value.data() + value.size() || number > 5;
}

// librdkafka puts these into the shell command that renews a Kerberos ticket.
bool unsafe_in_shell(std::string_view value) {
    return !std::all_of(value.begin(), value.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '.' || c == '_' || c == '-' || c == '/' || c == '@';
    });
}

bool not_https(std::string_view value) {
    return !value.starts_with("https://");
}

struct Refused {
    std::string_view name;
    Rule when;
    std::string_view why;
};

constexpr auto kRefused = std::to_array<Refused>({
    {"plugin.library.paths", any, kLoadsCode},
    {"ssl.engine.location", any, kLoadsCode},
    {"ssl.engine.id", any, kLoadsCode},
    {"ssl.providers", any, kLoadsCode},
    {"ssl_engine_callback_data", any, kLoadsCode},
    {"interceptors", any, kLoadsCode},
    {"sasl.kerberos.kinit.cmd", any, kRunsCommand},
    {"sasl.kerberos.principal", unsafe_in_shell, "has a character that a shell would interpret"},
    {"sasl.kerberos.keytab", unsafe_in_shell, "has a character that a shell would interpret"},

    {"sasl.oauthbearer.token.endpoint.url", not_https,
     "must begin with https://: the client's secret is sent there"},

    {"opaque", any, kPointer},
    {"default_topic_conf", any, kPointer},
    {"enabled_events", any, kPointer},
    {"msg_order_cmp", any, kPointer},
    {"ssl_key", any, kPointer},
    {"ssl_certificate", any, kPointer},
    {"ssl_ca", any, kPointer},
    {"ut_handle_ProduceResponse", any, kPointer},

    {"debug", any, "cannot be set: its output holds messages and credentials"},
    {"internal.termination.signal", any, "would install a signal handler"},
    {"log.queue", any, kLogs},
    {"log_level", any, kLogs},
    {"bootstrap.servers", any, kElsewhere},
    {"metadata.broker.list", any, kElsewhere},
    {"test.mock.num.brokers", any, kMock},
    {"test.mock.broker.rtt", any, kMock},

    {"acks", not_all_acks, kUnacknowledged},
    {"request.required.acks", not_all_acks, kUnacknowledged},
    {"enable.idempotence", not_true, kIdempotent},
    {"enable.gapless.guarantee", not_true, kGapless},
    {"max.in.flight", more_than_five, "must not be more than 5: the order of retries needs that"},
    {"max.in.flight.requests.per.connection", more_than_five,
     "must not be more than 5: the order of retries needs that"},
    {"queuing.strategy", not_fifo, "must stay \"fifo\": anything else reorders messages"},
    {"message.timeout.ms", not_zero, kExpires},
    {"delivery.timeout.ms", not_zero, kExpires},
    {"retries", any, kGivesUp},
    {"message.send.max.retries", any, kGivesUp},
    {"transactional.id", any, "cannot be set: the sink does not use Kafka's transactions"},
    {"delivery.report.only.error", any, kReports},
    {"partitioner", not_murmur2, kPartitioner},
    {"sticky.partitioning.linger.ms", any,
     "cannot be set: the sink spreads messages without a key by itself"},
});

}  // namespace

std::optional<std::string> refusal(std::string_view name, std::string_view value) {
    // librdkafka takes "topic.acks" for "acks".
    constexpr std::string_view kTopicPrefix = "topic.";
    if (name.starts_with(kTopicPrefix)) {
        if (auto why = refusal(name.substr(kTopicPrefix.size()), value)) return why;
    }
    if (name.ends_with("_cb")) return std::string(kPointer);
    auto found = std::find_if(kRefused.begin(), kRefused.end(), [&](const Refused& refused) {
        return refused.name == name && refused.when(value);
    });
    if (found == kRefused.end()) return std::nullopt;
    return std::string(found->why);
}

}  // namespace outbox::kafka
