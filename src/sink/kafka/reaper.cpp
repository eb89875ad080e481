// Destroys clients on a thread of its own: librdkafka's destructor waits for its threads, and one
// of them may be waiting for a name server. Runs in outbox-kafka.
#include "sink/kafka/reaper.hpp"

#include <thread>
#include <utility>

namespace outbox::kafka {

void Reaper::destroy(Client client) {
    ++*pending_;
    // Detached: the process may end, by _exit, before a client that hangs does.
    std::thread([doomed = client.release(), pending = pending_] {
        rd_kafka_destroy(doomed);
        --*pending;
    }).detach();
}

}  // namespace outbox::kafka
