// The sink that appends messages to a file. Runs in outbox-file.
#include "sink/file/file_sink.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "fault_point.hpp"
#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"
#include "sink/file/json_line.hpp"

namespace outbox::file {

using namespace std::chrono_literals;
using protocol::FailureKind;
using sink::text_of;

namespace {

constexpr auto kSyncEvery = 1s;
constexpr auto kRetryAfter = 1s;
constexpr size_t kMaxUnwritten = size_t{4} << 20;

// O_NONBLOCK matters for a fifo only: without a reader it is refused, not waited for.
sink::FileDescriptor open_for_append(const std::string& path) {
    return sink::FileDescriptor(::open(
        path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600));
}

// Whether the file's last line has no end: a sink that died while it wrote leaves such a one. What
// cannot be read is taken for one, as an empty line too many loses nothing.
bool ends_within_a_line(const std::string& path, const sink::FileDescriptor& file) {
    struct stat status {};
    if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0)
        return false;
    const sink::FileDescriptor reader(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    char last = 0;
    return ::pread(reader.get(), &last, 1, status.st_size - 1) != 1 || last != '\n';
}

}  // namespace

void FileSink::open(const sink::Settings& settings) {
    path_ = settings.text("path");
    if (path_.empty()) throw sink::ConfigurationError("outbox.file_path is not set");
    if (path_.front() != '/')
        throw sink::ConfigurationError("the file \"" + path_ +
                                       "\" is not named by an absolute path");
    options_.emplace(settings.text("config_file"));
    if (!open_file())
        throw sink::ConfigurationError("the file \"" + path_ + "\" cannot be opened: " +
                                       std::generic_category().message(errno));
}

bool FileSink::open_file() {
    file_ = open_for_append(path_);
    if (!file_.valid()) return false;
    within_a_line_ = ends_within_a_line(path_, file_);
    return true;
}

sink::Sink::Submit FileSink::submit(const protocol::MessageView& message) {
    if (text_.size() - written_ > kMaxUnwritten) return Submit::Busy;
    try {
        options_->refresh();
    } catch (const sink::ConfigurationError& error) {
        reports_.trouble(error.code(), error.what());
    }
    const Options& options = options_->current();
    const uint64_t number = message.head.number;
    if (options.refuses_topic(message)) {
        reports_.failed({number, text_of(message.topic), FailureKind::Topic, 0,
                         "the topic is refused by refuse.topic"});
        return Submit::Taken;
    }
    if (!options.knows_topic(message)) {
        reports_.failed({number, text_of(message.topic), FailureKind::UnknownTopic, 0,
                         "the topic is unknown by unknown.topic"});
        return Submit::Taken;
    }
    if (options.refuses_message(message)) {
        reports_.failed({number, text_of(message.topic), FailureKind::Message, 0,
                         "the message is refused by refuse.message.containing"});
        return Submit::Taken;
    }
    const auto now = Clock::now();
    due_ = std::max(due_, now) + options.delay;
    text_ += json_line(message);
    lines_.push_back({number, options.delay > 0ms ? due_ : now, text_.size()});
    return Submit::Taken;
}

void FileSink::drain() {
    draining_ = true;
}

void FileSink::poll() {
    const auto now = Clock::now();
    if (now < retry_at_) return;
    if (!lines_.empty()) {
        follow_rotation();
        if (!file_.valid() || !end_the_line_before() || !write_due(now)) return;
    }
    if (sync_wanted_ && ((draining_ && lines_.empty()) || now - synced_at_ >= kSyncEvery)) sync();
}

std::optional<sink::Clock::time_point> FileSink::wake_at() const {
    std::optional<Clock::time_point> when;
    if (!lines_.empty()) when = lines_.front().due;
    if (sync_wanted_) {
        auto sync_at = draining_ && lines_.empty() ? synced_at_ : synced_at_ + kSyncEvery;
        when = when ? std::min(*when, sync_at) : sync_at;
    }
    if (when) when = std::max(*when, retry_at_);
    return when;
}

// Whoever rotates logs renames the file: the next line then begins a new one. Never within a line.
void FileSink::follow_rotation() {
    if (file_.valid() && written_ > 0) return;
    struct stat by_name {};
    struct stat opened {};
    if (file_.valid() && ::stat(path_.c_str(), &by_name) == 0 &&
        ::fstat(file_.get(), &opened) == 0 && by_name.st_ino == opened.st_ino &&
        by_name.st_dev == opened.st_dev)
        return;
    if (sync_wanted_ && file_.valid() && !sync()) return;
    if (!open_file()) trouble(errno, "cannot be opened");
}

// The message of a line without end was never acknowledged and comes again, whole. Its piece stays:
// were it cut off, whoever has read it already would go on in the middle of what follows.
bool FileSink::end_the_line_before() {
    if (!within_a_line_) return true;
    if (::write(file_.get(), "\n", 1) == 1) {
        within_a_line_ = false;
        return true;
    }
    trouble(errno, "cannot be written");
    return false;
}

// All lines that are due; false where the file system does not take them.
bool FileSink::write_due(Clock::time_point now) {
    size_t end = 0;
    for (const Line& line : lines_) {
        if (line.due > now) break;
        end = line.end;
    }
    while (written_ < end) {
        OUTBOX_FAULT_POINT("file-before-writing");
        ssize_t wrote = ::write(file_.get(), text_.data() + written_, end - written_);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) {
            trouble(errno, "cannot be written");
            break;
        }
        written_ += static_cast<size_t>(wrote);
    }
    OUTBOX_FAULT_POINT("file-after-writing");
    acknowledge();
    return written_ >= end || written_ == 0;
}

void FileSink::acknowledge() {
    size_t complete = 0;
    const Options& options = options_->current();
    while (!lines_.empty() && lines_.front().end <= written_) {
        complete = lines_.front().end;
        reports_.delivered(lines_.front().number);
        lines_.pop_front();
        if (++acknowledged_ == options.die_after) std::abort();
    }
    if (complete == 0) return;
    sync_wanted_ = options.sync;
    text_.erase(0, complete);
    written_ -= complete;
    for (Line& line : lines_)
        line.end -= complete;
}

bool FileSink::sync() {
    // EINVAL: it is no file that could be synchronized.
    if (::fdatasync(file_.get()) != 0 && errno != EINVAL) {
        trouble(errno, "cannot be synchronized");
        return false;
    }
    synced_at_ = Clock::now();
    sync_wanted_ = false;
    return true;
}

void FileSink::trouble(int error, const char* what) {
    reports_.trouble(error, "the file \"" + path_ + "\" " + what + ": " +
                                std::generic_category().message(error));
    retry_at_ = Clock::now() + kRetryAfter;
}

}  // namespace outbox::file
