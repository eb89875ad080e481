// How many bytes wait in one database: a figure in shared memory that everybody can read, and keep
// right, without a lock. Any process.
//
// It is measured now and then (storage/backlog_size.hpp) and carried on in between by what writers
// add when they have written rows. Nothing is subtracted: it is too high once messages are
// delivered, and whom that would hinder measures again. So it depends on no relay.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

class BacklogFigure {
  public:
    // More than any limit: nobody has measured yet.
    static constexpr int64 kUnknown = INT64CONST(1) << 61;

    // Once, in zeroed memory.
    void init();

    // What is stored may have changed in another way than by writers: measured before it counts
    // again.
    void forget() { pg_atomic_write_u64(&base_, static_cast<uint64>(kUnknown)); }

    // A writer has written rows of this many bytes.
    void add(int64 bytes) { (void)pg_atomic_fetch_add_u64(&written_, bytes); }

    // Bytes that wait, or somewhat more.
    int64 bytes() { return static_cast<int64>(pg_atomic_read_u64(&base_)) + written(); }

    // Before measuring: what has been added so far, for set().
    int64 written() { return static_cast<int64>(pg_atomic_read_u64(&written_)); }

    // What was measured, after written() was asked.
    void set(int64 written_before, int64 bytes, TimestampTz now);

    // When it was measured last (timer_now()), and what came out.
    TimestampTz measured_at() {
        return static_cast<TimestampTz>(pg_atomic_read_u64(&measured_at_));
    }
    int64 measured() { return static_cast<int64>(pg_atomic_read_u64(&measured_)); }

    // Bytes a second by which it has grown over the last minute, as far as it was measured in that
    // time; 0: not known.
    double growth(TimestampTz now, int64 bytes);

  private:
    struct Sample {
        TimestampTz time;
        int64 bytes;
    };
    static constexpr int kSamples = 16;

    pg_atomic_uint64 base_;     // measured, less what had been written by then
    pg_atomic_uint64 written_;  // only grows
    pg_atomic_uint64 measured_;
    pg_atomic_uint64 measured_at_;
    slock_t mutex_;  // of the samples
    int next_;
    Sample samples_[kSamples];
};

}  // namespace outbox
