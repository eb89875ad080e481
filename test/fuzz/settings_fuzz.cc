// The Settings of a relay that sends rubbish, down to librdkafka's configuration, and the syntax of
// a properties file. They are taken or refused in words; nothing else happens.
//
// An input that begins with "P" is a properties file; every other one is the body of Settings.
#include <cstdint>
#include <map>
#include <string>

#include "sink/common/errors.hpp"
#include "sink/common/properties.hpp"
#include "sink/common/settings.hpp"
#include "sink/kafka/configuration.hpp"
#include "sink/kafka/refused_properties.hpp"
#include "support/check.hpp"

namespace outbox::fuzz {
namespace {

void read_file(std::string_view text) {
    try {
        for (const sink::Property& property : sink::parse_properties(text, "file")) {
            must(!property.name.empty(), "a property has a name");
            must(property.name.find('\0') == std::string::npos, "a name has no zero byte");
            must(property.value.find('\n') == std::string::npos, "a value ends with its line");
            static_cast<void>(kafka::refusal(property.name, property.value));
        }
    } catch (const sink::ConfigurationError&) {
    }
}

void read_settings(std::string_view body) {
    try {
        auto settings =
            sink::Settings::decode({protocol::FrameType::Settings, body.data(), body.size()});
        if (settings.text("bootstrap_servers").empty()) return;
        // All but the name of a file, which an input must not choose.
        std::map<std::string, std::string, std::less<>> values;
        for (const char* name : {"database", "bootstrap_servers", "max_message_bytes",
                                 "max_in_flight_messages", "max_in_flight_bytes"})
            values.emplace(name, settings.text(name));
        kafka::ClientConfiguration configuration{sink::Settings(std::move(values))};
        must(configuration.stream() != nullptr, "a configuration");
    } catch (const sink::ConfigurationError&) {
    } catch (const sink::ProtocolError&) {
    }
}

}  // namespace
}  // namespace outbox::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    std::string_view input(reinterpret_cast<const char*>(bytes), size);
    if (input.starts_with('P'))
        outbox::fuzz::read_file(input.substr(1));
    else
        outbox::fuzz::read_settings(input);
    return 0;
}
