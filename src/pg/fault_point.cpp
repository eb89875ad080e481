// Fault points of the server's processes. Any process; empty in a release build.
#include "pg/postgres.hpp"

#ifdef OUTBOX_FAULT_POINTS

#include "fault_file.hpp"
#include "fault_point.hpp"

namespace outbox {

namespace {

constexpr long kLookEveryUs = 5 * 1000;

void wait_until_removed(const FaultFile& file) {
    file.begin_wait();
    while (file.waiting() && !ShutdownRequestPending) {
        if (!PostmasterIsAlive()) _exit(1);
        // Nothing while interrupts are held, after a commit for one.
        CHECK_FOR_INTERRUPTS();
        pg_usleep(kLookEveryUs);
    }
    file.end_wait();
}

}  // namespace

void fault_point(const char* marked_name) {
    FaultFile file(marked_name);
    if (!file.there()) return;
    file.die_if_told();
    bool may_fail = CritSectionCount == 0 && InterruptHoldoffCount == 0;
    if (may_fail && file.says("error") && file.take()) {
        ereport(ERROR,
                (errcode(ERRCODE_IO_ERROR), errmsg("fault injected at \"%s\"", file.path())));
    }
    if (file.says("wait") && file.take()) wait_until_removed(file);
}

}  // namespace outbox

#endif
