// A connector's configuration, as far as it says what records look like. Session's backend.
#pragma once

#include "debezium/converters.hpp"
#include "debezium/json_expansion.hpp"
#include "pg/postgres.hpp"

namespace outbox::debezium {

// table.op.invalid.behavior
enum class OnUpdate : uint8_t { Warn, Error, Fatal };

// One entry of table.fields.additional.placement.
struct Placement {
    enum class Where : uint8_t { Header, Envelope, Partition };
    const char* column;
    Where where;
    const char* alias;
};

enum class DecimalMode : uint8_t { Precise, Double, String };
enum class TimeMode : uint8_t { Adaptive, AdaptiveMicroseconds, Connect };
enum class BinaryMode : uint8_t { Bytes, Base64, Base64UrlSafe, Hex };

struct Configuration {
    const char* id = "id";
    const char* key = "aggregateid";
    const char* payload = "payload";
    const char* timestamp = nullptr;
    const char* version = nullptr;
    const char* route = "aggregatetype";
    const char* tracing = "tracingspancontext";
    Placement* placements = nullptr;
    int placement_count = 0;
    bool ignores_missing = false;
    OnUpdate on_update = OnUpdate::Warn;
    bool expands = false;
    ExpansionRules expansion = {};
    bool tombstones = false;
    const char* regex = "(?<routedByValue>.*)";
    const char* replacement = "outbox.event.${routedByValue}";
    Converter key_converter = Converter::JsonWithSchemas;
    Converter value_converter = Converter::JsonWithSchemas;
    bool names_key_converter = false;
    bool names_value_converter = false;
    Converter value_delegate = Converter::JsonWithSchemas;  // for what is no bytes
    bool has_value_delegate = false;
    bool headers_are_strings = false;  // by StringConverter, not by SimpleHeaderConverter
    bool context_headers = false;
    const char* topic_prefix = nullptr;
    DecimalMode decimals = DecimalMode::Precise;
    TimeMode times = TimeMode::Adaptive;
    BinaryMode binaries = BinaryMode::Bytes;

    bool has_envelope() const;
};

// What was read, and what else was in it.
struct Reading {
    Configuration configuration;
    Jsonb* kept;     // the options that count, in a form that can be read again
    List* needless;  // names (char*) of the options that concern nothing here
};

// Reads a connector's configuration: as it is posted to Kafka Connect (name and config), as the
// connector's properties, or only those of the router's transform, with or without their prefix.
// Raises 22023 for a value or a name that is not valid, with the nearest name that is; 0A000 for
// what is not done here, with the reason.
Reading read_configuration(const Jsonb* json);

}  // namespace outbox::debezium
