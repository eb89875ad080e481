// The positions up to the watermark that are neither settled nor in flight. Relay process.
//
// Life of a position in here, and what moves it on (each pass over the log looks at all of them):
//
//   returned   the sink came back with it, or the relay has just started: sent again when found
//   owned      its row is there, its transaction (owner) had not ended: looked at when it has
//   absent     no row: its transaction may not have written it yet, or will never. Seen in a second
//   pass it
//              joins a cohort, the transactions that could own it; when all of those have ended and
//              a later snapshot still shows no row, it is dead and leaves
//
// It leaves by becoming visible (then it is sent, or deferred), or by being dead.
#pragma once

#include "pg/postgres.hpp"
#include "shared/shared_state.hpp"
#include "worker/holders.hpp"

namespace outbox {

// Which cohort a gap belongs to. Higher numbers are cohorts.
enum : uint32 {
    kNotLookedAt = 0,
    kSeenOnce = 1,
    kWantsCohort = 2,
    kFirstCohort = 3,
};

struct Gap {
    int64 from;  // both included
    int64 to;
    TransactionId owner;  // InvalidTransactionId unless owned
    uint32 cohort;
};

class Gaps {
  public:
    // Memory from the current context, for good.
    void init();

    const Gap* begin() const { return list_; }
    const Gap* end() const { return list_ + count_; }
    int count() const { return count_; }
    bool empty() const { return count_ == 0; }
    // Number of positions that the sink came back with and that have not been looked at since.
    int64 returned_positions() const;
    // Number of all positions in here.
    int64 positions() const;

    // Fills `ranges` with the first `most` of those whose messages have not been seen yet, returns
    // how many that are; `*positions` becomes the number of positions in them.
    int open_ranges(OpenRange* ranges, int most, int64* positions) const;

    // Forgets all of them.
    void clear() { count_ = cohort_count_ = 0; }

    // Takes positions back, in any order; `positions` is sorted in place.
    void take_back(int64* positions, int count);
    // As found in the saved progress: ranges in order.
    void take_back_range(int64 from, int64 to);

    // A pass replaces the list: begin_pass with what holds locks now, then `keep` in the order of
    // positions, then end_pass.
    void begin_pass(const Schema& schema);
    void keep(const Gap& gap);
    // A range without rows. Dropped if its cohort has ended, else kept.
    void keep_absent(int64 from, int64 to, uint32 cohort);
    void end_pass(const Schema& schema);

    // Whether the next pass can decide something without any event: milliseconds until it should
    // run, or -1.
    long recheck_ms() const;

    // As SettledView::any_gap.
    bool any_between(int64 from, int64 to, bool (*present)(void* context, int64 from, int64 to),
                     void* context) const;

  private:
    struct Cohort {
        uint32 id;
        Holders holders;
        bool used;
    };
    Cohort* find_cohort(uint32 id);
    void push(Gap** list, int* count, int* capacity, const Gap& gap);

    MemoryContext context_ = nullptr;
    Gap* list_ = nullptr;
    int count_ = 0;
    int capacity_ = 0;
    Gap* kept_ = nullptr;
    int kept_count_ = 0;
    int kept_capacity_ = 0;
    Cohort* cohorts_ = nullptr;
    int cohort_count_ = 0;
    uint32 next_cohort_ = kFirstCohort;
    long fallback_ms_ = 0;
};

}  // namespace outbox
