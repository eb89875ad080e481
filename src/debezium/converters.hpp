// Kafka Connect's converters: from a schema and a value to bytes. Session's backend.
#pragma once

#include "debezium/connect.hpp"

namespace outbox::debezium {

// How keys and values are written: StringConverter, JsonConverter without and with schemas, and
// BinaryDataConverter or ByteArrayConverter, which pass bytes through.
enum class Converter : uint8_t { String, Json, JsonWithSchemas, Bytes };

// The bytes of a record's key or value; nullptr: null. `schema` is nullptr where a tombstone has
// neither schema nor value. Raises 42804 where Bytes gets anything else.
const char* convert(Converter converter, const Schema* schema, const Value& value, size_t* length);

// A header's value as SimpleHeaderConverter writes it; nullptr: null.
const char* header_text(const Schema& schema, const Value& value, size_t* length);

}  // namespace outbox::debezium
