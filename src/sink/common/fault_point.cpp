// Fault points of the sinks. Runs in the sink programs; empty in a release build.
#include "fault_point.hpp"

#ifdef OUTBOX_FAULT_POINTS

#include <chrono>
#include <thread>

#include "fault_file.hpp"

namespace outbox {

void fault_point(const char* marked_name) {
    const FaultFile file(marked_name);
    if (!file.there()) return;
    file.die_if_told();
    if (!file.says("wait") || !file.take()) return;
    file.begin_wait();
    while (file.waiting())
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    file.end_wait();
}

}  // namespace outbox

#endif
