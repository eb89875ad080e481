/* What the programs here have in common as clients of a broker. Bench only. */
#ifndef OUTBOX_BENCH_CLIENT_H
#define OUTBOX_BENCH_CLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* the name of the program */
#endif

#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline void fail(const char* what, const char* why) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, why);
    exit(1);
}

static inline void set(rd_kafka_conf_t* conf, const char* name, const char* value) {
    char error[256];
    if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != RD_KAFKA_CONF_OK)
        fail(name, error);
}

/* What the relay's own client would promise: acknowledged by all, once, where Java would put it. */
static inline rd_kafka_conf_t* producer_conf(const char* bootstrap) {
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", bootstrap);
    set(conf, "acks", "all");
    set(conf, "enable.idempotence", "true");
    set(conf, "partitioner", "murmur2_random");
    return conf;
}

#endif
