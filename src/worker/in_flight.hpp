// The messages that the sink has and has not answered for. Relay process.
//
// A ring indexed by the number of the message within the connection. State of an entry: waiting ->
// answered. Answered entries leave when all before them have left, so the ring spans from the
// oldest unanswered number to the newest.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Where a message in flight was read from.
enum class Source : uint8_t { Log, Deferred };

struct InFlightMessage {
    int64 position;
    uint32 bytes;
    uint32 topic;  // index into the topics
    Source source;
    bool answered;
};

class InFlight {
  public:
    // Room for `capacity` messages; memory from the current context.
    void init(int capacity);

    // Forgets everything: a new connection begins.
    void clear();

    bool has_room(size_t bytes, int most_messages, size_t most_bytes) const {
        if (count_ == 0) return true;  // a message larger than the window goes alone
        return count_ < most_messages && bytes_ + bytes <= most_bytes && next_ - first_ <= mask_;
    }

    // Adds a message and returns its number.
    uint64 add(const InFlightMessage& message);

    // The unanswered message with this number, or nullptr: answered already, or never sent.
    InFlightMessage* find(uint64 number);

    // Marks a message as answered.
    void answer(InFlightMessage* message);

    int count() const { return count_; }
    // Those of Source::Log.
    int from_log() const { return from_log_; }
    size_t bytes() const { return bytes_; }

    // Calls `visit` for each unanswered message.
    template <typename Visit>
    void each(Visit visit) const {
        for (uint64 number = first_; number < next_; ++number) {
            const InFlightMessage& message = ring_[number & mask_];
            if (!message.answered) visit(message);
        }
    }

  private:
    InFlightMessage* ring_ = nullptr;
    uint64 mask_ = 0;
    uint64 first_ = 1;  // oldest number in the ring
    uint64 next_ = 1;   // number of the next message
    int count_ = 0;     // unanswered ones
    int from_log_ = 0;  // of those
    size_t bytes_ = 0;  // of the unanswered ones
};

}  // namespace outbox
