// Makes version 7 UUIDs. Session's backend.
#include "session/uuid7.hpp"

#include <time.h>

namespace outbox {

namespace {

// Strong random numbers are asked for in bulk: one at a time they cost more than the rest of an
// emit(). The server forks its backends before any of them emits, so no two processes share a pool.
void random_bytes(uint8* out, size_t length) {
    static uint8 pool[1024];
    static size_t left = 0;
    if (left < length) {
        if (!pg_strong_random(pool, sizeof(pool))) {
            ereport(ERROR,
                    (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random values")));
        }
        left = sizeof(pool);
    }
    left -= length;
    memcpy(out, pool + left, length);
}

// Nanoseconds since 1970, strictly growing by at least the 244 ns that 12 bits of a millisecond can
// tell.
uint64 next_time() {
    static uint64 last = 0;
    constexpr uint64 kStep = 1000000 / 4096 + 1;
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64 nanoseconds =
        static_cast<uint64>(now.tv_sec) * 1000000000u + static_cast<uint64>(now.tv_nsec);
    if (nanoseconds < last + kStep) nanoseconds = last + kStep;
    last = nanoseconds;
    return nanoseconds;
}

}  // namespace

void make_uuid7(uint8 id[UUID_LEN]) {
    uint64 nanoseconds = next_time();
    uint64 milliseconds = nanoseconds / 1000000u;
    uint32 fraction = static_cast<uint32>((nanoseconds % 1000000u) * 4096u / 1000000u);
    for (int i = 0; i < 6; ++i)
        id[i] = static_cast<uint8>(milliseconds >> (40 - 8 * i));
    id[6] = static_cast<uint8>(0x70 | (fraction >> 8));
    id[7] = static_cast<uint8>(fraction);
    random_bytes(id + 8, 8);
    id[8] = static_cast<uint8>((id[8] & 0x3f) | 0x80);
}

}  // namespace outbox
