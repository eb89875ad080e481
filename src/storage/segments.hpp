// The ring of segments: which one is active, and when one is emptied. Relay process.
//
// Life of a segment: empty -> active (switch) -> draining (another one was made active) -> empty
// (emptied). Which one is active is a hint in shared memory, not a fact: a writer looks, then
// locks, and may write to a segment that is draining by then. So rows are found by position in
// every segment, and a segment is emptied only under AccessExclusiveLock, which proves that no open
// transaction has rows in it, after a look at what it holds.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"

namespace outbox {

// What the relay knows about positions, as far as emptying a segment depends on it.
class SettledView {
  public:
    // Highest position that was read.
    virtual int64 watermark() const = 0;
    // Whether a message in flight has a position from `from` to `to`.
    virtual bool any_in_flight(int64 from, int64 to) const = 0;
    // Calls `present` for each range of positions that are neither settled nor in flight, cut to
    // what lies between `from` and `to`, until it returns true; returns whether it did.
    virtual bool any_gap(int64 from, int64 to, bool (*present)(void* context, int64 from, int64 to),
                         void* context) const = 0;

  protected:
    ~SettledView() = default;
};

class SegmentRing {
  public:
    // Chooses the active segment after a start: the one that holds the highest position.
    void start(const Schema& schema);

    // Switches and empties segments as settings and `settled` allow, in the caller's transaction.
    // Returns the number of milliseconds after which another look is worthwhile; -1: not before
    // something is written.
    long maintain(const Schema& schema, const SettledView& settled);

    int active() const { return active_; }

  private:
    bool switch_if_due(const Schema& schema, long* again);
    bool empty_if_settled(const Schema& schema, int segment, const SettledView& settled,
                          long* again);

    int active_ = 0;
    // Both by timer_now(): when the first row was seen in the active segment (0: none yet), and
    // when each of the others ceased to be active, or this process began.
    TimestampTz active_since_ = 0;
    TimestampTz inactive_since_[kSegments] = {};
    long lock_retry_ms_ = 0;
};

// Empties a relation as TRUNCATE does, but without triggers and unseen by logical replication;
// false if somebody holds a lock on it. Never waits. In the caller's transaction.
bool empty_relation(Oid relation);

}  // namespace outbox
