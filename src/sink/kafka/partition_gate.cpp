// Lets a partition's first message go alone. Runs in outbox-kafka.
#include "sink/kafka/partition_gate.hpp"

#include <iterator>
#include <utility>

namespace outbox::kafka {

namespace {

void append(std::vector<OwnedMessage>& to, std::vector<OwnedMessage>& from) {
    if (to.empty()) {
        to.swap(from);
        return;
    }
    std::move(from.begin(), from.end(), std::back_inserter(to));
    from.clear();
}

}  // namespace

PartitionGate::Verdict PartitionGate::verdict(const Slot& slot) {
    if (slot.state == State::Probing || !slot.waiting.empty()) return Verdict::Wait;
    return slot.state == State::Established ? Verdict::Go : Verdict::GoAlone;
}

PartitionGate::Decision PartitionGate::decide(std::optional<int32_t> partition,
                                              bool explicit_partition, uint32_t random) {
    if (!partition) return anywhere(random);
    Place place = place_of(*partition);
    return {place.verdict, place.slot, explicit_partition ? *partition : kAnyPartition};
}

// While one message probes for the whole topic, nobody knows which partition it is in.
PartitionGate::Place PartitionGate::place_of(int32_t partition) const {
    const bool known = partition >= 0 && partition < size();
    if (known) {
        Verdict own = verdict(slots_[slot_index(partition)]);
        if (own != Verdict::GoAlone) return {own, partition};
    }
    Verdict topic = verdict(whole_topic_);
    if (topic == Verdict::Wait || !known || !count_known_) return {topic, kWholeTopic};
    return {Verdict::GoAlone, partition};
}

// Where any partition will do, a message never waits while one is established; each one that is not
// gets a message of its own now and then, and one without a leader holds up nothing but that.
PartitionGate::Decision PartitionGate::anywhere(uint32_t random) {
    if (!count_known_ || slots_.empty()) return {verdict(whole_topic_), kWholeTopic, kAnyPartition};
    if (established_ == slots_.size()) return {Verdict::Go, kWholeTopic, kAnyPartition};
    auto first = static_cast<int32_t>(random % slots_.size());
    Place place = place_of(first);
    if (place.verdict != Verdict::Wait) return {place.verdict, place.slot, first};
    for (int32_t i = 1; i < size(); ++i) {
        int32_t other = (first + i) % size();
        if (verdict(slots_[slot_index(other)]) == Verdict::Go) return {Verdict::Go, other, other};
    }
    return {Verdict::Wait, place.slot, first};
}

void PartitionGate::alone(int32_t slot, uint64_t number) {
    Slot& fresh = at(slot);
    if (fresh.state != State::Fresh) return;
    fresh.state = State::Probing;
    probes_.push_back({number, slot});
}

void PartitionGate::wait(int32_t slot, OwnedMessage message) {
    at(slot).waiting.push_back(std::move(message));
}

std::vector<OwnedMessage> PartitionGate::resize(int32_t count) {
    auto homeless = take_waiting();
    if (count < size()) {
        // The topic was deleted and made anew, smaller.
        slots_.clear();
        established_ = 0;
        std::erase_if(probes_, [](const Probe& probe) { return probe.slot != kWholeTopic; });
    }
    slots_.resize(static_cast<size_t>(count));
    count_known_ = true;
    return homeless;
}

std::vector<OwnedMessage> PartitionGate::delivered(uint64_t number, int32_t partition,
                                                   Clock::time_point now) {
    std::vector<OwnedMessage> released;
    if (partition >= size() && !count_known_) slots_.resize(slot_index(partition) + 1);
    // Not one that has gone since.
    if (partition < size()) {
        Slot& slot = slots_[slot_index(partition)];
        if (slot.state == State::Established) {
            slot.last_delivery = now;
        } else {
            establish(slot, now);
            released.swap(slot.waiting);
        }
    }
    if (!probes_.empty()) end_probes(number, &released);
    return released;
}

// The topic may have been deleted and made anew: what its brokers knew is not taken for granted.
void PartitionGate::failed(uint64_t number) {
    for (Slot& slot : slots_) {
        if (slot.state == State::Established) slot.state = State::Fresh;
    }
    established_ = 0;
    end_probes(number, nullptr);
}

void PartitionGate::end_probes(uint64_t number, std::vector<OwnedMessage>* released) {
    for (const Probe& probe : probes_) {
        if (probe.number != number) continue;
        Slot& slot = at(probe.slot);
        if (slot.state == State::Probing) slot.state = State::Fresh;
        if (released != nullptr) append(*released, slot.waiting);
    }
    std::erase_if(probes_, [number](const Probe& probe) { return probe.number == number; });
    // Whoever waits waits for an answer that is still to come.
    if (probes_.empty() && released != nullptr) {
        auto rest = take_waiting();
        append(*released, rest);
    }
}

std::vector<OwnedMessage> PartitionGate::take_waiting() {
    std::vector<OwnedMessage> all;
    append(all, whole_topic_.waiting);
    for (Slot& slot : slots_)
        append(all, slot.waiting);
    return all;
}

void PartitionGate::forget_idle(Clock::time_point now) {
    for (Slot& slot : slots_) {
        if (slot.state != State::Established || now - slot.last_delivery < kForgottenAfter)
            continue;
        slot.state = State::Fresh;
        --established_;
    }
}

void PartitionGate::establish(Slot& slot, Clock::time_point now) {
    slot.state = State::Established;
    slot.last_delivery = now;
    ++established_;
}

}  // namespace outbox::kafka
