// The rule that keeps order through failures: a topic that had a failure takes nothing until the
// relay reopens it. Runs in the sink programs.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "protocol/frames.hpp"

namespace outbox::sink {

class ClosedTopics {
  public:
    // Notes a failure; gives the kind under which it is to be reported. Only the first accusation
    // counts: what fails behind it, in the same batch for example, comes back like everything else
    // of a closed topic.
    protocol::FailureKind close(std::string_view topic, protocol::FailureKind kind) {
        using protocol::FailureKind;
        auto found = topics_.find(topic);
        if (found == topics_.end()) found = topics_.emplace(std::string(topic), false).first;
        if (kind == FailureKind::Returned || found->second) return FailureKind::Returned;
        found->second = true;
        return kind;
    }
    void reopen(std::string_view topic) {
        auto found = topics_.find(topic);
        if (found != topics_.end()) topics_.erase(found);
    }
    bool closed(std::string_view topic) const {
        return !topics_.empty() && topics_.find(topic) != topics_.end();
    }

  private:
    struct Hash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const {
            return std::hash<std::string_view>()(text);
        }
    };
    // The value: an accusation was reported.
    std::unordered_map<std::string, bool, Hash, std::equal_to<>> topics_;
};

}  // namespace outbox::sink
