// Defines the extension's settings with the server. Any process.
//
// Contexts: what decides where messages go, or what reaches the sink, is for superusers and the
// configuration file only (PGC_SUSET), so that ALTER DATABASE ... SET can give a database its own
// but no application role can redirect messages or name a file. Secrets are in no setting: they
// belong in the file that outbox.kafka_config_file names.
#include "settings.hpp"

#include "protocol/frames.hpp"

namespace outbox {

Settings settings;

namespace {

constexpr int kDefaultMaxMessageBytes = 1048000;
constexpr int kLargestMaxMessageBytes = 128 * 1024 * 1024;
// A payload of the largest size, its key and its headers fit a frame.
static_assert(kLargestMaxMessageBytes + (1 << 20) < protocol::kMaxBody);

// A sink's name becomes part of a program's file name, so it may hold nothing that leaves the
// directory.
bool check_sink_name(char** value, void**, GucSource) {
    const char* name = *value;
    size_t length = strlen(name);
    if (length == 0 || length > 32 || name[0] < 'a' || name[0] > 'z') {
        GUC_check_errdetail(
            "A sink's name is 1 to 32 characters long and begins with a lower-case letter.");
        return false;
    }
    if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != length) {
        GUC_check_errdetail("A sink's name holds only lower-case letters, digits and hyphens.");
        return false;
    }
    return true;
}

bool check_absolute_path(char** value, void**, GucSource) {
    if (**value != '\0' && !is_absolute_path(*value)) {
        GUC_check_errdetail("The path must be absolute.");
        return false;
    }
    return true;
}

// Less than one segment takes before it is filled would refuse everything. (Rounding makes 0 of
// what is below half a kilobyte.)
constexpr int kSmallestBacklogLimitKb = 1024;

bool check_backlog_limit_setting(int* value, void**, GucSource) {
    if (*value == 0 || *value >= kSmallestBacklogLimitKb) return true;
    GUC_check_errdetail("The smallest limit is 1MB; 0 means that there is none.");
    return false;
}

void define_string(const char* name, const char* description, char** variable, const char* boot,
                   GucStringCheckHook check) {
    DefineCustomStringVariable(name, description, nullptr, variable, boot, PGC_SUSET, 0, check,
                               nullptr, nullptr);
}

void define_int(const char* name, const char* description, const char* detail, int* variable,
                int boot, int min, int max, int unit) {
    DefineCustomIntVariable(name, description, detail, variable, boot, min, max, PGC_SUSET, unit,
                            nullptr, nullptr, nullptr);
}

// A setting that goes to a sink, under its own name.
struct SinkSetting {
    const char* sink;
    const char* name;
    char** value;
};

const SinkSetting kSinkSettings[] = {
    {"kafka", "bootstrap_servers", &settings.kafka_bootstrap_servers},
    {"kafka", "config_file", &settings.kafka_config_file},
    {"file", "path", &settings.file_path},
    {"file", "config_file", &settings.file_config_file},
};

}  // namespace

void define_settings(bool preloading) {
    DefineCustomBoolVariable(
        "outbox.enabled", "Lets this server's relays send messages.",
        "When off, emit() goes on storing and nothing is sent: for copies of a server "
        "that must not publish its messages.",
        &settings.enabled, true, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    define_string("outbox.sink", "Name of the program that speaks to the broker: outbox-<name>.",
                  &settings.sink, "kafka", check_sink_name);
    define_string("outbox.kafka_bootstrap_servers",
                  "Kafka brokers to start from: host:port, comma separated.",
                  &settings.kafka_bootstrap_servers, "", nullptr);
    define_string(
        "outbox.kafka_config_file",
        "File with further properties of the Kafka client (TLS, SASL, compression), mode 0600.",
        &settings.kafka_config_file, "", check_absolute_path);
    define_string("outbox.file_path", "File that the sink \"file\" appends messages to.",
                  &settings.file_path, "", check_absolute_path);
    define_string("outbox.file_config_file",
                  "File with properties of the sink \"file\", mode 0600.",
                  &settings.file_config_file, "", check_absolute_path);

    define_int("outbox.max_message_bytes",
               "Largest message that emit() takes: key, payload and headers.",
               "The default stays just under the limit that a Kafka broker has by default "
               "(message.max.bytes).",
               &settings.max_message_bytes, kDefaultMaxMessageBytes, 1000, kLargestMaxMessageBytes,
               GUC_UNIT_BYTE);
    define_int("outbox.segment_size",
               "Size at which the next segment of the message log is taken into use.", nullptr,
               &settings.segment_size_kb, 128 * 1024, 64, 1024 * 1024 * 1024, GUC_UNIT_KB);
    define_int("outbox.segment_max_age",
               "Age at which the next segment of the message log is taken into use.", nullptr,
               &settings.segment_max_age_s, 600, 1, 7 * 24 * 3600, GUC_UNIT_S);
    define_int("outbox.retention", "How long settled messages are kept at least.",
               "They are seen in outbox.messages until their segment is emptied.",
               &settings.retention_s, 600, 0, 365 * 24 * 3600, GUC_UNIT_S);
    DefineCustomIntVariable(
        "outbox.backlog_limit", "Size of the backlog at which emit() refuses; 0: no limit.",
        "Counted is the disk space of messages that are neither delivered nor parked. Nothing is "
        "dropped.",
        &settings.backlog_limit_kb, 0, 0, MAX_KILOBYTES, PGC_SUSET, GUC_UNIT_KB,
        check_backlog_limit_setting, nullptr, nullptr);
    define_int("outbox.max_in_flight_messages",
               "Most messages handed to the sink and not yet acknowledged.", nullptr,
               &settings.max_in_flight_messages, 65536, 1, 1000000, 0);
    define_int("outbox.max_in_flight_bytes",
               "Most bytes handed to the sink and not yet acknowledged.",
               "A larger message goes alone.", &settings.max_in_flight_kb, 32 * 1024, 64,
               1024 * 1024, GUC_UNIT_KB);
    define_int("outbox.stop_timeout",
               "How long a relay that is told to stop waits for the broker to acknowledge what is "
               "in flight.",
               "What is not acknowledged by then is sent again later.", &settings.stop_timeout_ms,
               3000, 0, 60000, GUC_UNIT_MS);

    define_int("outbox.unknown_topic_timeout",
               "How long messages wait for a topic that the broker does not know before they are "
               "parked.",
               "0 lets them wait for ever.", &settings.unknown_topic_timeout_s, 0, 0,
               365 * 24 * 3600, GUC_UNIT_S);

    if (preloading) {
        DefineCustomIntVariable("outbox.max_databases", "Most databases with a relay of their own.",
                                nullptr, &settings.max_databases, 16, 1, 1000, PGC_POSTMASTER, 0,
                                nullptr, nullptr, nullptr);
    }
    MarkGUCPrefixReserved("outbox");
}

void each_sink_setting(const char* sink,
                       void (*add)(void* context, const char* name, const char* value),
                       void* context) {
    char number[32];
    snprintf(number, sizeof(number), "%d", settings.max_message_bytes);
    add(context, "max_message_bytes", number);
    snprintf(number, sizeof(number), "%d", settings.max_in_flight_messages);
    add(context, "max_in_flight_messages", number);
    snprintf(number, sizeof(number), "%ld", static_cast<long>(settings.max_in_flight_kb) * 1024);
    add(context, "max_in_flight_bytes", number);
    for (const SinkSetting& setting : kSinkSettings) {
        if (strcmp(setting.sink, sink) == 0) add(context, setting.name, *setting.value);
    }
}

}  // namespace outbox
