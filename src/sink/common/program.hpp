// What the main function of every sink program does. Runs in the sink programs.
#pragma once

#include <string>

#include "sink/common/session.hpp"

namespace outbox::sink {

struct Program {
    std::string name;       // "outbox-kafka"
    std::string libraries;  // "librdkafka 2.0.2"; may be empty
    Session::MakeSink make_sink;
};

// Speaks with the relay on descriptor 0 and ends the process: never returns, and never runs the
// exit handlers of the client library, which may wait for a name server that does not answer.
[[noreturn]] void run_program(int argc, char** argv, const Program& program);

}  // namespace outbox::sink
