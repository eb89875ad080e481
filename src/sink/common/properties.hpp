// The properties file of a sink: where secrets live. Runs in the sink programs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace outbox::sink {

struct Property {
    std::string name;
    std::string value;
    int line;
};

// Reads `name=value` lines. The file must be named by an absolute path, be a regular file, belong
// to the user this program runs as, and be closed to everybody else. Throws ConfigurationError,
// whose text names the file and the line and never holds a value.
std::vector<Property> read_properties(const std::string& path);

// The syntax alone: `file` is for messages.
std::vector<Property> parse_properties(std::string_view text, const std::string& file);

}  // namespace outbox::sink
