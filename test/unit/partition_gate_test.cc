// A partition's first message goes alone.
#include "sink/kafka/partition_gate.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <utility>
#include <vector>

#include "support/frame_builder.hpp"

namespace outbox::test {
namespace {

using namespace std::chrono_literals;
using kafka::OwnedMessage;
using kafka::PartitionGate;
using sink::Clock;
using Verdict = PartitionGate::Verdict;

constexpr Clock::time_point kStart = Clock::time_point{} + 24h;

OwnedMessage message(uint64_t number) {
    return OwnedMessage(Decoded({}, number).view());
}

std::vector<uint64_t> numbers(const std::vector<OwnedMessage>& messages) {
    std::vector<uint64_t> numbers;
    for (const OwnedMessage& one : messages)
        numbers.push_back(one.view().head.number);
    return numbers;
}

// By key, to this partition.
PartitionGate::Decision keyed(PartitionGate& gate, int32_t partition) {
    return gate.decide(partition, false, 0);
}

TEST(PartitionGate, TheWholeTopicCountsAsOnePartitionWhileNothingIsKnown) {
    PartitionGate gate;
    auto first = keyed(gate, -1);
    EXPECT_EQ(first.verdict, Verdict::GoAlone);
    EXPECT_EQ(first.partition, PartitionGate::kAnyPartition);
    gate.alone(first.slot, 1);
    auto second = keyed(gate, -1);
    EXPECT_EQ(second.verdict, Verdict::Wait);
    gate.wait(second.slot, message(2));
    auto explicit_one = gate.decide(4, true, 0);
    EXPECT_EQ(explicit_one.verdict, Verdict::Wait);
    gate.wait(explicit_one.slot, message(3));
    auto anywhere = gate.decide(std::nullopt, false, 0);
    EXPECT_EQ(anywhere.verdict, Verdict::Wait);
    gate.wait(anywhere.slot, message(4));
    EXPECT_EQ(numbers(gate.delivered(1, 0, kStart)), (std::vector<uint64_t>{2, 3, 4}));
}

TEST(PartitionGate, AnEstablishedPartitionFlows) {
    PartitionGate gate;
    gate.resize(2);
    gate.alone(keyed(gate, 1).slot, 1);
    EXPECT_EQ(keyed(gate, 1).verdict, Verdict::Wait);
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::GoAlone);
    gate.delivered(1, 1, kStart);
    EXPECT_EQ(keyed(gate, 1).verdict, Verdict::Go);
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::GoAlone);
}

TEST(PartitionGate, WhatWaitsIsNotOvertaken) {
    PartitionGate gate;
    gate.resize(1);
    gate.alone(keyed(gate, 0).slot, 1);
    gate.wait(keyed(gate, 0).slot, message(2));
    gate.wait(keyed(gate, 0).slot, message(3));
    EXPECT_EQ(numbers(gate.delivered(1, 0, kStart)), (std::vector<uint64_t>{2, 3}));
    EXPECT_TRUE(gate.delivered(2, 0, kStart).empty());
}

TEST(PartitionGate, WhileTheWholeTopicProbesNoFreshPartitionDoes) {
    PartitionGate gate;
    gate.alone(keyed(gate, -1).slot, 1);
    gate.resize(3);  // the partitioner has run, but where message 1 is nobody knows
    auto decision = keyed(gate, 2);
    EXPECT_EQ(decision.verdict, Verdict::Wait);
    gate.wait(decision.slot, message(2));
    EXPECT_EQ(numbers(gate.delivered(1, 0, kStart)), (std::vector<uint64_t>{2}));
    EXPECT_EQ(keyed(gate, 2).verdict, Verdict::GoAlone);
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::Go);
}

TEST(PartitionGate, AfterAFailureTheNextOneGoesAloneAgain) {
    PartitionGate gate;
    gate.resize(1);
    gate.alone(keyed(gate, 0).slot, 1);
    gate.wait(keyed(gate, 0).slot, message(2));
    gate.failed(1);
    EXPECT_EQ(numbers(gate.take_waiting()), (std::vector<uint64_t>{2}));
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::GoAlone);
}

