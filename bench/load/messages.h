/* What a message of the benchmarks holds, so that whoever reads it can compute it anew. Bench only.
 *
 * Message g (1, 2, 3 ...): the value is g in decimal, a blank, then 'x' up to the size; the key is
 * g modulo the number of keys in decimal; the first header is `id` with 36 bytes; the user's
 * headers, if there are any, are those below, in this order, which is the one in which jsonb keeps
 * them. measure/messages.py says the same in Python and SQL. */
#ifndef OUTBOX_BENCH_MESSAGES_H
#define OUTBOX_BENCH_MESSAGES_H

#include <stddef.h>
#include <string.h>

enum { USER_HEADERS = 4, ID_BYTES = 36, NUMBER_BYTES = 20 };

static const struct {
    const char* name;
    const char* value;
} user_headers[USER_HEADERS] = {
    {"type", "order.created"},
    {"trace", "4bf92f3577b34da6a3ce929d0e0e4736"},
    {"source", "shop-service"},
    {"tenant", "northwind"},
};

/* Writes the decimal digits of `number` and returns how many there are. */
static inline size_t write_number(char* to, unsigned long number) {
    char digits[NUMBER_BYTES];
    size_t length = 0;
    do {
        digits[length++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    for (size_t i = 0; i < length; ++i)
        to[i] = digits[length - 1 - i];
    return length;
}

#endif
