// Destroys clients on a thread of its own: librdkafka's destructor waits for its threads, and one
// of them may be waiting for a name server. Runs in outbox-kafka.
#pragma once

#include <atomic>
#include <memory>

#include "sink/kafka/handles.hpp"

namespace outbox::kafka {

class Reaper {
  public:
    void destroy(Client client);
    // Clients not gone yet.
    int pending() const { return pending_->load(); }

  private:
    std::shared_ptr<std::atomic<int>> pending_ = std::make_shared<std::atomic<int>>(0);
};

}  // namespace outbox::kafka
