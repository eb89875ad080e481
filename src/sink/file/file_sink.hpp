// The sink that appends messages to a file. Runs in outbox-file.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "sink/common/file_descriptor.hpp"
#include "sink/common/reports.hpp"
#include "sink/common/sink.hpp"
#include "sink/file/options.hpp"

namespace outbox::file {

class FileSink final : public sink::Sink {
  public:
    explicit FileSink(sink::Reports& reports) : reports_(reports) {}

    void open(const sink::Settings& settings) override;
    Submit submit(const protocol::MessageView& message) override;
    void drain() override;
    bool idle() const override { return lines_.empty() && !sync_wanted_; }
    void poll() override;
    std::optional<sink::Clock::time_point> wake_at() const override;

  private:
    using Clock = sink::Clock;

    struct Line {
        uint64_t number;
        Clock::time_point due;
        size_t end;  // of the line in text_
    };

    bool open_file();  // false: see errno
    void follow_rotation();
    bool end_the_line_before();
    bool write_due(Clock::time_point now);
    void acknowledge();
    bool sync();
    void trouble(int error, const char* what);

    sink::Reports& reports_;
    std::string path_;
    std::optional<OptionsFile> options_;
    sink::FileDescriptor file_;
    bool within_a_line_ = false;  // the file ends so, by the hand of somebody before us
    std::string
        text_;  // lines that are not all written, and of the first one perhaps only the rest
    size_t written_ = 0;
    std::deque<Line> lines_;  // without an answer, in order
    uint64_t acknowledged_ = 0;
    bool draining_ = false;
    bool sync_wanted_ = false;
    Clock::time_point synced_at_{};
    Clock::time_point due_{};       // of the last line
    Clock::time_point retry_at_{};  // after an error of the file system
};

}  // namespace outbox::file
