// The sink for Kafka: two producers, and what happens when one breaks. Runs in outbox-kafka.
#include "sink/kafka/kafka_sink.hpp"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "fault_point.hpp"
#include "sink/common/errors.hpp"
#include "sink/kafka/error_kind.hpp"

namespace outbox::kafka {

using namespace std::chrono_literals;
using protocol::FailureKind;

namespace {

// The answers to what is under way come in milliseconds, or not before the connection is given up.
constexpr auto kAwaitAnswers = 5s;
constexpr auto kAwaitPurge = 3s;
// Producers that were replaced and whose threads still wait for something.
constexpr int kMaxDoomed = 3;
constexpr auto kGiveBackEvery = 100ms;
// Between one broken producer and the next, where nothing was delivered in between.
constexpr auto kFirstDelay = 500ms;
constexpr auto kLongestDelay = 30s;
constexpr auto kAloneIdle = 60s;
// The client's last word repeats a part of what the server said; brokers of Kafka 4 check that, and
// speak of invalid credentials.
constexpr int kFirstWithScram = 0x020601ff;
constexpr const char* kScramIsBroken =
    " cannot use SCRAM with Kafka 4 whatever the password is: 2.6.1 is the first that can";
constexpr const char* kAllDown = " (all brokers are down)";
// Longer than any broker takes to store a batch, shorter than an operator's patience.
constexpr auto kSilence = 15s;
constexpr auto kNobody = 4s;
// Without messages nothing would show that a trouble has passed.
constexpr auto kTouchEvery = 10s;
// So many statistics, five seconds apart, that show no activity: time to hear what became of the
// last messages, and of brokers that went.
constexpr int kQuiet = 6;
// How soon after it goes on a process hears of all that has happened while it was stopped.
constexpr auto kNewsFromRest = 2s;

FailureKind failure_kind(rd_kafka_resp_err_t error) {
    switch (kind_of(error)) {
        case ErrorKind::UnknownTopic:
            return FailureKind::UnknownTopic;
        case ErrorKind::Topic:
            return FailureKind::Topic;
        case ErrorKind::Message:
            return FailureKind::Message;
        default:
            return FailureKind::Returned;
    }
}

bool purged(rd_kafka_resp_err_t error) {
    return error == RD_KAFKA_RESP_ERR__PURGE_QUEUE || error == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;
}

// "... (after 3ms in state CONNECT, 4 identical error(s) suppressed)"
std::string_view without_suffix(std::string_view text) {
    return text.substr(0, text.find(" (after "));
}

template <typename Time>
void sooner(std::optional<Time>& when, std::optional<Time> other) {
    if (other && (!when || *other < *when)) when = other;
}

}  // namespace

class KafkaSink::Listener final : public ProducerEvents {
  public:
    Listener(KafkaSink& sink, bool alone) : sink_(sink), alone_(alone) {}

    void on_delivered(uint64_t number) override { sink_.delivered(number); }
    void on_failed(uint64_t number, std::string_view topic, rd_kafka_resp_err_t error,
                   std::string_view text) override {
        sink_.failed(alone_, number, topic, error, text);
    }
    void on_returned(uint64_t number, std::string_view topic) override {
        sink_.failed(alone_, number, topic, RD_KAFKA_RESP_ERR__PURGE_QUEUE, {});
    }
    void on_error(rd_kafka_resp_err_t error, std::string_view text) override {
        sink_.error(error, text);
    }
    void on_log(int level, std::string_view facility, std::string_view text) override {
        sink_.log(level, facility, text);
    }
    void on_statistics(std::string_view json) override { sink_.statistics(json); }

