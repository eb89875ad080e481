// Lets a partition's first message go alone. Runs in outbox-kafka.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "sink/common/clock.hpp"
#include "sink/kafka/owned_message.hpp"

namespace outbox::kafka {

// Idempotence protects the order of a partition's batches only once the broker has accepted one of
// this producer there: as long as it knows nothing about the producer it takes any sequence number
// (ProducerAppendInfo.checkSequence of Kafka). If of two batches in flight the first one is then
// refused, the second one goes in before it; and if the first one is put back for a retry,
// librdkafka takes the second one's success as the acknowledgement of both
// (rd_kafka_dr_implicit_ack), and the first one's messages are lost. enable.gapless.guarantee does
// not help: it stops what is still queued, not what is under way.
//
// So the first message of a partition travels by itself, and whatever is for the same partition
// waits until it is acknowledged. Brokers forget idle producers after a day
// (producer.id.expiration.ms): a partition that has been quiet for an hour starts anew.
//
// The partition of a message is known once the partition count of the topic is; until then the
// topic as a whole counts as one partition. Messages wait here as copies, in order, one queue per
// partition.
class PartitionGate {
  public:
    using Clock = sink::Clock;

    static constexpr int32_t kAnyPartition = -1;
    static constexpr Clock::duration kForgottenAfter = std::chrono::hours(1);

    // What a message may do. `slot` names its place in later calls.
    enum class Verdict { Go, GoAlone, Wait };
    struct Decision {
        Verdict verdict;
        int32_t slot;
        int32_t partition;  // to be asked for, or kAnyPartition: the partitioner chooses
    };

    // `partition`: the one that the message asks for or its key leads to; kAnyPartition: it may go
    // anywhere. `random` chooses among the partitions where any will do.
    Decision decide(std::optional<int32_t> partition, bool explicit_partition, uint32_t random);

    // A message that got GoAlone is on its way.
    void alone(int32_t slot, uint64_t number);
    void wait(int32_t slot, OwnedMessage message);

    // The topic has this many partitions, and keys lead to other ones from now on: what waits comes
    // back, in no particular order.
    std::vector<OwnedMessage> resize(int32_t count);

    // An acknowledgement from `partition`. What may go now comes back, in no particular order.
    std::vector<OwnedMessage> delivered(uint64_t number, int32_t partition, Clock::time_point now);
    // A failure: every partition starts anew. What waits has to be taken away with it.
    void failed(uint64_t number);
    // Everything that waits, in no particular order.
    std::vector<OwnedMessage> take_waiting();

    void forget_idle(Clock::time_point now);

    int32_t partition_count() const { return count_known_ ? size() : 0; }

  private:
    static constexpr int32_t kWholeTopic = -1;

    enum class State : uint8_t { Fresh, Probing, Established };
    struct Slot {
        State state = State::Fresh;
        Clock::time_point last_delivery{};
        std::vector<OwnedMessage> waiting;
    };

    Slot& at(int32_t slot) { return slot == kWholeTopic ? whole_topic_ : slots_[slot_index(slot)]; }
    static size_t slot_index(int32_t slot) { return static_cast<size_t>(slot); }
    int32_t size() const { return static_cast<int32_t>(slots_.size()); }
    struct Place {
        Verdict verdict;
        int32_t slot;
    };
    static Verdict verdict(const Slot& slot);
    Place place_of(int32_t partition) const;
    Decision anywhere(uint32_t random);
    void establish(Slot& slot, Clock::time_point now);

    // Messages that went alone and are not answered. One may stand for two slots: where the
    // partition count changed under way.
    struct Probe {
        uint64_t number;
        int32_t slot;
    };
    void end_probes(uint64_t number, std::vector<OwnedMessage>* released);

    Slot whole_topic_;
    std::deque<Slot> slots_;
    std::vector<Probe> probes_;
    size_t established_ = 0;
    bool count_known_ = false;
};

}  // namespace outbox::kafka
