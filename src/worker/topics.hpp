// What the relay knows about each topic it has sent to: whether it takes messages. Relay process.
//
//   Open ---a message fails---> Closed ---everything in flight is answered---> settle
//   (recovery.cpp):
//        its messages that came back move to the table `deferred`, and so do new ones from now on
//     trouble with the topic   -> Waiting --pause over--> Probing (the first one, alone)
//     --delivered--> Draining
//                                    ^------------------failed--------------------'
//     all came back, again and again, without a reason -> as trouble with the topic
//     trouble with one message -> Draining; the suspects go alone, each after an answer for the one
//     before
//   Draining ---nothing deferred is left---> Open
//
// The sink closes a topic by itself with the first failure (protocol/frames.hpp), so nothing
// overtakes what failed; settle opens it again.
#pragma once

#include "pg/postgres.hpp"
#include "protocol/frames.hpp"
#include "worker/backoff.hpp"

namespace outbox {

enum class TopicState : uint8_t { Open, Closed, Waiting, Probing, Draining };

// A message that came back, with what was said of it.
struct ReturnedMessage {
    int64 position;
    bool suspect;  // refused, but perhaps for the sake of another one in its batch
};

constexpr int kTopicLength = 249;
constexpr int kTopicErrorLength = 200;

struct Topic {
    char name[kTopicLength + 1];
    TopicState state;
    bool closed_at_sink;    // wants a Reopen
    bool topic_trouble;     // since it was closed, something failed because of the topic
    bool unknown;           // and that is that the broker does not know it
    bool kept_back;         // the log says that its messages are kept back
    bool has_parked;        // keys must be compared with the parked ones
    bool rewind;            // a row was deferred behind drained_to: start over when all is answered
    bool wait_for_answers;  // the next one goes alone: not before everything in flight is answered
    int in_flight;
    int fruitless;  // how often in a row all of it came back, without a word about the reason
    int32 error_code;
    char error[kTopicErrorLength];
    int64 drained_to;  // deferred messages up to here were sent in this connection
    int64 to_park;     // position that was refused when sent alone; 0: none
    TimestampTz next_try;
    Backoff backoff{500, 30 * 1000};
    ReturnedMessage* returned;
    int returned_count;
    int returned_capacity;
};

class Topics {
  public:
    // Memory from the current context, for good.
    void init();

    // Index of the topic with this name, which is made if it is new.
    uint32 index_of(const char* name, uint32 length);
    Topic& at(uint32 index) { return list_[index]; }
    const Topic& at(uint32 index) const { return list_[index]; }
    uint32 count() const { return count_; }

    // Calls every topic Open: before the state is loaded anew.
    void forget_troubles();

    // A message of the topic came back undelivered. `position` is 0 for one that lies in `deferred`
    // anyway.
    void came_back(Topic* topic, int64 position, bool suspect);
    void note_failure(Topic* topic, protocol::FailureKind kind, int32 code, const char* text,
                      size_t length);

    // How many are not Open; kept up to date by set_state.
    void set_state(Topic* topic, TopicState state);
    int troubled() const { return troubled_; }

  private:
    MemoryContext context_ = nullptr;
    HTAB* names_ = nullptr;
    Topic* list_ = nullptr;
    uint32 count_ = 0;
    uint32 capacity_ = 0;
    uint32 last_ = 0;
    int troubled_ = 0;
};

}  // namespace outbox
