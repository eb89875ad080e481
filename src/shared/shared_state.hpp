// What sessions, launcher and relays share in memory: one slot per relay, requests, holds. Any
// process.
//
// Locks. SharedState::lock (an LWLock) guards which database has which slot, the requests and the
// holds. RelaySlot::mutex (a spinlock) guards the fields of a slot that are read together; a few
// are atomics and read alone. Nothing here is a pointer into one process; a Latch lives in shared
// memory.
#pragma once

#include "pg/postgres.hpp"
#include "shared/backlog_figure.hpp"

namespace outbox {

// What a relay is doing, for outbox.status. The texts are in shared_state.cpp.
enum class RelayState : uint8_t {
    Stopped,     // no relay process
    Starting,    // it has not looked at its database yet
    Connecting,  // the sink is not up, or the broker does not answer
    Running,
    Waiting,   // a topic takes no messages at present; others flow
    Paused,    // by an operator
    Foreign,   // the messages were written by another server or database
    Disabled,  // outbox.enabled is off
    Failed,    // the relay or its sink can't work with these settings; it tries again
};

const char* relay_state_name(RelayState state);

// How a relay ended, which tells the launcher what to do next.
enum class RelayEnd : uint8_t {
    Error,   // it crashed, was terminated, or could not start: start again, with backoff
    Absent,  // its database does not have the extension: forget it until somebody asks
    Asked,  // it was asked to leave its database, or its database's settings changed: start at once
};

constexpr int kErrorLength = 400;
constexpr int kNameLength = 96;
constexpr int kStatisticsLength = 1024;

// Positions that a relay has read where there was no committed message yet: each may have become
// one since.
struct OpenRange {
    int64_t from;  // both included
    int64_t to;
    bool whole;  // all of one transaction: if one has become a message, each has
};

constexpr int kMostOpenRanges = 64;

// One relay, or the place of one. A slot belongs to a database until the launcher frees it.
struct RelaySlot {
    Oid database;         // SharedState::lock to change; InvalidOid: the slot is free
    uint32_t generation;  // SharedState::lock; tells a late process that its slot has moved on

    slock_t mutex;
    // Under mutex:
    pid_t pid;     // 0: no process
    Latch* latch;  // of that process
    RelayEnd end;  // how the last process ended
    bool leave;    // please leave the database, now
    RelayState state;
    pid_t sink_pid;
    int64_t delivered;
    int64_t deferred;
    int64_t parked;
    int64_t watermark;         // highest position read
    Oid sequence;              // where that position comes from
    int64_t taken;             // highest position that a session took
    Oid taken_from;            // from this sequence
    int64_t unsettled;         // number of positions up to the watermark that are not settled
    int64_t open_positions;    // the same, and those that may belong to no message
    int64_t first_in_flight;   // lowest position read but not settled; PG_INT64_MAX: none
    uint64_t snapshots;        // grows with each pass over the log that took effect
    TimestampTz delivered_at;  // when the broker acknowledged something last; 0: not yet
    TimestampTz last_error_at;
    // By timer_now(). 0: not healthy; the launcher's backoff starts anew after a while.
    TimestampTz healthy_since;
    char last_error[kErrorLength];
    char sink_name[kNameLength];
    char sink_statistics[kStatisticsLength];
    // Not counted in `unsettled`.
    int open_range_count;
    OpenRange open_ranges[kMostOpenRanges];

    BacklogFigure backlog;              // without mutex
    pg_atomic_uint32 active_segment;    // 0-based; a hint to writers, see storage/segments.hpp
    pg_atomic_uint32 identified;        // 1: the relay knows whose messages these are
    pg_atomic_uint32 settings_changed;  // 1: by ALTER DATABASE or ALTER ROLE; the relay resets it
    pg_atomic_uint32 committed;         // 1: messages were, since the relay began its last pass
    pg_atomic_uint32 listening;         // 1: the relay sleeps, and wants to be woken by that
    pg_atomic_uint32 parked_changed;    // 1: operators retried or discarded; the relay resets it
    pg_atomic_uint32 waiters;           // sessions in wait_for_delivery()
    ConditionVariable progressed;       // watermark, in-flight set or snapshots changed
};

// A session that is about to drop, rename, move or copy a database keeps relays out of it.
struct Hold {
    Oid database;  // InvalidOid: free
    pid_t holder;
};

// A database whose relay has not looked yet whose messages it holds, and the lowest position that
// was written there since the server started: anything lower came with a copy.
struct Newcomer {
    Oid database;  // InvalidOid: free
    int64 first_position;
};

constexpr int kMaxNewcomers = 64;
constexpr int kMaxHolds = 64;
constexpr int kMaxRequests = 64;

struct SharedState {
    LWLock* lock;
    Latch* launcher_latch;  // nullptr: no launcher
    pid_t launcher_pid;
    int slot_count;
    Hold holds[kMaxHolds];
    Newcomer newcomers[kMaxNewcomers];
    int request_count;  // databases that want a relay looked into
    Oid requests[kMaxRequests];
    bool requests_lost;  // more than fit: the launcher looks at every database
    RelaySlot slots[FLEXIBLE_ARRAY_MEMBER];
};

// nullptr when the library is not in shared_preload_libraries.
extern SharedState* shared;

// Asks for the memory and installs the start-up hook. Called from _PG_init while preloading.
void install_shared_memory();

// The slot of a database, or nullptr. Cheap: remembers where it was last.
RelaySlot* find_slot(Oid database);

// The highest position from this sequence that the database's relay has read or a session has taken
// since the slot is there; or 0. No position may come twice: of two rows the relay might see one.
int64 positions_taken(Oid database, Oid sequence);
void note_positions_taken(Oid database, Oid sequence, int64 last);

// Wakes the relay of a database, or asks the launcher for one. Cannot fail; callable while
// committing.
void wake_relay(Oid database);

// Tells the relay of a database that messages were committed, or asks the launcher for one. Wakes
// it only where it waits for that: one that works, rests or cannot send looks by itself when it can
// do something about them. Cannot fail; callable while committing.
void announce_commit(Oid database);

// For the relay. What is announced after this is not forgotten; what was announced before is seen
// by a snapshot taken after it.
void begin_look_at_commits(RelaySlot* slot);
// For the relay that is about to sleep: false where something has been announced since that look.
bool listen_for_commits(RelaySlot* slot);
void stop_listening(RelaySlot* slot);

// Asks the launcher to look into a database (InvalidOid: into all of them).
void request_relay(Oid database);

// Tells this database's relay, where there is one, that parked messages were retried or discarded.
// One that starts later looks by itself.
void announce_parked_changed();

// Tells the relay of a database (InvalidOid: all relays) that settings of sessions were changed
// there.
void announce_settings(Oid database);

// Whether some session keeps relays out of `database`.
bool is_held(Oid database);

// Notes the first position that a transaction writes, until the database's relay knows whose
// messages these are. Cheap afterwards.
void note_first_position(int64 position);

// For the relay: the lowest position noted for this database, PG_INT64_MAX if none.
int64 first_noted_position();

// For the relay: it knows now.
void set_identified(RelaySlot* slot, bool identified);

// Records trouble for outbox.status. `text` is cut to fit.
void set_last_error(RelaySlot* slot, const char* text);

}  // namespace outbox
