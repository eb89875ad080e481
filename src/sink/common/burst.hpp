// Messages that came in together, and the order in which the client gets them. Runs in the sink
// programs.
//
// The client has a queue for each partition and empties them on a thread of its own. Handed to it
// as they come, messages go around the partitions: their queues change hands all the time, and each
// is emptied before it has filled. So those of one partition are handed over together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "protocol/frames.hpp"

namespace outbox::sink {

// Filled by add(), arranged, and then emptied by pop() before the next one is filled.
class Burst {
  public:
    // What one read brings in is some hundred as a rule.
    static constexpr size_t kMost = 2048;

    bool empty() const { return order_.empty(); }
    bool full() const { return order_.size() >= kMost; }

    // `place`: Sink::place(). The views have to stay valid until the burst is empty.
    void add(const protocol::MessageView& message, uint32_t place) {
        order_.push_back(uint64_t{place} << 32 | messages_.size());
        messages_.push_back(message);
    }
    // Those of one place stand together from now on, and keep their order.
    void arrange() {
        if (!std::is_sorted(order_.begin(), order_.end())) std::sort(order_.begin(), order_.end());
    }

    const protocol::MessageView& front() const {
        return messages_[static_cast<uint32_t>(order_[next_])];
    }
    void pop() {
        if (++next_ < order_.size()) return;
        messages_.clear();
        order_.clear();
        next_ = 0;
    }

  private:
    std::vector<protocol::MessageView> messages_;  // as they came
    std::vector<uint64_t> order_;                  // place, and index in messages_
    size_t next_ = 0;                              // in order_
};

}  // namespace outbox::sink
