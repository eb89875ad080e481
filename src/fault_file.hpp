// What a fault point and a test say to each other, in files of the data directory. Every process of
// a build with fault points, no other.
//
// Rules for this file: no server header, no exceptions, no allocation, no standard containers.
#pragma once

#ifdef OUTBOX_FAULT_POINTS

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace outbox {

// The file of one fault point. The working directory of all our processes is the data directory.
class FaultFile {
  public:
    explicit FaultFile(const char* marked_name) {
        const char* name = strchr(marked_name, ':') + 1;
        snprintf(path_, sizeof(path_), "outbox_faults/%s", name);
        snprintf(waiting_, sizeof(waiting_), "outbox_faults/%s.waiting", name);
    }

    bool there() const { return access(path_, F_OK) == 0; }
    const char* path() const { return path_; }

    // Whether the file says `action`.
    bool says(const char* action) const {
        char text[16] = "";
        int fd = open(path_, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return false;
        ssize_t got = read(fd, text, sizeof(text) - 1);
        close(fd);
        return got > 0 && strcmp(text, action) == 0;
    }

    // True for one of the processes that are here at the same time.
    bool take() const { return unlink(path_) == 0; }

    void die_if_told() const {
        if (says("crash") && take()) kill(getpid(), SIGKILL);
    }

    // To be followed by looks at waiting(), until that is false.
    void begin_wait() const {
        char pid[16];
        int length = snprintf(pid, sizeof(pid), "%d", static_cast<int>(getpid()));
        int fd = open(waiting_, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0) return;
        if (write(fd, pid, static_cast<size_t>(length)) != length) abort();
        close(fd);
    }
    bool waiting() const { return access(waiting_, F_OK) == 0; }
    void end_wait() const { unlink(waiting_); }

  private:
    char path_[128];
    char waiting_[128];
};

}  // namespace outbox

#endif
