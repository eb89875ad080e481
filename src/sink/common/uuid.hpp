// A message's id as text. Runs in the sink programs.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace outbox::sink {

// The 36 characters of the usual form, lower case.
class UuidText {
  public:
    explicit UuidText(const uint8_t (&id)[16]) {
        constexpr char kDigits[] = "0123456789abcdef";
        size_t at = 0;
        for (size_t i = 0; i < 16; ++i) {
            if (i == 4 || i == 6 || i == 8 || i == 10) text_[at++] = '-';
            text_[at++] = kDigits[id[i] >> 4];
            text_[at++] = kDigits[id[i] & 15];
        }
    }
    std::string_view view() const { return {text_.data(), text_.size()}; }

  private:
    std::array<char, 36> text_;
};

}  // namespace outbox::sink
