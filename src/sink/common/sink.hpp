// What a sink for one kind of broker has to do; everything else is shared. Runs in the sink
// programs.
#pragma once

#include <optional>
#include <string>

#include "protocol/frames.hpp"
#include "sink/common/clock.hpp"
#include "sink/common/settings.hpp"

namespace outbox::sink {

// All calls come from one thread. Answers go to the Reports given at construction, during any call.
class Sink {
  public:
    enum class Submit {
        Taken,  // it will be answered
        Busy,   // not taken: offer the same message again after a poll()
    };

    virtual ~Sink() = default;

    // Throws ConfigurationError where these settings cannot work. Does not wait for a broker.
    virtual void open(const Settings& settings) = 0;
    // Messages of the same place are submitted together, in their order; of those that come in
    // together, one place after the other. So whatever is to keep an order has one place, from the
    // first of them to the last.
    virtual uint32_t place(const protocol::MessageView& /*message*/) const { return 0; }
    // The views are valid during the call only.
    virtual Submit submit(const protocol::MessageView& message) = 0;
    // A topic that had been closed takes messages again.
    virtual void reopen(std::string_view /*topic*/) {}
    // No message follows: see to it that everything is answered soon.
    virtual void drain() = 0;
    // Nothing that was taken is unanswered.
    virtual bool idle() const = 0;

    // Does what can be done now, without waiting.
    virtual void poll() = 0;
    // poll() is wanted when this descriptor is readable (-1: none), and at this time at the latest.
    virtual int wait_fd() const { return -1; }
    virtual std::optional<Clock::time_point> wake_at() const { return std::nullopt; }
};

}  // namespace outbox::sink
