// The life of a relay's sink: started, ended, dropped, drained. Relay process.
#pragma once

#include "worker/relay_state.hpp"

namespace outbox {

// Has the relay woken by the sink that it has, if any.
void watch_sink(Relay* relay);

// Starts a sink with the settings of now; where that fails, notes when to try again.
void start_sink(Relay* relay);

// The sink has closed its end; `expected`: it was told to.
void sink_ended(Relay* relay, bool expected);

// The sink broke the protocol: nothing more of it is believed. What it had answered before that
// counts, the rest is sent again.
void drop_sink(Relay* relay);

// Lets the sink finish: waits for what is in flight until it is answered or the time is over.
void drain_sink(Relay* relay, int most_ms);

// Sleeps, as EventWait::wait.
bool wait_for_events(Relay* relay, long timeout_ms);

}  // namespace outbox