  private:
    KafkaSink& sink_;
    bool alone_;
};

KafkaSink::KafkaSink(sink::Reports& reports)
    : reports_(reports),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      stream_listener_(std::make_unique<Listener>(*this, false)),
      alone_listener_(std::make_unique<Listener>(*this, true)) {
    if (!wake_.valid()) throw std::system_error(errno, std::generic_category(), "eventfd");
}

KafkaSink::~KafkaSink() = default;

std::string KafkaSink::library() {
    return std::string("librdkafka ") + rd_kafka_version_str();
}

void KafkaSink::open(const sink::Settings& settings) {
    configuration_.emplace(settings);
    stream_ = make_stream();
}

std::unique_ptr<Producer> KafkaSink::make_stream() {
    return std::make_unique<Producer>(configuration_->stream(),
                                      configuration_->null_key_is_empty_key(), wake_.get(),
                                      *stream_listener_);
}

uint32_t KafkaSink::place(const protocol::MessageView& message) const {
    return stream_ ? stream_->place(message) : 0;
}

sink::Sink::Submit KafkaSink::submit(const protocol::MessageView& message) {
    stir();
    if ((message.head.flags & protocol::kFlagAlone) != 0) {
        if (!alone_)
            alone_ = std::make_unique<Producer>(configuration_->alone(),
                                                configuration_->null_key_is_empty_key(),
                                                wake_.get(), *alone_listener_);
        alone_used_at_ = now_;
        return alone_->submit(message) ? Submit::Taken : Submit::Busy;
    }
    if (state_ != Stream::Running) return Submit::Busy;
    return stream_->submit(message) ? Submit::Taken : Submit::Busy;
}

bool KafkaSink::idle() const {
    return (!stream_ || stream_->outstanding() == 0) && (!alone_ || alone_->outstanding() == 0);
}

void KafkaSink::poll() {
    eventfd_t wakes;
    eventfd_read(wake_.get(), &wakes);
    now_ = Clock::now();
    if (stream_) stream_->poll();
    if (alone_) alone_->poll();
    tend_stream();
    tend_alone();
    if (in_trouble_ && stream_ && now_ >= touch_at_) {
        touch_at_ = now_ + kTouchEvery;
        stream_->touch_cluster();
    }
}

std::optional<sink::Clock::time_point> KafkaSink::wake_at() const {
    std::optional<Clock::time_point> when;
    if (stream_) sooner(when, stream_->wake_at());
    if (alone_) {
        sooner(when, alone_->wake_at());
        sooner(when, std::optional(alone_->broken() ? now_ + kGiveBackEvery
                                                    : alone_used_at_ + kAloneIdle));
    }
    if (in_trouble_) sooner(when, std::optional(touch_at_));
    if (state_ == Stream::Emptying) sooner(when, std::optional(give_back_at_));
    if (state_ == Stream::Absent) sooner(when, std::optional(rebuild_at_));
    if (stream_ && stream_->broken() && state_ == Stream::Running)
        sooner(when, std::optional(now_));
    return when;
}

void KafkaSink::tend_stream() {
    if (state_ == Stream::Running && stream_->broken()) begin_emptying();
    if (state_ == Stream::Emptying) tend_emptying();
    if (state_ == Stream::Absent) tend_absence();
}

void KafkaSink::begin_emptying() {
    std::string words;
    rd_kafka_resp_err_t code = stream_->broken_error(&words);
    trouble(code, "the producer had to be replaced: " + words);
    state_ = Stream::Emptying;
    broken_since_ = now_;
    give_back_at_ = now_;
}

// Answers to what is under way are waited for: a message that the broker has just taken would
// otherwise be sent a second time.
void KafkaSink::tend_emptying() {
    if (now_ >= give_back_at_) {
        give_back_at_ = now_ + kGiveBackEvery;
        // Again and again, because what comes back from a broker for a retry is queued anew.
        stream_->give_back(now_ - broken_since_ > kAwaitAnswers);
        stream_->poll();
    }
    if (stream_->outstanding() > 0) {
        if (now_ - broken_since_ > kAwaitAnswers + kAwaitPurge)
            throw sink::RestartNeeded("the broken producer does not let go of its messages");
        return;
    }
    reaper_.destroy(stream_->release());
    stream_.reset();
    // Several messages in one batch, and the batch was too large: each of them may be small.
    if (too_large_ > 1) configuration_->shrink_batches();
    too_large_ = 0;
    state_ = Stream::Absent;
    rebuild_at_ = now_ + rebuild_delay_;
    rebuild_delay_ = std::clamp<Clock::duration>(rebuild_delay_ * 2, kFirstDelay, kLongestDelay);
}

// The old one need not be gone: none of its messages is unanswered, so it sends nothing.
void KafkaSink::tend_absence() {
    if (now_ < rebuild_at_) return;
    if (reaper_.pending() > kMaxDoomed)
        throw sink::RestartNeeded("producers that were replaced do not end");
    stream_ = make_stream();
    state_ = Stream::Running;
}

void KafkaSink::tend_alone() {
    if (!alone_) return;
    if (alone_->broken()) {
        if (alone_->outstanding() > 0) alone_->give_back(true);
    } else if (now_ - alone_used_at_ < kAloneIdle) {
        return;
    }
    if (alone_->outstanding() > 0) return;
    reaper_.destroy(alone_->release());
    alone_.reset();
}

void KafkaSink::delivered(uint64_t number) {
    in_trouble_ = closed_while_resting_ = false;
    rebuild_delay_ = {};
    OUTBOX_FAULT_POINT("kafka-after-delivery");
    reports_.delivered(number);
}

void KafkaSink::failed(bool alone, uint64_t number, std::string_view topic,
                       rd_kafka_resp_err_t error, std::string_view text) {
    if (error == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && !alone) ++too_large_;
    std::string words(text);
    FailureKind kind = failure_kind(error);
    if (purged(error)) {
        words = "returned: the producer was replaced, or an earlier message of the topic failed";
        // What breaks a producer that holds this message only may well do so again.
        if (alone && alone_ && alone_->broken()) {
            kind = FailureKind::Topic;
            error = alone_->broken_error(&words);
        }
    }
    reports_.failed({number, topic, kind, error, configuration_->scrubber()(words)});
}

void KafkaSink::error(rd_kafka_resp_err_t error, std::string_view text) {
    std::string words(without_suffix(text));
    switch (error) {
        case RD_KAFKA_RESP_ERR__TRANSPORT:
            // One broker of several: its partitions wait, the others go on.
            last_words_ = words;
            // A connection that is closed says no reason, the attempt to make another one does.
            if (!in_trouble_ || !unexplained_) return;
            words += kAllDown;
            break;
        case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
            if (!in_trouble_ && has_rested()) {
                last_words_.clear();
                closed_while_resting_ = true;
                return;
            }
            if (in_trouble_ && last_words_.empty()) return;  // it was said why
            if (last_words_.empty()) {
                trouble(error, words);
                unexplained_ = true;
                return;
            }
            words = last_words_ + kAllDown;
            break;
        case RD_KAFKA_RESP_ERR__AUTHENTICATION:
        case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
            words = "authentication failed: " + words;
            if (configuration_->uses_scram() && rd_kafka_version() < kFirstWithScram)
                words += std::string("; librdkafka ") + rd_kafka_version_str() + kScramIsBroken;
            break;
        case RD_KAFKA_RESP_ERR__SSL:
            words = "TLS failed: " + words;
            break;
        default:
            break;
    }
    last_words_.clear();
    trouble(error, words);
}

void KafkaSink::trouble(int32_t code, std::string_view text) {
    unexplained_ = closed_while_resting_ = false;
    stir();
    if (!in_trouble_) touch_at_ = now_ + kTouchEvery;
    in_trouble_ = true;
    reports_.trouble(code, configuration_->scrubber()(text));
}

void KafkaSink::log(int level, std::string_view facility, std::string_view text) {
    // That gapless is experimental is known; it is set by us.
    if (facility == "CONFWARN" && text.find("enable.gapless.guarantee") != std::string_view::npos)
        return;
    std::string line("librdkafka: ");
    // These quote what servers answered and commands that were run.
    if (facility.starts_with("SASL") || facility.starts_with("OAUTH"))
        line.append(facility).append(": (not shown, it may hold a secret)");
    else
        line.append(configuration_->scrubber()(without_suffix(text)));
    auto held_back = log_filter_.admit(level, line, now_);
    if (!held_back) return;
    if (*held_back > 0)
        line += " (" + std::to_string(*held_back) + " more of this kind since the last one)";
    reports_.log(static_cast<protocol::LogLevel>(std::clamp(level, 3, 7)), line);
}

// Brokers that are there may still acknowledge nothing.
void KafkaSink::look_for_silence() {
    std::string_view topic;
    auto silence = stream_->silent_for(&topic);
    if (silence >= kSilence) {
        auto seconds = std::chrono::duration_cast<std::chrono::seconds>(silence).count();
        trouble(RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                "the brokers are connected, but have acknowledged nothing for " +
                    std::to_string(seconds) + " s, of topic \"" + std::string(topic) +
                    "\" for one: are there enough replicas in sync?");
    } else if (in_trouble_) {
        in_trouble_ = false;
        reports_.recovered();
    }
}

// No connection, and no error either: a name server that does not answer, for one.
void KafkaSink::look_for_nobody() {
    std::string_view topic;
    if (in_trouble_ || stream_->silent_for(&topic) < kNobody) return;
    trouble(RD_KAFKA_RESP_ERR__TRANSPORT,
            "no broker has answered yet: their names may not resolve, or their hosts stay silent");
}

// Credentials that are renewed by a timer would be too old for the first connection after a rest.
bool KafkaSink::may_rest(const Statistics& summary) const {
    return state_ == Stream::Running && !alone_ && reaper_.pending() == 0 && !in_trouble_ &&
           summary.connected && !summary.asking && !configuration_->renews_credentials();
}

// Connections that were closed meanwhile: some broker has taken one again, or none has.
void KafkaSink::look_after_rest(const Statistics& summary) {
    if (!closed_while_resting_) return;
    if (summary.connected) {
        closed_while_resting_ = false;
    } else if (!last_words_.empty()) {
        trouble(RD_KAFKA_RESP_ERR__TRANSPORT, last_words_ + kAllDown);
        last_words_.clear();
    }
}

// Something happens.
void KafkaSink::stir() {
    if (quiet_ >= kQuiet) woken_at_ = now_;
    quiet_ = 0;
}

// Or is about to, or has just stirred.
bool KafkaSink::has_rested() const {
    return quiet_ >= kQuiet || now_ - woken_at_ < kNewsFromRest;
}

void KafkaSink::statistics(std::string_view json) {
    if (!stream_) return;  // of one that is being made
    auto summary = summarize(json);
    if (!summary) return;
    look_after_rest(*summary);
    if (state_ == Stream::Running && summary->connected) look_for_silence();
    if (state_ == Stream::Running && !summary->connected) look_for_nobody();
    // An idle sink does not wake the relay, but once: to be stopped.
    if (summary->activity == last_activity_) {
        if (quiet_ < kQuiet) ++quiet_;
        if (quiet_ == kQuiet && may_rest(*summary)) reports_.idle();
        return;
    }
    stir();
    last_activity_ = summary->activity;
    reports_.statistics(summary->json);
}

}  // namespace outbox::kafka
