// Places where a test can make a process die, fail or wait. Every process; none in a release build.
//
// OUTBOX_FAULT_POINT("name") is nothing unless OUTBOX_FAULT_POINTS is defined (make fault-points).
// With it, the process looks for a file `outbox_faults/<name>` in the data directory, removes it,
// so that one process does it once, and does what it says:
//   crash   kills itself, as kill -9 would
//   error   raises an error (server only, and only where errors are allowed)
//   wait    makes `<name>.waiting` with its process id in it, and goes on when that is removed;
//           a request to stop, or the end of the postmaster, ends that too
// test/e2e/test_fault_points.py finds the names and tries each of them. A name begins with the part
// that passes it (session-, relay-, recovery-, ring-, launcher-, sink-, file-, kafka-).
#pragma once

#ifdef OUTBOX_FAULT_POINTS

// Found in the libraries and programs by this mark.
#define OUTBOX_FAULT_POINT(name) ::outbox::fault_point("outbox-fault-point:" name)

namespace outbox {
void fault_point(const char* marked_name);
}

#else
#define OUTBOX_FAULT_POINT(name) static_cast<void>(0)
#endif
