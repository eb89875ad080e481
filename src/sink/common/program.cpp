// What the main function of every sink program does. Runs in the sink programs.
#include "sink/common/program.hpp"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string_view>

#include "sink/common/errors.hpp"
#include "sink/common/exit_status.hpp"

namespace outbox::sink {

namespace {

constexpr int kRelaySocket = 0;

[[noreturn]] void leave(ExitStatus status) {
    ::_exit(static_cast<int>(status));
}

std::string version_line(const Program& program) {
    std::string line = program.name + " " + OUTBOX_VERSION;
    if (!program.libraries.empty()) line += " (" + program.libraries + ")";
    return line;
}

void print_usage(const Program& program, FILE* to) {
    std::fprintf(
        to,
        "%s is a part of outbox, an extension of PostgreSQL: the relay of a database starts "
        "it by itself,\nwith a socket as its standard input. There is nothing to do for it "
        "by hand.\n\n  %s --version   print the versions of the program and its libraries\n",
        version_line(program).c_str(), program.name.c_str());
}

bool is_stream_socket(int fd) {
    int type = 0;
    socklen_t length = sizeof(type);
    return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

// The relay's end is this program's end, and nothing else is: whoever stops the server sends its
// signals to the whole process group, and a sink that dies of one loses the answers that a clean
// stop waits for.
void tie_to_parent() {
    const pid_t parent = ::getppid();
    // Descriptors of the server that were not closed on exec are none of our business.
    ::close_range(kRelaySocket + 3, ~0U, 0);
    for (int ignored : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGQUIT})
        std::signal(ignored, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) leave(ExitStatus::Done);
}

ExitStatus converse(Session& session, const std::string& name) {
    try {
        session.run();
        return ExitStatus::Done;
    } catch (const ConfigurationError& error) {
        session.give_up(true, error.code(), error.what());
        return ExitStatus::Configuration;
    } catch (const ProtocolError& error) {
        session.give_up(false, 0, name + ": protocol error: " + error.what());
        return ExitStatus::Protocol;
    } catch (const RestartNeeded& error) {
        session.give_up(false, 0, name + ": " + error.what());
        return ExitStatus::TemporaryFail;
    } catch (const std::exception& error) {
        session.give_up(false, 0, name + ": " + error.what());
        return ExitStatus::Software;
    }
}

}  // namespace

void run_program(int argc, char** argv, const Program& program) {
    if (argc == 2 && std::string_view(argv[1]) == "--version") {
        std::printf("%s\n", version_line(program).c_str());
        std::fflush(stdout);
        leave(ExitStatus::Done);
    }
    if (argc == 2 && std::string_view(argv[1]) == "--help") {
        print_usage(program, stdout);
        std::fflush(stdout);
        leave(ExitStatus::Done);
    }
    // argv[1] is the database, for those who read the list of processes.
    if (argc > 2 || !is_stream_socket(kRelaySocket)) {
        print_usage(program, stderr);
        leave(ExitStatus::Usage);
    }
    tie_to_parent();

    try {
        Session session(kRelaySocket, version_line(program), program.make_sink);
        leave(converse(session, program.name));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", program.name.c_str(), error.what());
        leave(ExitStatus::Software);
    }
}

}  // namespace outbox::sink
