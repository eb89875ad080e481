// The rules a message has to keep, checked when emit() is called. Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Raises 22004 where there is no topic.
void check_topic_is_there(const char* topic);

// Whether Kafka accepts this name.
bool is_topic(const char* topic, size_t length);

// Raises 22023, with detail and hint, unless `topic` is a name that Kafka accepts: 1 to
// 249 characters of [a-zA-Z0-9._-], not "." or "..".
void check_topic(const char* topic, size_t length);

// Raises 22023 unless `headers` is an object without a header called id.
void check_headers(const Jsonb* headers);

// Raises 22023 for a negative partition.
void check_partition(int32 partition);

// Raises 54000 if key, payload and headers together are larger than outbox.max_message_bytes.
void check_size(size_t key, size_t payload, size_t headers);

// Raises 55000 or 25006 where a message cannot be stored: library not preloaded, standby, read-only
// transaction, parallel worker.
void check_session_can_emit();

}  // namespace outbox
