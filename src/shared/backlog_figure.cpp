// How many bytes wait in one database: measured now and then, carried on by writers. Any process.
#include "shared/backlog_figure.hpp"

namespace outbox {

namespace {

// Samples are at least this far apart, so that the ring reaches back more than a minute.
constexpr int kSampleIntervalMs = 5 * 1000;
// The growth is taken from the oldest sample that is not older than this.
constexpr int kGrowthWindowMs = 60 * 1000;
// From samples that are closer than this no growth can be told.
constexpr int kShortestGrowthMs = 1000;

}  // namespace

void BacklogFigure::init() {
    pg_atomic_init_u64(&base_, static_cast<uint64>(kUnknown));
    pg_atomic_init_u64(&written_, 0);
    pg_atomic_init_u64(&measured_, 0);
    pg_atomic_init_u64(&measured_at_, 0);
    SpinLockInit(&mutex_);
}

// Two that measure at the same time both leave a figure that is right.
void BacklogFigure::set(int64 written_before, int64 bytes, TimestampTz now) {
    pg_atomic_write_u64(&base_, static_cast<uint64>(bytes - written_before));
    pg_atomic_write_u64(&measured_, static_cast<uint64>(bytes));
    pg_atomic_write_u64(&measured_at_, static_cast<uint64>(now));
    SpinLockAcquire(&mutex_);
    const Sample& last = samples_[(next_ + kSamples - 1) % kSamples];
    if (TimestampDifferenceExceeds(last.time, now, kSampleIntervalMs)) {
        samples_[next_] = Sample{now, bytes};
        next_ = (next_ + 1) % kSamples;
    }
    SpinLockRelease(&mutex_);
}

double BacklogFigure::growth(TimestampTz now, int64 bytes) {
    Sample oldest = {};
    SpinLockAcquire(&mutex_);
    for (const Sample& sample : samples_) {
        bool usable = sample.time != 0 &&
                      TimestampDifferenceExceeds(sample.time, now, kShortestGrowthMs) &&
                      !TimestampDifferenceExceeds(sample.time, now, kGrowthWindowMs);
        if (usable && (oldest.time == 0 || sample.time < oldest.time)) oldest = sample;
    }
    SpinLockRelease(&mutex_);
    if (oldest.time == 0) return 0;
    return static_cast<double>(bytes - oldest.bytes) /
           (static_cast<double>(now - oldest.time) / USECS_PER_SEC);
}

}  // namespace outbox
