// What a properties file can ask of outbox-file, mostly for tests. Runs in outbox-file.
#include "sink/file/options.hpp"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"
#include "sink/common/properties.hpp"

namespace outbox::file {

using sink::ConfigurationError;
using sink::text_of;

namespace {

uint64_t number(const std::string& file, const sink::Property& property) {
    uint64_t number = 0;
    const std::string& value = property.value;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() || value.empty())
        throw ConfigurationError("the property " + property.name + " in \"" + file +
                                 "\" is not a whole number");
    return number;
}

}  // namespace

Options Options::read(const std::string& file) {
    Options options;
    for (const sink::Property& property : sink::read_properties(file)) {
        if (property.name == "delay.ms") {
            options.delay = std::chrono::milliseconds(number(file, property));
        } else if (property.name == "refuse.topic") {
            options.refused_topics.push_back(property.value);
        } else if (property.name == "unknown.topic") {
            options.unknown_topics.push_back(property.value);
        } else if (property.name == "refuse.message.containing") {
            options.refused_texts.push_back(property.value);
        } else if (property.name == "die.after") {
            options.die_after = number(file, property);
        } else if (property.name == "fsync") {
            if (property.value != "always" && property.value != "never")
                throw ConfigurationError("the property fsync in \"" + file +
                                         "\" can be always or never");
            options.sync = property.value == "always";
        } else {
            throw ConfigurationError("the property " + property.name + " in \"" + file +
                                     "\" is not known");
        }
    }
    return options;
}

bool Options::refuses_topic(const protocol::MessageView& message) const {
    return std::find(refused_topics.begin(), refused_topics.end(), text_of(message.topic)) !=
           refused_topics.end();
}

bool Options::knows_topic(const protocol::MessageView& message) const {
    return std::find(unknown_topics.begin(), unknown_topics.end(), text_of(message.topic)) ==
           unknown_topics.end();
}

bool Options::refuses_message(const protocol::MessageView& message) const {
    return std::any_of(refused_texts.begin(), refused_texts.end(), [&](const std::string& text) {
        return text_of(message.payload).find(text) != std::string_view::npos;
    });
}

OptionsFile::OptionsFile(std::string path) : path_(std::move(path)) {
    if (path_.empty()) return;
    changed();
    options_ = Options::read(path_);
}

void OptionsFile::refresh() {
    if (!path_.empty() && changed()) options_ = Options::read(path_);
}

bool OptionsFile::changed() {
    struct stat now {};
    if (::stat(path_.c_str(), &now) != 0) now = {};
    bool same = now.st_ino == seen_.st_ino && now.st_size == seen_.st_size &&
                now.st_mode == seen_.st_mode && now.st_mtim.tv_sec == seen_.st_mtim.tv_sec &&
                now.st_mtim.tv_nsec == seen_.st_mtim.tv_nsec;
    seen_ = now;
    return !same;
}

}  // namespace outbox::file
