// The hash by which Java's producer, and librdkafka's murmur2 partitioners, choose a partition.
// Session's backend.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace outbox {

// org.apache.kafka.common.utils.Utils.murmur2(). The partition is its lower 31 bits modulo the
// number of partitions.
inline uint32_t murmur2(const char* data, size_t length) {
    constexpr uint32_t kSeed = 0x9747b28c;
    constexpr uint32_t kMultiplier = 0x5bd1e995;
    uint32_t hash = kSeed ^ static_cast<uint32_t>(length);
    while (length >= 4) {
        uint32_t word;
        memcpy(&word, data, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap32(word);
#endif
        word *= kMultiplier;
        word ^= word >> 24;
        word *= kMultiplier;
        hash = hash * kMultiplier ^ word;
        data += 4;
        length -= 4;
    }
    for (size_t i = length; i-- > 0;)
        hash ^= static_cast<uint32_t>(static_cast<uint8_t>(data[i])) << 8 * i;
    if (length > 0) hash *= kMultiplier;
    hash ^= hash >> 13;
    hash *= kMultiplier;
    return hash ^ hash >> 15;
}

}  // namespace outbox
