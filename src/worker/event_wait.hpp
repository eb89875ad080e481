// What a relay sleeps on: its latch, and the socket of its sink. Relay process.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

class EventWait {
  public:
    // From now on this socket; -1: none. The one watched so far may be closed already.
    void watch(int socket);

    // Sleeps until the latch is set, the socket can be read (`writable`: or written), or the time
    // (-1: none) is over. Returns whether the latch was set: something was committed, or somebody
    // wants something. The end of the postmaster ends the process.
    bool wait(long timeout_ms, bool writable);

    // Sleeps until the latch is set or the time is over, whatever the socket does. Returns whether
    // the latch was set.
    static bool wait_for_latch(long timeout_ms);

  private:
    WaitEventSet* set_ = nullptr;
    int socket_ = -1;
    bool writable_ = false;
};

}  // namespace outbox
