// A message that outlives the buffer it came in. Runs in outbox-kafka.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "protocol/frames.hpp"

namespace outbox::kafka {

class OwnedMessage {
  public:
    explicit OwnedMessage(const protocol::MessageView& message) : view_(message) {
        size_t length = message.topic.length + size_t{message.key.length} + message.payload.length +
                        message.headers.length;
        // Never without an address: an empty payload is not an absent one.
        bytes_ = std::make_unique_for_overwrite<char[]>(length + 1);
        char* at = bytes_.get();
        for (protocol::Bytes* part : {&view_.topic, &view_.key, &view_.payload, &view_.headers}) {
            if (part->absent()) continue;
            std::memcpy(at, part->data, part->length);
            part->data = at;
            at += part->length;
        }
    }
    // The views point into bytes_, which keeps its place when the object is moved.
    const protocol::MessageView& view() const { return view_; }

  private:
    std::unique_ptr<char[]> bytes_;
    protocol::MessageView view_;
};

// Puts `more` among those in `waiting`, by number: the relay numbers messages in their order.
inline void merge_in_order(std::deque<OwnedMessage>& waiting, std::vector<OwnedMessage> more) {
    waiting.insert(waiting.begin(), std::make_move_iterator(more.begin()),
                   std::make_move_iterator(more.end()));
    auto earlier = [](const OwnedMessage& a, const OwnedMessage& b) {
        return a.view().head.number < b.view().head.number;
    };
    if (!std::is_sorted(waiting.begin(), waiting.end(), earlier))
        std::sort(waiting.begin(), waiting.end(), earlier);
}

}  // namespace outbox::kafka
