// Keeps what the properties file holds out of texts that leave the process. Runs in outbox-kafka.
#include "sink/kafka/scrubber.hpp"

#include <algorithm>

namespace outbox::kafka {

void Scrubber::hide(std::string_view value) {
    if (value.size() < kShortest) return;
    hidden_.emplace_back(value);
    // A value that contains another one goes first.
    std::sort(hidden_.begin(), hidden_.end(),
              [](const auto& a, const auto& b) { return a.size() > b.size(); });
}

std::string Scrubber::operator()(std::string_view text) const {
    constexpr std::string_view kMask = "***";
    std::string clean(text);
    for (const std::string& value : hidden_) {
        for (size_t at = 0; (at = clean.find(value, at)) != std::string::npos; at += kMask.size())
            clean.replace(at, value.size(), kMask);
    }
    return clean;
}

}  // namespace outbox::kafka
