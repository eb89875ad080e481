// What the relay knows about each topic it has sent to: whether it takes messages. Relay process.
#include "worker/topics.hpp"

#include "protocol/reports.hpp"

namespace outbox {

namespace {

struct NameEntry {
    char name[kTopicLength + 1];
    uint32 index;
};

}  // namespace

void Topics::init() {
    context_ = CurrentMemoryContext;
    HASHCTL control = {};
    control.keysize = sizeof(NameEntry::name);
    control.entrysize = sizeof(NameEntry);
    control.hcxt = context_;
    names_ = hash_create("outbox topics", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

uint32 Topics::index_of(const char* name, uint32 length) {
    // Most messages go to the topic of the one before.
    if (last_ < count_ && strncmp(list_[last_].name, name, length) == 0 &&
        list_[last_].name[length] == '\0') {
        return last_;
    }
    char key[kTopicLength + 1] = {};
    memcpy(key, name, Min(length, static_cast<uint32>(kTopicLength)));
    bool found;
    NameEntry* entry = static_cast<NameEntry*>(hash_search(names_, key, HASH_ENTER, &found));
    if (!found) {
        if (count_ == capacity_) {
            capacity_ = Max(16u, capacity_ * 2);
            Size bytes = sizeof(Topic) * capacity_;
            list_ = static_cast<Topic*>(list_ ? repalloc_huge(list_, bytes)
                                              : MemoryContextAllocHuge(context_, bytes));
        }
        entry->index = count_++;
        Topic fresh = {};
        memcpy(fresh.name, key, sizeof(key));
        list_[entry->index] = fresh;
    }
    last_ = entry->index;
    return last_;
}

void Topics::forget_troubles() {
    for (uint32 i = 0; i < count_; ++i) {
        Topic& topic = list_[i];
        set_state(&topic, TopicState::Open);
        topic.closed_at_sink = topic.topic_trouble = topic.unknown = topic.has_parked = false;
        topic.rewind = topic.wait_for_answers = false;
        topic.returned_count = topic.fruitless = 0;
        topic.drained_to = topic.to_park = 0;
        topic.backoff.reset();
    }
}

void Topics::came_back(Topic* topic, int64 position, bool suspect) {
    if (topic->returned_count == topic->returned_capacity) {
        int room = Max(16, topic->returned_capacity * 2);
        Size bytes = sizeof(ReturnedMessage) * static_cast<Size>(room);
        topic->returned = static_cast<ReturnedMessage*>(
            topic->returned ? repalloc_huge(topic->returned, bytes)
                            : MemoryContextAllocHuge(context_, bytes));
        topic->returned_capacity = room;
    }
    topic->returned[topic->returned_count++] = ReturnedMessage{position, suspect};
}

void Topics::note_failure(Topic* topic, protocol::FailureKind kind, int32 code, const char* text,
                          size_t length) {
    set_state(topic, TopicState::Closed);
    topic->closed_at_sink = true;
    bool unknown = kind == protocol::FailureKind::UnknownTopic;
    if (unknown || kind == protocol::FailureKind::Topic) topic->topic_trouble = true;
    if (unknown) topic->unknown = true;
    if (kind == protocol::FailureKind::Returned) return;
    topic->error_code = code;
    protocol::copy_plain({text, static_cast<uint32>(length)}, topic->error, sizeof(topic->error));
}

void Topics::set_state(Topic* topic, TopicState state) {
    if (topic->state == TopicState::Open && state != TopicState::Open) ++troubled_;
    if (topic->state != TopicState::Open && state == TopicState::Open) --troubled_;
    topic->state = state;
}

}  // namespace outbox
