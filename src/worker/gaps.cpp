// The positions up to the watermark that are neither settled nor in flight. Relay process.
#include "worker/gaps.hpp"

namespace outbox {

namespace {

// More cohorts than this are joined: waiting for a few transactions too many is right, only slower.
constexpr int kMostCohorts = 64;
// A gap seen once, or whose cohort has ended, is decided by another look.
constexpr long kSoonMs = 20;
// Owners announce their end; the fallback is for holders of the lock that are not writers.
constexpr long kFirstFallbackMs = 500;
constexpr long kLongestFallbackMs = 10000;

template <typename T>
void swap_values(T& a, T& b) {
    T kept = a;
    a = b;
    b = kept;
}

bool is_returned(const Gap& gap) {
    return !TransactionIdIsValid(gap.owner) && gap.cohort == kNotLookedAt;
}

int compare_positions(const void* a, const void* b) {
    int64 left = *static_cast<const int64*>(a);
    int64 right = *static_cast<const int64*>(b);
    return left < right ? -1 : left > right;
}

}  // namespace

void Gaps::init() {
    context_ = CurrentMemoryContext;
    cohorts_ = static_cast<Cohort*>(palloc0(sizeof(Cohort) * kMostCohorts));
}

int64 Gaps::returned_positions() const {
    int64 sum = 0;
    for (const Gap& gap : *this) {
        if (is_returned(gap)) sum += gap.to - gap.from + 1;
    }
    return sum;
}

int Gaps::open_ranges(OpenRange* ranges, int most, int64* positions) const {
    int count = 0;
    *positions = 0;
    for (const Gap& gap : *this) {
        if (count == most) break;
        if (is_returned(gap)) continue;
        ranges[count++] = OpenRange{gap.from, gap.to, TransactionIdIsValid(gap.owner)};
        *positions += gap.to - gap.from + 1;
    }
    return count;
}

int64 Gaps::positions() const {
    int64 sum = 0;
    for (const Gap& gap : *this)
        sum += gap.to - gap.from + 1;
    return sum;
}

void Gaps::push(Gap** list, int* count, int* capacity, const Gap& gap) {
    if (*count > 0) {
        Gap* last = *list + *count - 1;
        if (last->to + 1 == gap.from && last->owner == gap.owner && last->cohort == gap.cohort) {
            last->to = gap.to;
            return;
        }
    }
    if (*count == *capacity) {
        int room = Max(64, *capacity * 2);
        Size bytes = sizeof(Gap) * static_cast<Size>(room);
        *list = static_cast<Gap*>(*list ? repalloc_huge(*list, bytes)
                                        : MemoryContextAllocHuge(context_, bytes));
        *capacity = room;
    }
    (*list)[(*count)++] = gap;
}

void Gaps::take_back(int64* positions, int count) {
    if (count == 0) return;
    qsort(positions, static_cast<size_t>(count), sizeof(int64), compare_positions);
    kept_count_ = 0;
    int old = 0;
    for (int i = 0; i < count; ++i) {
        while (old < count_ && list_[old].from < positions[i]) {
            push(&kept_, &kept_count_, &kept_capacity_, list_[old++]);
        }
        Gap gap = {positions[i], positions[i], InvalidTransactionId, kNotLookedAt};
        push(&kept_, &kept_count_, &kept_capacity_, gap);
    }
    while (old < count_)
        push(&kept_, &kept_count_, &kept_capacity_, list_[old++]);
    swap_values(list_, kept_);
    swap_values(count_, kept_count_);
    swap_values(capacity_, kept_capacity_);
}

void Gaps::take_back_range(int64 from, int64 to) {
    Gap gap = {from, to, InvalidTransactionId, kNotLookedAt};
    push(&list_, &count_, &capacity_, gap);
}

Gaps::Cohort* Gaps::find_cohort(uint32 id) {
    for (int i = 0; i < cohort_count_; ++i) {
        if (cohorts_[i].id == id) return &cohorts_[i];
    }
    return nullptr;
}

void Gaps::begin_pass(const Schema& schema) {
    kept_count_ = 0;
    if (cohort_count_ == 0) return;
    Holders now = current_holders(schema);
    for (int i = 0; i < cohort_count_; ++i) {
        cohorts_[i].holders.intersect(now);
        cohorts_[i].used = false;
    }
}

void Gaps::keep(const Gap& gap) {
    if (gap.cohort >= kFirstCohort) find_cohort(gap.cohort)->used = true;
    push(&kept_, &kept_count_, &kept_capacity_, gap);
}

void Gaps::keep_absent(int64 from, int64 to, uint32 cohort) {
    if (cohort == kNotLookedAt) {
        cohort = kSeenOnce;
    } else if (cohort == kSeenOnce) {
        cohort = kWantsCohort;
    } else if (find_cohort(cohort)->holders.count == 0) {
        return;  // begin_pass saw them all ended, and the snapshot is younger than that
    }
    keep(Gap{from, to, InvalidTransactionId, cohort});
}

void Gaps::end_pass(const Schema& schema) {
    int left = 0;
    for (int i = 0; i < cohort_count_; ++i) {
        if (cohorts_[i].used) {
            cohorts_[left++] = cohorts_[i];
        } else if (cohorts_[i].holders.list) {
            pfree(cohorts_[i].holders.list);
        }
    }
    cohort_count_ = left;

    bool wanted = false;
    for (int i = 0; i < kept_count_ && !wanted; ++i)
        wanted = kept_[i].cohort == kWantsCohort;
    if (wanted) {
        MemoryContext caller = MemoryContextSwitchTo(context_);
        Holders holders = current_holders(schema);
        Cohort* cohort;
        if (cohort_count_ < kMostCohorts) {
            cohort = &cohorts_[cohort_count_++];
            *cohort = Cohort{next_cohort_++, holders, true};
        } else {
            cohort = &cohorts_[cohort_count_ - 1];
            cohort->holders.join(holders);
            if (holders.list) pfree(holders.list);
        }
        MemoryContextSwitchTo(caller);
        for (int i = 0; i < kept_count_; ++i) {
            if (kept_[i].cohort == kWantsCohort) kept_[i].cohort = cohort->id;
        }
    }

    bool changed = kept_count_ != count_;
    swap_values(list_, kept_);
    swap_values(count_, kept_count_);
    swap_values(capacity_, kept_capacity_);
    if (changed || fallback_ms_ == 0) {
        fallback_ms_ = kFirstFallbackMs;
    } else {
        fallback_ms_ = Min(fallback_ms_ * 2, kLongestFallbackMs);
    }
}

long Gaps::recheck_ms() const {
    if (empty()) return -1;
    for (const Gap& gap : *this) {
        if (TransactionIdIsValid(gap.owner)) continue;
        if (gap.cohort < kFirstCohort) return kSoonMs;
        for (int i = 0; i < cohort_count_; ++i) {
            if (cohorts_[i].id == gap.cohort && cohorts_[i].holders.count == 0) return kSoonMs;
        }
    }
    return fallback_ms_;
}

bool Gaps::any_between(int64 from, int64 to, bool (*present)(void* context, int64 from, int64 to),
                       void* context) const {
    for (const Gap& gap : *this) {
        if (gap.from > to || gap.to < from) continue;
        if (present(context, Max(gap.from, from), Min(gap.to, to))) return true;
    }
    return false;
}

}  // namespace outbox
