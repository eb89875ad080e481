// From the relay's settings and the properties file to librdkafka's configuration. Runs in
// outbox-kafka.
#pragma once

#include <string>
#include <vector>

#include "sink/common/properties.hpp"
#include "sink/common/settings.hpp"
#include "sink/kafka/handles.hpp"
#include "sink/kafka/scrubber.hpp"

namespace outbox::kafka {

class ClientConfiguration {
  public:
    // Throws ConfigurationError: every refusal comes here, before a client exists.
    explicit ClientConfiguration(const sink::Settings& settings);

    // The producer of the stream of messages.
    Configuration stream() const;
    // The producer of messages that travel alone: an error concerns that message and no other, and
    // a gap behind it is what the relay wants.
    Configuration alone() const;

    // A topic answered that a batch of several messages is too large: smaller ones from now on.
    // False when they are as small as it makes sense.
    bool shrink_batches();

    // partitioner=murmur2: a message without a key goes where an empty key goes.
    bool null_key_is_empty_key() const { return null_key_is_empty_key_; }

    bool uses_scram() const { return uses_scram_; }

    // The client gets new credentials from time to time: a token, a Kerberos ticket.
    bool renews_credentials() const { return renews_credentials_; }

    const Scrubber& scrubber() const { return scrubber_; }

  private:
    Configuration common() const;
    Configuration with_file(Configuration configuration) const;

    std::string database_;
    std::string bootstrap_servers_;
    std::string config_file_;
    int64_t max_message_bytes_;
    int64_t max_in_flight_messages_;
    int64_t max_in_flight_bytes_;
    int64_t batch_bytes_ = 0;  // 0: as configured
    bool null_key_is_empty_key_ = false;
    bool uses_scram_ = false;
    bool renews_credentials_ = false;
    std::vector<sink::Property> properties_;
    Scrubber scrubber_;
};

}  // namespace outbox::kafka
