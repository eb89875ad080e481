// The sink as the relay sees it: a child process at the other end of a socket. Relay process.
//
// States: none -> starting (settings sent) -> ready (it said so) -> ending (Drain sent) -> none. It
// may end from any state by itself, which the end of file on the socket tells.
//
// A ready one that said that it is idle is frozen (SIGSTOP): the timers of its client do not wake
// it. Invariants:
//   - Frozen means ready, every message answered and every frame written: nothing is owed by either
//     side, so a frozen sink holds up nothing, whatever the relay does next.
//   - It is thawed (SIGCONT) before a byte is written to it, and before its end is waited for:
//     flush() and reap() see to it, and nothing else does either.
//   - It does not outlive its relay, however that ends: SIGKILL, which it asked the kernel for
//     (PR_SET_PDEATHSIG), ends a stopped process too.
#pragma once

#include "pg/postgres.hpp"
#include "protocol/frames.hpp"
#include "protocol/reports.hpp"

namespace outbox {

class SinkProcess {
  public:
    enum class State : uint8_t { None, Starting, Ready, Ending };

    // Buffers in the current memory context, for good.
    void init();

    // Starts outbox-<name> and sends it its settings. False if it could not be started; errno tells
    // why.
    bool start(const char* name, const char* database);

    // Stops it, until there is something to write. For one that is ready and owes no answer.
    void freeze();

    // Ends it at once, if it is there.
    void kill();

    // Adds a frame to what is to be written; nothing is written before flush().
    void begin_frame(protocol::FrameType type);
    void end_frame();
    StringInfo body() { return &output_; }
    void send_drain();
    void send_reopen(const char* topic);

    // Writes what the socket takes; false if the sink is gone.
    bool flush();
    // Reads what is there; false at the end of the file. Every report that came before is to be
    // taken first.
    bool receive();
    // The next report that was received completely; valid until the next receive().
    protocol::ReportBuffer::Next next(protocol::Report* report) { return input_.next(report); }

    // After the end of file: waits for the process, which is about to end or is ended, and returns
    // its status as waitpid has it.
    int reap();

    void set_ready() { state_ = State::Ready; }
    State state() const { return state_; }
    bool running() const { return state_ != State::None; }
    pid_t pid() const { return pid_; }
    int socket() const { return socket_; }
    size_t unwritten() const { return static_cast<size_t>(output_.len) - written_; }
    // The number of the last message that was written completely; 0: none.
    uint64 last_sent() const { return last_sent_; }

  private:
    void thaw();
    void clear_buffers();
    void note_sent();

    State state_ = State::None;
    pid_t pid_ = 0;
    int socket_ = -1;
    bool frozen_ = false;
    StringInfoData output_;
    size_t written_ = 0;
    size_t sent_to_ = 0;  // the frames up to here have been written completely
    uint64 last_sent_ = 0;
    int frame_start_ = 0;
    protocol::ReportBuffer input_;
};

// Whether the status says that there is no such program.
bool never_ran(int status);

// Words for a status that reap() returned.
const char* describe_exit(int status, char* text, size_t size);

}  // namespace outbox
