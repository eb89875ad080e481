// Numbered messages of several keys, how a relay brings them through failures, and how to see that
// their order was kept. Runs in the unit tests.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "support/fake_relay.hpp"
#include "support/mock_cluster.hpp"

namespace outbox::test {

// `count` messages whose payloads are 0, 1, 2, ..., with the keys taking turns.
inline std::vector<Message> sequence(const std::string& topic, int count, int keys = 3) {
    std::vector<Message> messages;
    for (int i = 0; i < count; ++i) {
        Message message;
        message.topic = topic;
        message.key = "key " + std::to_string(i % keys);
        message.payload = std::to_string(i);
        messages.push_back(message);
    }
    return messages;
}

// As the relay does it: everything is sent at once; what comes back is sent again, in order, when
// all is answered and the topic is reopened. False if something stays undelivered.
inline bool deliver_all(FakeRelay& relay, const std::vector<Message>& messages) {
    std::vector<Message> rest = messages;
    for (int round = 0; round < 100 && !rest.empty(); ++round) {
        std::map<uint64_t, Message> sent;
        for (const Message& message : rest)
            sent.emplace(relay.send(message), message);
        if (!relay.until_all_answered()) return false;
        rest.clear();
        for (const auto& [number, message] : sent) {
            if (relay.delivered(number)) continue;
            relay.reopen(message.topic);
            rest.push_back(message);
        }
    }
    return rest.empty();
}

// Every message is there once, and those of one key in the order in which they were sent.
inline void expect_in_order(const std::vector<Record>& records, int count) {
    std::map<std::string, int> last;
    for (const Record& record : records) {
        int now = std::stoi(record.payload.value_or("-1"));
        auto [before, first] = last.emplace(record.key.value_or(""), -1);
        EXPECT_GT(now, before->second) << "of " << before->first;
        before->second = now;
    }
    EXPECT_EQ(records.size(), static_cast<size_t>(count));
}

}  // namespace outbox::test
