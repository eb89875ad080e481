// What a properties file can ask of outbox-file, mostly for tests. Runs in outbox-file.
#pragma once

#include <sys/stat.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "protocol/frames.hpp"

namespace outbox::file {

struct Options {
    std::chrono::milliseconds delay{0};       // delay.ms: between two messages
    std::vector<std::string> refused_topics;  // refuse.topic, may be given several times
    std::vector<std::string> unknown_topics;  // unknown.topic, likewise
    std::vector<std::string> refused_texts;   // refuse.message.containing, likewise
    uint64_t die_after = 0;                   // die.after: abort() behind so many messages
    bool sync = true;                         // fsync=always|never

    // Throws ConfigurationError.
    static Options read(const std::string& file);

    bool refuses_topic(const protocol::MessageView& message) const;
    bool knows_topic(const protocol::MessageView& message) const;
    bool refuses_message(const protocol::MessageView& message) const;
};

// The options, read anew whenever the file has changed.
class OptionsFile {
  public:
    // Without a path the options are the default ones. Throws ConfigurationError.
    explicit OptionsFile(std::string path);

    // Looks at the file. Throws ConfigurationError once per change for the worse.
    void refresh();
    // As they were when they were last good.
    const Options& current() const { return options_; }

  private:
    bool changed();

    std::string path_;
    Options options_;
    struct stat seen_ {};
};

}  // namespace outbox::file
