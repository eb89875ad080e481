// What the exit status of a sink program says to the relay (numbers of sysexits.h). Runs in the
// sink programs.
#pragma once

namespace outbox::sink {

enum class ExitStatus : int {
    Done = 0,            // drained, or the relay is gone
    Usage = 64,          // started by hand, or with arguments it does not know
    Software = 70,       // an exception nobody expected
    TemporaryFail = 75,  // the client library cannot be brought back inside this process
    Protocol = 76,       // the relay sent what is no frame
    Configuration = 78,  // a setting was refused; a Condition(fatal) said which
};

}  // namespace outbox::sink
