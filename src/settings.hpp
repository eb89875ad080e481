// The extension's settings: one accessor each, and the list of those that a sink is given. Any
// process.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Every setting of the extension, as the current process sees it. Defined, with bounds and texts,
// in settings.cpp; described for users in the README.
struct Settings {
    bool enabled;
    char* sink;
    int max_message_bytes;
    int segment_size_kb;
    int segment_max_age_s;
    int retention_s;
    int backlog_limit_kb;  // 0: none
    int max_in_flight_messages;
    int max_in_flight_kb;
    int stop_timeout_ms;
    int unknown_topic_timeout_s;
    int max_databases;

    char* kafka_bootstrap_servers;
    char* kafka_config_file;
    char* file_path;
    char* file_config_file;
};

extern Settings settings;

// Defines the settings with the server. Called once, from _PG_init; the ones that only the
// postmaster can set are left out unless the library is being preloaded.
void define_settings(bool preloading);

// Calls `add` for every setting that the sink called `sink` is to be given: the common ones, and
// those named outbox.<sink>_...; names come without that prefix. `add` must not keep the pointers.
void each_sink_setting(const char* sink,
                       void (*add)(void* context, const char* name, const char* value),
                       void* context);

}  // namespace outbox
