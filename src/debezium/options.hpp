// What Debezium's connector, its outbox router and Kafka Connect can be told, and what becomes of
// each option here. Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox::debezium {

enum class Fate : uint8_t {
    Router,    // read by configuration.cpp
    Needless,  // concerns the slot, the snapshot, the connection: there is none
    Refused,   // changes records in a way that attach_debezium() does not
};

struct Option {
    const char* name;  // "*" at the end, or between dots: anything
    Fate fate;
    const char* reason;  // Refused: why
};

// Of the router, without its transform's prefix.
const Option* find_router_option(const char* name);

// Of the connector, its converters and the worker.
const Option* find_connector_option(const char* name);

// The option whose name comes nearest to `name`, and how many characters would have to be changed;
// nullptr: none is near.
const char* nearest_router_option(const char* name, int* changes);
const char* nearest_connector_option(const char* name, int* changes);

}  // namespace outbox::debezium
