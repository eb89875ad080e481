// The sink as the relay sees it: a child process at the other end of a socket. Relay process.
#include "worker/sink_process.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault_point.hpp"
#include "settings.hpp"

namespace outbox {

namespace {

// A buffer that a very large message has blown up is given back when it is empty.
constexpr int kKeepBuffer = 8 << 20;
constexpr int kSocketBuffer = 1 << 20;

// Runs in the child between fork and exec: nothing of the server may be used here.
[[noreturn]] void become_sink(const char* program, const char* database, int socket, pid_t relay) {
    // A group of its own: the postmaster's signals to the relay's group are for the relay, which
    // then lets the sink finish.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != relay) _exit(1);
    if (dup2(socket, STDIN_FILENO) < 0) _exit(1);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0) dup2(null, STDOUT_FILENO);
    // Files and sockets of the server are not the sink's business.
    long most = sysconf(_SC_OPEN_MAX);
    if (close_range(3, ~0u, 0) != 0) {
        for (int fd = 3; fd < most; ++fd)
            close(fd);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    const char* name = strrchr(program, '/') + 1;
    execl(program, name, database, static_cast<char*>(nullptr));
    _exit(127);
}

void empty_buffer(StringInfo buffer) {
    resetStringInfo(buffer);
    if (buffer->maxlen <= kKeepBuffer) return;
    pfree(buffer->data);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    initStringInfo(buffer);
    MemoryContextSwitchTo(caller);
}

void append_string(StringInfo body, const char* text) {
    uint32 length = static_cast<uint32>(strlen(text));
    appendBinaryStringInfo(body, reinterpret_cast<const char*>(&length), sizeof(length));
    appendBinaryStringInfo(body, text, static_cast<int>(length));
}

void append_setting(void* context, const char* name, const char* value) {
    append_string(static_cast<StringInfo>(context), name);
    append_string(static_cast<StringInfo>(context), value);
}

}  // namespace

void SinkProcess::init() {
    initStringInfo(&output_);
    input_.use(static_cast<char*>(palloc(protocol::ReportBuffer::kCapacity)));
}

void SinkProcess::clear_buffers() {
    resetStringInfo(&output_);
    input_.clear();
    written_ = sent_to_ = 0;
    last_sent_ = 0;
}

bool SinkProcess::start(const char* name, const char* database) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return false;
    for (int end : ends) {
        setsockopt(end, SOL_SOCKET, SO_SNDBUF, &kSocketBuffer, sizeof(kSocketBuffer));
        setsockopt(end, SOL_SOCKET, SO_RCVBUF, &kSocketBuffer, sizeof(kSocketBuffer));
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);

    char program[MAXPGPATH];
    snprintf(program, sizeof(program), "%s/outbox-%s", pkglib_path, name);
    pid_t relay = getpid();
    fflush(stdout);
    fflush(stderr);
    pid_ = fork();
    if (pid_ == 0) become_sink(program, database, ends[1], relay);
    close(ends[1]);
    if (pid_ < 0) {
        pid_ = 0;
        close(ends[0]);
        return false;
    }
    socket_ = ends[0];
    state_ = State::Starting;
    clear_buffers();

    begin_frame(protocol::FrameType::Settings);
    uint32 version = protocol::kVersion;
    appendBinaryStringInfo(&output_, reinterpret_cast<const char*>(&version), sizeof(version));
    append_setting(&output_, "database", database);
    each_sink_setting(name, append_setting, &output_);
    end_frame();
    return true;
}

void SinkProcess::freeze() {
    frozen_ = ::kill(pid_, SIGSTOP) == 0;
}

void SinkProcess::thaw() {
    if (!frozen_) return;
    ::kill(pid_, SIGCONT);
    frozen_ = false;
}

void SinkProcess::kill() {
    if (!running()) return;
    ::kill(pid_, SIGKILL);
    (void)reap();
}

