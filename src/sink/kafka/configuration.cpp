// From the relay's settings and the properties file to librdkafka's configuration. Runs in
// outbox-kafka.
#include "sink/kafka/configuration.hpp"

#include <algorithm>
#include <charconv>
#include <limits>

#include "sink/common/errors.hpp"
#include "sink/kafka/refused_properties.hpp"

namespace outbox::kafka {

using sink::ConfigurationError;

namespace {

constexpr int64_t kDefaultBatchBytes = 1000000;
constexpr int64_t kSmallestBatchBytes = 16384;

// Of librdkafka: what message.max.bytes may be.
constexpr int64_t kLargestMessage = 1000000000;

void set(rd_kafka_conf_t* configuration, const char* name, const std::string& value) {
    char text[512];
    if (rd_kafka_conf_set(configuration, name, value.c_str(), text, sizeof(text)) !=
        RD_KAFKA_CONF_OK)
        throw ConfigurationError(std::string("librdkafka refuses a setting of the sink's own: ") +
                                 text);
}

void set(rd_kafka_conf_t* configuration, const char* name, int64_t value) {
    set(configuration, name, std::to_string(value));
}

// As librdkafka writes it.
std::string value(const Configuration& configuration, const char* name) {
    char text[512] = "";
    size_t size = sizeof(text);
    rd_kafka_conf_get(configuration.get(), name, text, &size);
    return text;
}

// Properties that newer libraries have, and libraries built with TLS.
void set_if_known(rd_kafka_conf_t* configuration, const char* name, const char* value) {
    char text[512];
    rd_kafka_conf_set(configuration, name, value, text, sizeof(text));
}

}  // namespace

ClientConfiguration::ClientConfiguration(const sink::Settings& settings)
    : database_(settings.text("database")),
      bootstrap_servers_(settings.text("bootstrap_servers")),
      config_file_(settings.text("config_file")),
      max_message_bytes_(settings.number("max_message_bytes", 1000000)),
      max_in_flight_messages_(settings.number("max_in_flight_messages", 100000)),
      max_in_flight_bytes_(settings.number("max_in_flight_bytes", int64_t{64} << 20)) {
    if (bootstrap_servers_.empty())
        throw ConfigurationError("outbox.kafka_bootstrap_servers is not set");
    if (!config_file_.empty()) properties_ = sink::read_properties(config_file_);
    for (const sink::Property& property : properties_) {
        if (auto why = refusal(property.name, property.value))
            throw ConfigurationError("the property " + property.name + " in \"" + config_file_ +
                                     "\" " + *why);
        if (property.name.ends_with("partitioner"))
            null_key_is_empty_key_ = property.value == "murmur2";
        if (property.name == "sasl.mechanism" || property.name == "sasl.mechanisms")
            uses_scram_ = property.value.starts_with("SCRAM");
        if (property.name == "batch.size") {
            const std::string& text = property.value;
            std::from_chars(text.data(), text.data() + text.size(), batch_bytes_);
        }
        scrubber_.hide(property.value);
    }
    // Every property is tried now: a refusal has to come before Ready.
    const Configuration tried = stream();
    alone();
    const std::string mechanism = value(tried, "sasl.mechanisms");
    renews_credentials_ = value(tried, "security.protocol").starts_with("sasl") &&
                          mechanism != "PLAIN" && !mechanism.starts_with("SCRAM");
}

Configuration ClientConfiguration::common() const {
    Configuration configuration(rd_kafka_conf_new());
    rd_kafka_conf_t* to = configuration.get();
    set(to, "bootstrap.servers", bootstrap_servers_);
    set(to, "client.id", "outbox/" + database_);
    set(to, "acks", std::string("all"));
    set(to, "enable.idempotence", std::string("true"));
    set(to, "message.timeout.ms", 0);

    // The broker decides what is too large, and so the room for headers and framing is generous.
    set(to, "message.max.bytes",
        std::clamp<int64_t>(max_message_bytes_ + (int64_t{16} << 20), 1 << 20, kLargestMessage));
    // The relay's window is what limits; the client's queue only has to be larger.
    constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
    set(to, "queue.buffering.max.messages",
        std::clamp<int64_t>(max_in_flight_messages_ + max_in_flight_messages_ / 4 + 1000, 100000,
                            kMaxInt));
    set(to, "queue.buffering.max.kbytes",
        std::clamp<int64_t>((max_in_flight_bytes_ + max_message_bytes_) / 1024 * 2, 65536,
                            kMaxInt));

    // What a broker says of itself is not believed: its certificate has to be signed and to bear
    // its name. The file may say otherwise, in so many words.
    set_if_known(to, "enable.ssl.certificate.verification", "true");
    set_if_known(to, "ssl.endpoint.identification.algorithm", "https");

    set(to, "socket.nagle.disable", std::string("true"));
    set(to, "socket.keepalive.enable", std::string("true"));
    // Addresses are asked for anew at every reconnect: brokers move.
    set(to, "broker.address.ttl", 1000);
    // A broker that is back is noticed about a second later, as Java's clients notice it.
    set(to, "reconnect.backoff.ms", 100);
    set(to, "reconnect.backoff.max.ms", 1000);
    // How long a new topic may take to be seen by all brokers before it counts as missing.
    set(to, "topic.metadata.propagation.max.ms", 3000);
    // New partitions are noticed within this time.
    set(to, "topic.metadata.refresh.interval.ms", 60000);
    // The partitioner of ours (Topic) spreads messages without a key; librdkafka's own spreading
    // would bypass it.
    set(to, "sticky.partitioning.linger.ms", 0);

    set(to, "log.queue", std::string("true"));
    set(to, "log.thread.name", std::string("false"));
    set(to, "log.connection.close", std::string("false"));
    set_if_known(to, "enable.metrics.push", "false");
    rd_kafka_conf_set_events(
        to, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_STATS);
    return configuration;
}

Configuration ClientConfiguration::stream() const {
    Configuration configuration = common();
    // The relay hands out batches already, a millisecond apart at least; under load the client's
    // requests fill while the ones before are under way. Waiting here adds latency and nothing
    // else.
    set(configuration.get(), "linger.ms", 0);
    set(configuration.get(), "batch.size", kDefaultBatchBytes);
    set(configuration.get(), "statistics.interval.ms", 5000);
    configuration = with_file(std::move(configuration));
    // One failed batch and the client stops: what comes behind it is sent again, in order.
    set(configuration.get(), "enable.gapless.guarantee", std::string("true"));
    if (batch_bytes_ > 0) set(configuration.get(), "batch.size", batch_bytes_);
    return configuration;
}

Configuration ClientConfiguration::alone() const {
    Configuration configuration = with_file(common());
    set(configuration.get(), "linger.ms", 0);
    set(configuration.get(), "batch.num.messages", 1);
    set(configuration.get(), "statistics.interval.ms", 0);
    set(configuration.get(), "enable.gapless.guarantee", std::string("false"));
    return configuration;
}

bool ClientConfiguration::shrink_batches() {
    int64_t now = batch_bytes_ > 0 ? batch_bytes_ : kDefaultBatchBytes;
    if (now <= kSmallestBatchBytes) return false;
    batch_bytes_ = std::max(now / 2, kSmallestBatchBytes);
    return true;
}

Configuration ClientConfiguration::with_file(Configuration configuration) const {
    for (const sink::Property& property : properties_) {
        if (property.name == "partitioner" || property.name == "topic.partitioner") continue;
        char text[512];
        switch (rd_kafka_conf_set(configuration.get(), property.name.c_str(),
                                  property.value.c_str(), text, sizeof(text))) {
            case RD_KAFKA_CONF_OK:
                break;
            case RD_KAFKA_CONF_UNKNOWN:
                throw ConfigurationError(
                    "\"" + config_file_ + "\" line " + std::to_string(property.line) + ": " + text,
                    RD_KAFKA_RESP_ERR__INVALID_ARG);
            default:
                // librdkafka's words quote the value.
                throw ConfigurationError("\"" + config_file_ + "\" line " +
                                             std::to_string(property.line) +
                                             ": librdkafka does not accept the value of the "
                                             "property " +
                                             property.name,
                                         RD_KAFKA_RESP_ERR__INVALID_ARG);
        }
    }
    return configuration;
}

}  // namespace outbox::kafka
