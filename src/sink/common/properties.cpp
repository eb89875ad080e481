// The properties file of a sink: where secrets live. Runs in the sink programs.
#include "sink/common/properties.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "sink/common/errors.hpp"
#include "sink/common/file_descriptor.hpp"

namespace outbox::sink {

namespace {

constexpr size_t kMaxFile = size_t{1} << 20;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
    throw ConfigurationError("the configuration file \"" + path + "\" " + why);
}

std::string words(int error) {
    return std::generic_category().message(error);
}

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view kBlank = " \t\f\r";
    size_t first = text.find_first_not_of(kBlank);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

}  // namespace

std::vector<Property> parse_properties(std::string_view text, const std::string& file) {
    std::vector<Property> properties;
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    for (int line = 1; !text.empty(); ++line) {
        size_t end = std::min(text.find('\n'), text.size());
        std::string_view content = trimmed(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
        if (content.empty() || content.front() == '#') continue;
        size_t equals = content.find('=');
        std::string_view name = trimmed(content.substr(0, equals));
        if (equals == std::string_view::npos || name.empty())
            refuse(file,
                   "is not understood in line " + std::to_string(line) + ": expected name=value");
        std::string_view value = trimmed(content.substr(equals + 1));
        if (content.find('\0') != std::string_view::npos)
            refuse(file, "has a zero byte in line " + std::to_string(line));
        properties.push_back({std::string(name), std::string(value), line});
    }
    return properties;
}

std::vector<Property> read_properties(const std::string& path) {
    if (path.empty() || path.front() != '/') refuse(path, "is not named by an absolute path");
    // Not to hang on a fifo; what it is gets checked on the opened file, not on its name.
    FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!file.valid()) refuse(path, "cannot be opened: " + words(errno));
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) refuse(path, "cannot be examined: " + words(errno));
    if (!S_ISREG(status.st_mode)) refuse(path, "is not a regular file");
    if (status.st_uid != ::geteuid())
        refuse(path, "does not belong to the user that the server runs as: chown it to that user");
    if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        refuse(path, "can be read or written by others than its owner: chmod 600 it");
    if (status.st_size > static_cast<off_t>(kMaxFile)) refuse(path, "is larger than 1 MB");

    std::string text;
    char block[8192];
    for (;;) {
        ssize_t got = ::read(file.get(), block, sizeof(block));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) refuse(path, "cannot be read: " + words(errno));
        if (got == 0) break;
        text.append(block, static_cast<size_t>(got));
        if (text.size() > kMaxFile) refuse(path, "is larger than 1 MB");
    }
    return parse_properties(text, path);
}

}  // namespace outbox::sink
