// The messages that were taken out of the log because their topic, or the broker, does not take
// them. Relay process; its own tables, through SPI. Not a hot path: nothing is here while Kafka is
// well.
#pragma once

#include "pg/postgres.hpp"
#include "storage/log_reader.hpp"

namespace outbox {

// State of a deferred message.
enum class DeferredState : uint8_t {
    Waiting,  // its topic takes no messages: tried again, the first one alone
    Suspect,  // it, or one in the same batch, was refused: tried again alone
    Parked,   // refused for good, or behind such a one of its key: stays until an operator decides
};

// Puts a message there; a message that is there already stays as it is. In the caller's
// transaction.
void defer(const Row& row, DeferredState state, int32 error_code, const char* error);

// Deferred messages of a topic in the order of positions, those behind `after`, at most `most`, not
// parked. Calls `take` for each until it returns false; the Row lives until take returns.
void each_deferred(const char* topic, int64 after, int most,
                   bool (*take)(void* context, const Row& row, DeferredState state), void* context);

// Has a deferred message tried again alone.
void suspect_deferred(int64 position);

// Removes delivered messages.
void remove_deferred(const int64* positions, int count);

// Parks a message that the broker refuses, with its words, and behind it every later one of its
// topic and key. Returns how many were parked.
int64 park(int64 position, int32 error_code, const char* error);

// Whether a message of this topic and key is parked.
bool key_is_parked(const Row& row);

// Calls `found` for each topic that has deferred messages.
void each_deferred_topic(void (*found)(void* context, const char* topic, int64 waiting,
                                       int64 parked),
                         void* context);

// Position and time of the oldest deferred message that is not parked; false if there is none.
bool oldest_deferred(int64* position, TimestampTz* time);

}  // namespace outbox
