// The clock of pauses, deadlines and ages: it goes evenly on, whatever is done to the time of day.
// Workers and sessions.
//
// Somebody sets a wrong clock right, a virtual machine wakes up: a deadline that was taken from the
// time of day would then be an hour away, or long over. What is stored or shown is a time of day;
// what is waited for is a moment on this clock. Its values are microseconds since the machine
// started, the same for all processes, and mean nothing to anybody else.
#pragma once

#include <time.h>

#include "pg/postgres.hpp"

namespace outbox {

inline TimestampTz timer_now() {
    timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<TimestampTz>(now.tv_sec) * USECS_PER_SEC + now.tv_nsec / 1000;
}

}  // namespace outbox
