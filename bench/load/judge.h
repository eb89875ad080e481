/* Judges a stream of messages: count, loss, duplicates, order per key, every byte. Knows nothing of
 * Kafka. Bench only. */
#ifndef OUTBOX_BENCH_JUDGE_H
#define OUTBOX_BENCH_JUDGE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "messages.h"

typedef struct {
    const char* name;
    size_t name_length;
    const char* value;
    size_t value_length;
} Header;

/* A key's latest number, and the partition that it lives in. */
typedef struct {
    uint64_t hash; /* 0: free */
    int64_t last;
    int32_t partition;
} Key;

typedef struct {
    /* What is expected. */
    int64_t capacity; /* numbers beyond it are strange */
    int64_t bytes;    /* of a value; 0: whatever follows the number and a blank */
    int64_t keys;     /* a key is the number modulo this; 0: any key */
    int headers;      /* of the user's; -1: any */
    /* What has been seen. */
    int64_t messages, distinct, duplicates, disorder, scattered, changed, strange;
    char first_complaint[200];
    int64_t* arrivals; /* by number: when it came first, in nanoseconds; 0: not yet */
    Key* table;
    size_t slots, used;
    char* filler;
} Judge;

static inline void* zeroed(size_t count, size_t size) {
    void* memory = calloc(count, size);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static inline void judge_open(Judge* judge) {
    judge->arrivals = zeroed((size_t)judge->capacity + 1, sizeof(*judge->arrivals));
    judge->slots = 1 << 15;
    judge->table = zeroed(judge->slots, sizeof(*judge->table));
    judge->filler = zeroed((size_t)judge->bytes + 1, 1);
    memset(judge->filler, 'x', (size_t)judge->bytes);
}

static inline Key* slot_of(Key* table, size_t slots, uint64_t hash) {
    size_t at = hash & (slots - 1);
    while (table[at].hash != 0 && table[at].hash != hash)
        at = (at + 1) & (slots - 1);
    return &table[at];
}

static inline void grow(Judge* judge) {
    size_t slots = judge->slots * 2;
    Key* table = zeroed(slots, sizeof(*table));
    for (size_t i = 0; i < judge->slots; ++i)
        if (judge->table[i].hash) *slot_of(table, slots, judge->table[i].hash) = judge->table[i];
    free(judge->table);
    judge->table = table;
    judge->slots = slots;
}

/* FNV-1a, mixed at the end because the low bits choose the slot: keys whose hashes are equal would
 * be taken for one. */
static inline uint64_t hash_of(const char* key, size_t length) {
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < length; ++i)
        hash = (hash ^ (unsigned char)key[i]) * 1099511628211u;
    hash = (hash ^ (hash >> 31)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
    return hash ? hash : 1;
}

static inline Key* key_of(Judge* judge, const char* key, size_t length) {
    uint64_t hash = hash_of(key, length);
    Key* found = slot_of(judge->table, judge->slots, hash);
    if (found->hash == 0) {
        if (++judge->used * 2 > judge->slots) {
            grow(judge);
            found = slot_of(judge->table, judge->slots, hash);
        }
        found->hash = hash;
        found->partition = -1;
    }
    return found;
}

static inline void complain(Judge* judge, const char* what, int64_t number) {
    if (judge->first_complaint[0]) return;
    snprintf(judge->first_complaint, sizeof(judge->first_complaint), "%s: message %lld", what,
             (long long)number);
}

/* The number that the value opens with, or -1. */
static inline int64_t number_of(const char* value, size_t length, size_t* digits) {
    int64_t number = 0;
    size_t at = 0;
    while (at < length && at < 18 && value[at] >= '0' && value[at] <= '9')
        number = number * 10 + (value[at++] - '0');
    *digits = at;
    return at > 0 && at < length && value[at] == ' ' ? number : -1;
}

static inline int value_is_right(const Judge* judge, const char* value, size_t length,
                                 size_t digits) {
    if (judge->bytes == 0) return 1;
    return length == (size_t)judge->bytes &&
           memcmp(value + digits + 1, judge->filler, length - digits - 1) == 0;
}

static inline int key_is_right(const Judge* judge, int64_t number, const char* key, size_t length) {
    if (judge->keys == 0) return 1;
    char expected[NUMBER_BYTES];
    size_t digits = write_number(expected, (unsigned long)(number % judge->keys));
    return length == digits && memcmp(key, expected, digits) == 0;
}

static inline int same(const char* a, size_t length, const char* b) {
    return strlen(b) == length && memcmp(a, b, length) == 0;
}

static inline int headers_are_right(const Judge* judge, const Header* headers, int count) {
    if (judge->headers < 0) return 1;
    if (count != 1 + judge->headers) return 0;
    if (!same(headers[0].name, headers[0].name_length, "id") || headers[0].value_length != ID_BYTES)
        return 0;
    for (int i = 0; i < judge->headers; ++i)
        if (!same(headers[i + 1].name, headers[i + 1].name_length, user_headers[i].name) ||
            !same(headers[i + 1].value, headers[i + 1].value_length, user_headers[i].value))
            return 0;
    return 1;
}

static inline void judge_message(Judge* judge, int32_t partition, const char* key,
                                 size_t key_length, const char* value, size_t value_length,
                                 const Header* headers, int header_count, int64_t now) {
    size_t digits;
    int64_t number = number_of(value, value_length, &digits);
    ++judge->messages;
    if (number < 1 || number > judge->capacity) {
        ++judge->strange;
        complain(judge, "a number that was never sent", number);
        return;
    }
    if (!value_is_right(judge, value, value_length, digits) ||
        !key_is_right(judge, number, key, key_length) ||
        !headers_are_right(judge, headers, header_count)) {
        ++judge->changed;
        complain(judge, "other bytes than were sent", number);
    }
    Key* known = key_of(judge, key, key_length);
    /* Order across partitions cannot be seen from outside, so a key has to keep to one. */
    if (known->partition >= 0 && known->partition != partition) {
        ++judge->scattered;
        complain(judge, "a key in two partitions", number);
    }
    known->partition = partition;
    if (judge->arrivals[number]) {
        ++judge->duplicates;
        return;
    }
    judge->arrivals[number] = now;
    ++judge->distinct;
    if (number < known->last) {
        ++judge->disorder;
        complain(judge, "behind a later one of its key", number);
    } else {
        known->last = number;
    }
}

/* How many of 1 .. count have not come. What came beyond count is strange: it was never sent. */
static inline int64_t judge_lost(Judge* judge, int64_t count) {
    int64_t lost = 0;
    for (int64_t number = 1; number <= judge->capacity; ++number) {
        if (number <= count && !judge->arrivals[number]) {
            complain(judge, "never came", number);
            ++lost;
        } else if (number > count && judge->arrivals[number]) {
            ++judge->strange;
            complain(judge, "a number that was never sent", number);
        }
    }
    return lost;
}

#endif
