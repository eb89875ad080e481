// Keeps what the properties file holds out of texts that leave the process. Runs in outbox-kafka.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace outbox::kafka {

class Scrubber {
  public:
    // Values shorter than this are switches and numbers, which would garble any text.
    static constexpr size_t kShortest = 4;

    void hide(std::string_view value);
    std::string operator()(std::string_view text) const;

  private:
    std::vector<std::string> hidden_;
};

}  // namespace outbox::kafka