int SinkProcess::reap() {
    int status = 0;
    thaw();
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
    // It has closed its end or was killed. One that lingers all the same is helped along.
    for (int tries = 0; waitpid(pid_, &status, WNOHANG) == 0; ++tries) {
        if (tries == 100) ::kill(pid_, SIGKILL);
        pg_usleep(10 * 1000);
    }
    pid_ = 0;
    state_ = State::None;
    clear_buffers();
    return status;
}

void SinkProcess::begin_frame(protocol::FrameType type) {
    frame_start_ = output_.len;
    protocol::FrameHeader header = {0, type, {0, 0, 0}};
    appendBinaryStringInfo(&output_, reinterpret_cast<const char*>(&header), sizeof(header));
}

void SinkProcess::end_frame() {
    uint32 length = static_cast<uint32>(static_cast<size_t>(output_.len - frame_start_) -
                                        sizeof(protocol::FrameHeader));
    memcpy(output_.data + frame_start_, &length, sizeof(length));
}

void SinkProcess::send_drain() {
    begin_frame(protocol::FrameType::Drain);
    end_frame();
    state_ = State::Ending;
}

void SinkProcess::send_reopen(const char* topic) {
    begin_frame(protocol::FrameType::Reopen);
    appendBinaryStringInfo(&output_, topic, static_cast<int>(strlen(topic)));
    end_frame();
}

// Moves sent_to_ and last_sent_ up to what was written.
void SinkProcess::note_sent() {
    protocol::FrameHeader header;
    while (written_ - sent_to_ >= sizeof(header)) {
        const char* frame = output_.data + sent_to_;
        memcpy(static_cast<void*>(&header), frame, sizeof(header));
        if (written_ - sent_to_ - sizeof(header) < header.length) return;
        if (header.type == protocol::FrameType::Message)
            memcpy(&last_sent_, frame + sizeof(header), sizeof(last_sent_));
        sent_to_ += sizeof(header) + header.length;
    }
}

bool SinkProcess::flush() {
    bool socket_full = false;
    if (unwritten() > 0) thaw();
    while (unwritten() > 0) {
        OUTBOX_FAULT_POINT("relay-before-sending");
        ssize_t done = send(socket_, output_.data + written_, unwritten(), MSG_NOSIGNAL);
        if (done < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK) return false;
            socket_full = true;
            break;
        }
        written_ += static_cast<size_t>(done);
        OUTBOX_FAULT_POINT("relay-after-sending");
    }
    note_sent();
    if (socket_full) {
        // Under load the sink never catches up completely: make room in front all the same.
        if (sent_to_ * 2 < static_cast<size_t>(output_.len)) return true;
        output_.len -= static_cast<int>(sent_to_);
        memmove(output_.data, output_.data + sent_to_, static_cast<size_t>(output_.len));
        written_ -= sent_to_;
        sent_to_ = 0;
        return true;
    }
    empty_buffer(&output_);
    written_ = sent_to_ = 0;
    return true;
}

bool SinkProcess::receive() {
    size_t room;
    char* at = input_.room(&room);
    for (;;) {
        ssize_t got = recv(socket_, at, room, 0);
        if (got > 0) input_.came(static_cast<size_t>(got));
        if (got >= 0) return got > 0;
        if (errno == EINTR) continue;
        // A sink that dies with our frames unread resets the connection.
        return errno == EAGAIN || errno == EWOULDBLOCK;
    }
}

bool never_ran(int status) {
    return WIFEXITED(status) && WEXITSTATUS(status) == 127;
}

const char* describe_exit(int status, char* text, size_t size) {
    if (WIFSIGNALED(status)) {
        snprintf(text, size, "was killed by signal %d (%s)", WTERMSIG(status),
                 pg_strsignal(WTERMSIG(status)));
    } else if (never_ran(status)) {
        snprintf(text, size, "could not be started: is its program installed?");
    } else {
        snprintf(text, size, "ended with exit status %d", WEXITSTATUS(status));
    }
    return text;
}

}  // namespace outbox
