// A folder that is gone after the test. Runs in the unit tests.
#include "support/temporary_folder.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace outbox::test {

TemporaryFolder::TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "outbox-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
}

std::string TemporaryFolder::write(const std::string& name, std::string_view text,
                                   mode_t mode) const {
    const std::string place = path(name);
    const std::string draft = place + ".draft";
    std::ofstream(draft, std::ios::binary) << text;
    ::chmod(draft.c_str(), mode);
    std::filesystem::rename(draft, place);
    return place;
}

std::string TemporaryFolder::read(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace outbox::test
