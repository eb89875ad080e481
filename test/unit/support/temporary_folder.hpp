// A folder that is gone after the test. Runs in the unit tests.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>

namespace outbox::test {

class TemporaryFolder {
  public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;

    std::string path(const std::string& name) const { return (folder_ / name).string(); }
    // Writes the file and returns its path. The file is replaced at once, as editors do it.
    std::string write(const std::string& name, std::string_view text, mode_t mode = 0600) const;
    std::string read(const std::string& name) const;

  private:
    std::filesystem::path folder_;
};

}  // namespace outbox::test
