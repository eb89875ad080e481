// Lets a text through once per interval. Runs in the sink programs.
#include "sink/common/repeat_filter.hpp"

#include <algorithm>
#include <iterator>

namespace outbox::sink {

std::optional<uint64_t> RepeatFilter::admit(int32_t code, std::string_view text,
                                            Clock::time_point now) {
    std::string shape;
    shape.reserve(text.size());
    std::copy_if(text.begin(), text.end(), std::back_inserter(shape),
                 [](char c) { return c < '0' || c > '9'; });
    std::pair key(code, std::move(shape));
    auto found = seen_.find(key);
    if (found == seen_.end()) {
        if (seen_.size() >= kMaxTexts)
            std::erase_if(seen_, [&](auto& entry) { return now - entry.second.at >= interval_; });
        if (seen_.size() >= kMaxTexts) seen_.clear();
        seen_.emplace(std::move(key), Seen{now, 0});
        return 0;
    }
    Seen& seen = found->second;
    if (now - seen.at < interval_) {
        ++seen.held_back;
        return std::nullopt;
    }
    seen.at = now;
    return std::exchange(seen.held_back, 0);
}

}  // namespace outbox::sink
