// The clock of timers and rate limits; passed in as values so that tests need not wait. Runs in the
// sink programs.
#pragma once

#include <chrono>

namespace outbox::sink {

using Clock = std::chrono::steady_clock;

}  // namespace outbox::sink
