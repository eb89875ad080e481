// The messages that were taken out of the log because their topic, or the broker, does not take
// them. Relay process; its own tables, through SPI. Not a hot path: nothing is here while Kafka is
// well.
#pragma once

#include "pg/postgres.hpp"
#include "storage/log_reader.hpp"

namespace outbox {

// State of a deferred message that the relay works on.
//
//   waiting, suspect --refused for good, or behind such a one of its key--> parked
//   parked --outbox.retry()--> released --adopt_released()--> suspect, or waiting if it was behind
//   parked behind one that is no longer parked --adopt_released()--> waiting
//
// Sessions change parked to released, or remove parked ones; the relay does everything else. So
// neither ever waits for a row that the other has locked.
enum class DeferredState : uint8_t {
    Waiting,  // its topic takes no messages: tried again, the first one alone
    Suspect,  // it, or one in the same batch, was refused: tried again alone
};

// A failure, in the broker's words.
struct Refusal {
    int32 code;  // the client library's number; 0: none
    const char* text;
};

// Puts a message there that is to be tried again; one that is there already stays as it is. In the
// caller's transaction.
void defer(const Row& row, DeferredState state, const Refusal& refusal);

// Puts a message there behind the parked one at `head`.
void defer_behind(const Row& row, int64 head);

// Deferred messages of a topic in the order of positions, those behind `after`, at most `most`, not
// parked. Calls `take` for each until it returns false; the Row lives until take returns.
void each_deferred(const char* topic, int64 after, int most,
                   bool (*take)(void* context, const Row& row, DeferredState state), void* context);

// Has a deferred message tried again alone.
void suspect_deferred(int64 position);

// Removes delivered messages.
void remove_deferred(const int64* positions, int count);

// Parks a message that the broker refuses, with its words, and behind it every later one of its
// topic and key. Calls `found` with its topic and key; returns how many were parked.
int64 park(int64 position, const Refusal& refusal, void (*found)(void* context, const Row& row),
           void* context);

// Parks the messages of a topic that have waited for `most_s` seconds or longer, and behind them
// later ones of their keys. Returns how many were parked.
int64 park_expired(const char* topic, int64 most_s, const Refusal& refusal);

// The position of the first parked or released message of this topic and key; 0: none. Under the
// active snapshot.
int64 parked_head(const Row& row);

// Makes what operators released, and what stands behind nothing any more, ready to be tried again,
// each key's messages in their order. Rows that an open transaction has locked stay parked, and
// with them the later ones of their key.
void adopt_released();

// Calls `found` for the keys that have parked or released messages, once for each message, at most
// `most` times; returns the number of calls.
int64 each_parked_key(int64 most, void (*found)(void* context, const Row& row), void* context);

// Calls `found` for each topic that has deferred messages.
void each_deferred_topic(void (*found)(void* context, const char* topic, int64 waiting,
                                       int64 parked),
                         void* context);

// How many messages are parked, those included that were released and not yet taken up.
int64 count_parked();

// Position and time of the oldest deferred message that is not parked; false if there is none.
bool oldest_deferred(int64* position, TimestampTz* time);

}  // namespace outbox
