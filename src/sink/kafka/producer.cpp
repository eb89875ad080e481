// One librdkafka producer: messages in, delivery reports out. Runs in outbox-kafka.
#include "sink/kafka/producer.hpp"

#include <array>
#include <iterator>
#include <utility>

#include "fault_point.hpp"
#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"
#include "sink/common/uuid.hpp"

namespace outbox::kafka {

using protocol::MessageView;
using sink::text_of;

namespace {

// What travels through librdkafka in the pointer that it keeps for us: the message's number, and in
// the lowest bit whether the message asked for its partition.
static_assert(sizeof(void*) >= sizeof(uint64_t));

void* to_opaque(const protocol::MessageHead& head) {
    return reinterpret_cast<void*>(head.number << 1 | (head.partition != protocol::kNull ? 1 : 0));
}
uint64_t number_of(const void* opaque) {
    return reinterpret_cast<uint64_t>(opaque) >> 1;
}
bool asked_for_partition(const void* opaque) {
    return (reinterpret_cast<uint64_t>(opaque) & 1) != 0;
}

// Where the partitioner chose a partition that is gone, the topic is being made anew: that is not
// the message's fault.
rd_kafka_resp_err_t judged(rd_kafka_resp_err_t error, bool asked) {
    if (error == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION && !asked)
        return RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    return error;
}

// Brokers before 2.4 have no code of its own for a compacted topic's missing key, and say that the
// message is corrupt.
rd_kafka_resp_err_t judged(const rd_kafka_message_t& report) {
    if (report.err == RD_KAFKA_RESP_ERR_INVALID_MSG && report.key == nullptr)
        return RD_KAFKA_RESP_ERR_INVALID_RECORD;
    return judged(report.err, asked_for_partition(report._private));
}

// A batch that met a transient error, and whose successor in the partition then succeeded, is taken
// for delivered by librdkafka: the broker would have refused the successor otherwise. Not so a
// broker that does not know the producer in that partition (any more): the topic was deleted and
// made anew, or the broker is told to forget quickly. The gate waits for a first acknowledgement;
// what happens to the partition after that nobody tells. Such messages have no offset.
bool only_inferred(const rd_kafka_message_t& report) {
    return report.err == RD_KAFKA_RESP_ERR_NO_ERROR && report.offset == RD_KAFKA_OFFSET_INVALID;
}

// A client that says more than can be heard (statistics every millisecond) has to wait for the
// relay now and then.
constexpr int kMostEvents = 64;
constexpr auto kAskFor = std::chrono::seconds(2);
constexpr auto kAskEvery = std::chrono::milliseconds(50);
constexpr auto kKeepPartition = std::chrono::milliseconds(10);
constexpr auto kForgetEvery = std::chrono::minutes(1);

std::string_view view(const char* text) {
    return text == nullptr ? std::string_view() : text;
}

Headers headers_of(const MessageView& message) {
    constexpr std::string_view kId = "id";
    Headers headers(rd_kafka_headers_new(message.head.header_count + 1));
    if ((message.head.flags & protocol::kFlagHeadersComplete) == 0) {
        sink::UuidText id(message.head.id);
        rd_kafka_header_add(headers.get(), kId.data(), kId.size(), id.view().data(),
                            static_cast<ssize_t>(id.view().size()));
    }
    protocol::BodyReader reader(message.headers.data, message.headers.length);
    protocol::HeaderView header;
    while (protocol::next_header(&reader, &header))
        rd_kafka_header_add(headers.get(), header.name.data,
                            static_cast<ssize_t>(header.name.length), header.value.data,
                            static_cast<ssize_t>(header.value.length));
    if (reader.failed()) throw sink::ProtocolError("the headers of a message are damaged");
    return headers;
}

rd_kafka_vu_t memory(rd_kafka_vtype_t type, const protocol::Bytes& bytes) {
    rd_kafka_vu_t argument;
    argument.vtype = type;
    argument.u.mem.ptr = const_cast<char*>(bytes.data);
    argument.u.mem.size = bytes.length;
    return argument;
}

}  // namespace

Producer::Producer(Configuration configuration, bool null_key_is_empty_key, int wake_fd,
                   ProducerEvents& events)
    : events_(events), null_key_is_empty_key_(null_key_is_empty_key) {
    char text[512];
    client_.reset(rd_kafka_new(RD_KAFKA_PRODUCER, configuration.get(), text, sizeof(text)));
    if (!client_)
        throw sink::ConfigurationError(std::string("librdkafka cannot work with its settings: ") +
                                       text);
    static_cast<void>(configuration.release());  // the client owns it now
    queue_.reset(rd_kafka_queue_get_main(client_.get()));
    rd_kafka_set_log_queue(client_.get(), nullptr);
    // The descriptor is written to when the empty queue gets its first entry: what came in before
    // this call announces itself to nobody, and is fetched by hand.
    constexpr uint64_t kOne = 1;
    rd_kafka_queue_io_event_enable(queue_.get(), wake_fd, &kOne, sizeof(kOne));
    poll();
}

Producer::~Producer() = default;

uint32_t Producer::place(const MessageView& message) const {
    constexpr uint32_t kPartitions = 1 << 16;
    std::string_view name = text_of(message.topic);
    const Topic* of = known(name);
    if (of == nullptr) return static_cast<uint32_t>(NameHash()(name));
    // Before the count of partitions is known nobody can tell which keys lead to the one that
    // another message asks for.
    int32_t partition = -1;
    if (of->gate.partition_count() > 0) partition = partition_of(*of, message).value_or(-1);
    return of->number * kPartitions + static_cast<uint32_t>(partition) % kPartitions;
}

bool Producer::submit(const MessageView& message) {
    if (broken_) return false;
    Topic& to = topic(text_of(message.topic));
    last_topic_ = &to;
    if (to.backlog.empty()) return offer(to, message, nullptr);
    to.backlog.emplace_back(message);
    ++waiting_;
    return true;
}

Topic* Producer::known(std::string_view name) const {
    if (last_topic_ != nullptr && last_topic_->name == name) return last_topic_;
    auto found = topics_.find(name);
    return found != topics_.end() ? found->second.get() : nullptr;
}

Topic& Producer::topic(std::string_view name) {
    if (Topic* there = known(name)) return *there;
    auto made = std::make_unique<Topic>(std::string(name), static_cast<uint32_t>(topics_.size()),
                                        null_key_is_empty_key_);
    TopicConfiguration configuration(rd_kafka_default_topic_conf_dup(client_.get()));
    made->partitioner.attach_to(configuration.get());
    made->handle.reset(
        rd_kafka_topic_new(client_.get(), made->name.c_str(), configuration.release()));
    return *topics_.emplace(made->name, std::move(made)).first->second;
}

std::optional<int32_t> Producer::partition_of(const Topic& topic, const MessageView& message) {
    if (message.head.partition != protocol::kNull) return message.head.partition;
    if (topic.partitioner.chooses_freely(message.key.absent())) return std::nullopt;
    int32_t count = topic.gate.partition_count();
    return count == 0 ? -1 : Partitioner::by_key(message.key.data, message.key.length, count);
}

bool Producer::offer(Topic& topic, const MessageView& message, OwnedMessage* owned) {
    const protocol::MessageHead& head = message.head;
    const bool asked_for = head.partition != protocol::kNull;
    auto decision = topic.gate.decide(partition_of(topic, message), asked_for,
                                      static_cast<uint32_t>(random_()));
    if (decision.verdict == PartitionGate::Verdict::Wait) {
        if (owned == nullptr) ++waiting_;
        topic.gate.wait(decision.slot,
                        owned == nullptr ? OwnedMessage(message) : std::move(*owned));
        return true;
    }
    switch (produce(topic, message, decision.partition)) {
        case Produced::Taken:
            if (owned != nullptr) --waiting_;
            if (decision.verdict == PartitionGate::Verdict::GoAlone)
                topic.gate.alone(decision.slot, head.number);
            learn_partition_count(topic, message);
            return true;
        case Produced::Answered:
            if (owned != nullptr) --waiting_;
            return true;
        case Produced::TopicRefused:
            if (owned != nullptr) return false;
            topic.backlog.emplace_back(message);
            ++waiting_;
            backlogs_ = true;
            return true;
        case Produced::Full:
            break;
    }
    return false;
}

Producer::Produced Producer::produce(Topic& topic, const MessageView& message, int32_t partition) {
    if (!topic.handle) return refused(topic, message, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION);
    Headers headers = headers_of(message);
    std::array<rd_kafka_vu_t, 8> arguments;
    arguments[0].vtype = RD_KAFKA_VTYPE_RKT;
    arguments[0].u.rkt = topic.handle.get();
    arguments[1].vtype = RD_KAFKA_VTYPE_PARTITION;
    arguments[1].u.i32 = partition;
    arguments[2] = memory(RD_KAFKA_VTYPE_KEY, message.key);
    arguments[3] = memory(RD_KAFKA_VTYPE_VALUE, message.payload);
    arguments[4].vtype = RD_KAFKA_VTYPE_TIMESTAMP;
    arguments[4].u.i64 = message.head.timestamp;
    arguments[5].vtype = RD_KAFKA_VTYPE_HEADERS;
    arguments[5].u.headers = headers.get();
    arguments[6].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
    arguments[6].u.i = RD_KAFKA_MSG_F_COPY;
    arguments[7].vtype = RD_KAFKA_VTYPE_OPAQUE;
    arguments[7].u.ptr = to_opaque(message.head);
    OUTBOX_FAULT_POINT("kafka-before-producing");
    Error error(rd_kafka_produceva(client_.get(), arguments.data(), arguments.size()));
    if (error) return refused(topic, message, rd_kafka_error_code(error.get()));
    static_cast<void>(headers.release());  // the client owns them now
    if (in_client_++ == 0) answered_at_ = now_;
    ++topic.in_client;
    topic.asking = false;
    OUTBOX_FAULT_POINT("kafka-after-producing");
    return Produced::Taken;
}

Producer::Produced Producer::refused(Topic& topic, const MessageView& message,
                                     rd_kafka_resp_err_t error) {
    if (error == RD_KAFKA_RESP_ERR__FATAL || rd_kafka_fatal_error(client_.get(), nullptr, 0) != 0) {
        broken_ = true;
        return Produced::Full;
    }
    switch (error) {
        case RD_KAFKA_RESP_ERR__QUEUE_FULL:
            return Produced::Full;
        // librdkafka looked at the message itself.
        case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
        case RD_KAFKA_RESP_ERR__INVALID_ARG:
            fail(topic, message.head.number, error, view(rd_kafka_err2str(error)));
            return Produced::Answered;
        // It looked at metadata, which may be a minute old: the topic may have come into being, or
        // have got partitions or permissions since.
        default:
            refusal_ = error;
            if (!topic.asking) {
                topic.asking = true;
                topic.ask_until = now_ + kAskFor;
                ask_for_metadata(&topic);
            }
            return Produced::TopicRefused;
    }
}

// The partitioner has just seen the count that librdkafka goes by. Where it has changed, this
// message is the first one in its new partition.
void Producer::learn_partition_count(Topic& topic, const MessageView& message) {
    int32_t count = topic.partitioner.partition_count();
    if (count == topic.gate.partition_count()) return;
    auto homeless = topic.gate.resize(count);
    if (!homeless.empty()) wait_in_backlog(topic, std::move(homeless));
    if (message.head.partition == protocol::kNull &&
        !topic.partitioner.chooses_freely(message.key.absent()))
        topic.gate.alone(Partitioner::by_key(message.key.data, message.key.length, count),
                         message.head.number);
}

void Producer::wait_in_backlog(Topic& topic, std::vector<OwnedMessage> messages) {
    backlogs_ = true;
    merge_in_order(topic.backlog, std::move(messages));
}

void Producer::resume(Topic& topic) {
    while (!topic.backlog.empty() && !broken_) {
        OwnedMessage next = std::move(topic.backlog.front());
        topic.backlog.pop_front();
        if (offer(topic, next.view(), &next)) continue;
        if (topic.asking && now_ >= topic.ask_until) {
            --waiting_;
            const protocol::MessageHead& head = next.view().head;
            auto error = judged(refusal_, head.partition != protocol::kNull);
            fail(topic, head.number, error, view(rd_kafka_err2str(error)));
        } else {
            topic.backlog.push_front(std::move(next));
        }
        return;
    }
}

void Producer::fail(Topic& topic, uint64_t number, rd_kafka_resp_err_t error,
                    std::string_view text) {
    events_.on_failed(number, topic.name, error, text);
    topic.gate.failed(number);
    return_waiting(topic);
}

void Producer::return_waiting(Topic& topic) {
    topic.asking = false;
    auto waiting = topic.gate.take_waiting();
    waiting.insert(waiting.end(), std::make_move_iterator(topic.backlog.begin()),
                   std::make_move_iterator(topic.backlog.end()));
    topic.backlog.clear();
    waiting_ -= waiting.size();
    for (const OwnedMessage& message : waiting)
        events_.on_returned(message.view().head.number, topic.name);
}

// The answer updates what librdkafka knows about the topic; nobody waits for it here.
void Producer::ask_for_metadata(Topic* topic) {
    const rd_kafka_metadata_t* metadata = nullptr;
    rd_kafka_topic_t* only = nullptr;
    if (topic != nullptr) {
        topic->ask_again_at = now_ + kAskEvery;
        only = topic->handle.get();
        if (only == nullptr) return;
    }
    if (rd_kafka_metadata(client_.get(), 0, only, &metadata, 0) == RD_KAFKA_RESP_ERR_NO_ERROR)
        rd_kafka_metadata_destroy(metadata);
}

void Producer::touch_cluster() {
    ask_for_metadata(nullptr);
}

void Producer::poll() {
    now_ = Clock::now();
    events_left_ = true;
    for (int i = 0; i < kMostEvents && events_left_; ++i) {
        Event event{rd_kafka_queue_poll(queue_.get(), 0)};
        if (event)
            on_event(event.get());
        else
            events_left_ = false;
    }
    if (now_ >= keep_partition_until_ && last_topic_ != nullptr) {
        keep_partition_until_ = now_ + kKeepPartition;
        for (auto& [name, topic] : topics_)
            topic->partitioner.move_on();
    }
    if (now_ >= forget_at_) {
        forget_at_ = now_ + kForgetEvery;
        for (auto& [name, topic] : topics_)
            topic->gate.forget_idle(now_);
    }
    if (!backlogs_) return;
    backlogs_ = false;
    for (auto& [name, topic] : topics_) {
        if (topic->backlog.empty()) continue;
        if (topic->asking && now_ >= topic->ask_again_at) ask_for_metadata(topic.get());
        resume(*topic);
        if (!topic->backlog.empty()) backlogs_ = true;
    }
}

std::optional<Producer::Clock::time_point> Producer::wake_at() const {
    if (events_left_) return now_;
    if (!backlogs_) return std::nullopt;
    return now_ + kAskEvery;
}

void Producer::on_event(rd_kafka_event_t* event) {
    switch (rd_kafka_event_type(event)) {
        case RD_KAFKA_EVENT_DR:
            on_reports(event);
            break;
        case RD_KAFKA_EVENT_ERROR:
            if (rd_kafka_event_error_is_fatal(event) != 0)
                broken_ = true;
            else
                events_.on_error(rd_kafka_event_error(event),
                                 view(rd_kafka_event_error_string(event)));
            break;
        case RD_KAFKA_EVENT_LOG: {
            const char* facility = nullptr;
            const char* text = nullptr;
            int level = 0;
            if (rd_kafka_event_log(event, &facility, &text, &level) == 0)
                events_.on_log(level, view(facility), view(text));
            break;
        }
        case RD_KAFKA_EVENT_STATS:
            events_.on_statistics(view(rd_kafka_event_stats(event)));
            break;
        default:
            break;
    }
}

void Producer::on_reports(rd_kafka_event_t* event) {
    std::array<const rd_kafka_message_t*, 512> reports;
    while (size_t count = rd_kafka_event_message_array(event, reports.data(), reports.size())) {
        for (size_t i = 0; i < count; ++i) {
            const rd_kafka_message_t& report = *reports[i];
            const uint64_t number = number_of(report._private);
            --in_client_;
            answered_at_ = now_;
            if (last_topic_ == nullptr || last_topic_->handle.get() != report.rkt)
                last_topic_ = &topic(rd_kafka_topic_name(report.rkt));
            Topic& of = *last_topic_;
            --of.in_client;
            if (only_inferred(report)) doubt(of);
            if (of.doubted) {
                fail(of, number, RD_KAFKA_RESP_ERR__INCONSISTENT,
                     "returned: an acknowledgement did not come from the broker");
                continue;
            }
            if (report.err == RD_KAFKA_RESP_ERR_NO_ERROR) {
                events_.on_delivered(number);
                auto released = of.gate.delivered(number, report.partition, now_);
                if (!released.empty()) {
                    wait_in_backlog(of, std::move(released));
                    resume(of);
                }
                continue;
            }
            auto error = judged(report);
            std::string text(view(rd_kafka_err2str(error)));
            if (error == RD_KAFKA_RESP_ERR_INVALID_RECORD && report.key == nullptr)
                text += " (a compacted topic takes no message without a key)";
            fail(of, number, error, text);
        }
    }
}

// What has arrived may arrive a second time; what has not, arrives, and in its place.
void Producer::doubt(Topic& topic) {
    topic.doubted = true;
    if (broken_) return;
    broken_ = true;
    broken_words_ = "messages of topic \"" + topic.name +
                    "\" were acknowledged by what came behind them only; they are sent again";
}

rd_kafka_resp_err_t Producer::broken_error(std::string* text) const {
    if (!broken_words_.empty()) {
        *text = broken_words_;
        return RD_KAFKA_RESP_ERR__INCONSISTENT;
    }
    char words[512] = "";
    rd_kafka_resp_err_t error = rd_kafka_fatal_error(client_.get(), words, sizeof(words));
    *text = words;
    return error;
}

Producer::Clock::duration Producer::silent_for(std::string_view* topic) const {
    if (in_client_ == 0) return {};
    for (const auto& [name, one] : topics_)
        if (one->in_client > 0) *topic = name;
    return now_ - answered_at_;
}

void Producer::give_back(bool under_way) {
    for (auto& [name, topic] : topics_)
        return_waiting(*topic);
    // Never waits for librdkafka's threads: one of them may be asking a name server.
    int what = RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_NON_BLOCKING;
    if (under_way) what |= RD_KAFKA_PURGE_F_INFLIGHT;
    rd_kafka_purge(client_.get(), what);
}

Client Producer::release() {
    topics_.clear();
    last_topic_ = nullptr;
    rd_kafka_queue_io_event_enable(queue_.get(), -1, nullptr, 0);
    queue_.reset();
    return std::move(client_);
}

}  // namespace outbox::kafka
