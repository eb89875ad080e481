// Places where a test can make a process die, fail or wait. Every process; in a release build,
// none.
//
// OUTBOX_FAULT_POINT("name") is nothing unless OUTBOX_FAULT_POINTS is defined (make fault-points).
// With it, the process looks for a file `outbox_faults/<name>` in the data directory and does what
// the file says:
//   crash   kills itself, as kill -9 would
//   error   raises an error (server only, and only where errors are allowed)
//   wait    makes `<name>.waiting` with its process id in it, and goes on when that is removed; what
//           makes the process stop, or the end of the postmaster, ends that too
// It removes the file first: one process does it once.
// The names are found by test/e2e/test_fault_points.py, which tries a crash at each of them: a name
// begins with the part that passes it (session-, relay-, recovery-, ring-, launcher-, file-,
// kafka-).
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
