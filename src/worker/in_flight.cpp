// The messages that the sink has and has not answered for. Relay process.
#include "worker/in_flight.hpp"

namespace outbox {

void InFlight::init(int capacity) {
    // Answered messages behind an unanswered one keep their places: room for a few windows of
    // those.
    uint64 size = 1024;
    while (size < static_cast<uint64>(capacity) * 4)
        size *= 2;
    mask_ = size - 1;
    ring_ = static_cast<InFlightMessage*>(
        MemoryContextAllocHuge(CurrentMemoryContext, sizeof(InFlightMessage) * size));
    clear();
}

void InFlight::clear() {
    first_ = next_ = 1;
    count_ = from_log_ = 0;
    bytes_ = 0;
}

uint64 InFlight::add(const InFlightMessage& message) {
    InFlightMessage* place = &ring_[next_ & mask_];
    *place = message;
    place->answered = false;
    ++count_;
    from_log_ += message.source == Source::Log;
    bytes_ += message.bytes;
    return next_++;
}

InFlightMessage* InFlight::find(uint64 number) {
    if (number < first_ || number >= next_) return nullptr;
    InFlightMessage* message = &ring_[number & mask_];
    return message->answered ? nullptr : message;
}

void InFlight::answer(InFlightMessage* message) {
    message->answered = true;
    --count_;
    from_log_ -= message->source == Source::Log;
    bytes_ -= message->bytes;
    while (first_ < next_ && ring_[first_ & mask_].answered)
        ++first_;
}

}  // namespace outbox