TEST(PartitionGate, AfterAFailureEveryPartitionStartsAnew) {
    PartitionGate gate;
    gate.resize(2);
    gate.alone(keyed(gate, 0).slot, 1);
    gate.delivered(1, 0, kStart);
    gate.alone(keyed(gate, 1).slot, 2);
    gate.failed(3);
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::GoAlone);
    EXPECT_EQ(keyed(gate, 1).verdict, Verdict::Wait);  // message 2 is still under way
    gate.delivered(2, 1, kStart);
    EXPECT_EQ(keyed(gate, 1).verdict, Verdict::Go);
}

TEST(PartitionGate, MessagesForAnywhereAvoidPartitionsThatDoNotAnswer) {
    PartitionGate gate;
    gate.resize(2);
    gate.alone(gate.decide(std::nullopt, false, 0).slot, 1);
    gate.delivered(1, 0, kStart);
    auto probe = gate.decide(std::nullopt, false, 1);
    EXPECT_EQ(probe.verdict, Verdict::GoAlone);
    EXPECT_EQ(probe.partition, 1);
    gate.alone(probe.slot, 2);  // partition 1 has no leader: no answer comes
    for (uint32_t random = 0; random < 10; ++random) {
        auto decision = gate.decide(std::nullopt, false, random);
        EXPECT_EQ(decision.verdict, Verdict::Go);
        EXPECT_EQ(decision.partition, 0);
    }
    gate.delivered(2, 1, kStart);
    auto free = gate.decide(std::nullopt, false, 0);
    EXPECT_EQ(free.verdict, Verdict::Go);
    EXPECT_EQ(free.partition, PartitionGate::kAnyPartition);
}

TEST(PartitionGate, APartitionThatWasQuietForLongStartsAnew) {
    PartitionGate gate;
    gate.resize(2);
    for (int32_t partition : {0, 1}) {
        gate.alone(keyed(gate, partition).slot, static_cast<uint64_t>(partition) + 1);
        gate.delivered(static_cast<uint64_t>(partition) + 1, partition, kStart);
    }
    gate.delivered(3, 1, kStart + 30min);
    gate.forget_idle(kStart + PartitionGate::kForgottenAfter);
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::GoAlone);
    EXPECT_EQ(keyed(gate, 1).verdict, Verdict::Go);
}

TEST(PartitionGate, NewPartitionsAreFresh) {
    PartitionGate gate;
    gate.resize(1);
    gate.alone(keyed(gate, 0).slot, 1);
    gate.delivered(1, 0, kStart);
    EXPECT_TRUE(gate.resize(3).empty());
    EXPECT_EQ(gate.partition_count(), 3);
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::Go);
    EXPECT_EQ(keyed(gate, 2).verdict, Verdict::GoAlone);
}

// The message was thought to go to partition 1, but there were four of them by then.
TEST(PartitionGate, APartitionCountThatGrowsUnderwayLeavesNobodyWaiting) {
    PartitionGate gate;
    gate.resize(2);
    auto probe = keyed(gate, 1);
    gate.alone(probe.slot, 1);
    gate.resize(4);
    gate.alone(3, 1);
    gate.wait(keyed(gate, 1).slot, message(2));
    gate.wait(keyed(gate, 3).slot, message(3));
    EXPECT_EQ(numbers(gate.delivered(1, 3, kStart)), (std::vector<uint64_t>{3, 2}));
    EXPECT_EQ(keyed(gate, 3).verdict, Verdict::Go);
    EXPECT_EQ(keyed(gate, 1).verdict, Verdict::GoAlone);
}

TEST(PartitionGate, AnAnswerFromAnotherPartitionThanThoughtLeavesNobodyWaiting) {
    PartitionGate gate;
    gate.resize(2);
    gate.alone(keyed(gate, 0).slot, 1);
    gate.wait(keyed(gate, 0).slot, message(2));
    EXPECT_EQ(numbers(gate.delivered(1, 1, kStart)), (std::vector<uint64_t>{2}));
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::GoAlone);
}

TEST(PartitionGate, WhatWaitedForAPartitionThatIsGoneComesBack) {
    PartitionGate gate;
    gate.resize(3);
    gate.alone(keyed(gate, 2).slot, 1);
    gate.wait(keyed(gate, 2).slot, message(2));
    EXPECT_EQ(numbers(gate.resize(1)), (std::vector<uint64_t>{2}));
    EXPECT_EQ(keyed(gate, 0).verdict, Verdict::GoAlone);
}

TEST(PartitionGate, AnExplicitPartitionIsAskedFor) {
    PartitionGate gate;
    EXPECT_EQ(gate.decide(5, true, 0).partition, 5);
    gate.resize(10);
    EXPECT_EQ(gate.decide(5, true, 0).partition, 5);
    EXPECT_EQ(gate.decide(5, false, 0).partition, PartitionGate::kAnyPartition);
    EXPECT_EQ(gate.decide(99, true, 0).partition, 99);
}

// Messages of some keys, a topic whose partitions come and go, and answers in any order but that of
// a partition.
class Simulation {
  public:
    explicit Simulation(uint32_t seed) : random_(seed) {}

    void run() {
        for (uint64_t number = 1; number <= 400; ++number) {
            backlog_.push_back(message(number));
            resume();
            if (pick(4) == 0) answer_one();
            if (pick(60) == 0) count_ = static_cast<int32_t>(1 + pick(6));
        }
        while (!under_way_.empty())
            answer_one();
        EXPECT_EQ(answered_, 400u);
    }

  private:
    static constexpr int kKeys = 9;

    size_t pick(size_t choices) { return random_() % choices; }

    // As Producer does it.
    void resume() {
        while (!backlog_.empty()) {
            OwnedMessage next = std::move(backlog_.front());
            backlog_.pop_front();
            offer(std::move(next));
        }
    }

    void offer(OwnedMessage owned) {
        const uint64_t number = owned.view().head.number;
        const int key = static_cast<int>(number % kKeys);
        int32_t known = gate_.partition_count();
        auto decision = gate_.decide(known == 0 ? -1 : key % known, false, 0);
        if (decision.verdict == Verdict::Wait) {
            gate_.wait(decision.slot, std::move(owned));
            return;
        }
        EXPECT_GT(number, last_sent_[key]) << "of key " << key;
        last_sent_[key] = number;
        int32_t partition = key % count_;
        under_way_[partition].push_back(number);
        if (decision.verdict == Verdict::GoAlone) gate_.alone(decision.slot, number);
        if (known == count_) return;
        kafka::merge_in_order(backlog_, gate_.resize(count_));
        gate_.alone(partition, number);
    }

    void answer_one() {
        if (under_way_.empty()) return;
        auto partition = std::next(under_way_.begin(), static_cast<int>(pick(under_way_.size())));
        uint64_t number = partition->second.front();
        int32_t where = partition->first;
        partition->second.pop_front();
        if (partition->second.empty()) under_way_.erase(partition);
        ++answered_;
        kafka::merge_in_order(backlog_, gate_.delivered(number, where, kStart));
        resume();
    }

    std::mt19937 random_;
    PartitionGate gate_;
    std::deque<OwnedMessage> backlog_;
    int32_t count_ = 3;
    std::map<int32_t, std::deque<uint64_t>> under_way_;
    std::map<int, uint64_t> last_sent_;
    uint64_t answered_ = 0;
};

TEST(PartitionGate, NobodyOvertakesAndNobodyIsLeftWaiting) {
    for (uint32_t seed = 0; seed < 500; ++seed) {
        SCOPED_TRACE(seed);
        Simulation(seed).run();
    }
}

}  // namespace
}  // namespace outbox::test
