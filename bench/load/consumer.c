/* Reads a topic from beginning or end, judges it and says when things came. Bench only.
 *
 * consumer BOOTSTRAP TOPIC PARTITIONS NAME=VALUE ...
 *     capacity=N   highest number that may come
 *     count=N      messages 1 .. N were sent, all of them; without it standard input will say
 * "count N" bytes=B keys=K headers=H   as in messages.h; 0, 0 and -1: any from=end     only what is
 * sent from now on; "ready" on standard output says that now is over timeout=S    seconds, from the
 * moment at which the count is known, after which what has not come is lost arrivals=FILE   at the
 * end: for each number from 0 on, when it came first (int64, nanoseconds since 1970, 0: never)
 *     series=FILE     ten times a second: nanoseconds since 1970, messages so far
 *     sparse=1        N messages were sent, but not all of the numbers 1 .. N: how many are lost is
 * said, and which of them the caller sees in FILE
 * Standard input: "count N" and "stop" (judge what is there), a line each; its end means nothing.
 * Standard output: the verdict, one line of JSON. Exit status 0 whatever the verdict is.
 *
 * consumer --forged NAME=VALUE ... judges lines of standard input instead: partition, key, value
 * and name=value headers, separated by tabs. For tests of the judge. */
#include "client.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <unistd.h>

#include "judge.h"

enum { BATCH = 10000, MOST_HEADERS = 16, MOST_PARTITIONS = 1024 };

static struct {
    int64_t count;
    double timeout;
    int sparse;
    const char *arrivals, *series;
    int64_t from;
} options = {.count = -1, .timeout = 60, .from = RD_KAFKA_OFFSET_BEGINNING};

static struct {
    int64_t first, last, last_new;         /* arrivals by our clock, nanoseconds */
    int64_t first_appended, last_appended; /* the messages' timestamps, milliseconds */
    int64_t value_bytes;
} seen;

static void read_option(Judge* judge, const char* argument) {
    const char* value = strchr(argument, '=');
    if (!value) fail("not NAME=VALUE", argument);
    size_t length = (size_t)(value++ - argument);
    if (same(argument, length, "capacity"))
        judge->capacity = atoll(value);
    else if (same(argument, length, "count"))
        options.count = atoll(value);
    else if (same(argument, length, "bytes"))
        judge->bytes = atoll(value);
    else if (same(argument, length, "keys"))
        judge->keys = atoll(value);
    else if (same(argument, length, "headers"))
        judge->headers = atoi(value);
    else if (same(argument, length, "timeout"))
        options.timeout = atof(value);
    else if (same(argument, length, "sparse"))
        options.sparse = atoi(value);
    else if (same(argument, length, "arrivals"))
        options.arrivals = value;
    else if (same(argument, length, "series"))
        options.series = value;
    else if (same(argument, length, "from"))
        options.from = strcmp(value, "end") == 0 ? RD_KAFKA_OFFSET_END : RD_KAFKA_OFFSET_BEGINNING;
    else
        fail("no such option", argument);
}

static void write_arrivals(const Judge* judge) {
    if (!options.arrivals) return;
    FILE* file = fopen(options.arrivals, "wb");
    if (!file) fail(options.arrivals, strerror(errno));
    fwrite(judge->arrivals, sizeof(*judge->arrivals), (size_t)judge->capacity + 1, file);
    if (fclose(file)) fail(options.arrivals, strerror(errno));
}

static void write_verdict(Judge* judge) {
    int64_t count = options.count < 0 ? judge->distinct : options.count;
    int64_t absent = count > judge->distinct ? count - judge->distinct : 0;
    int64_t lost = options.sparse ? absent : judge_lost(judge, count);
    printf("{\"counted\": %s, \"count\": %" PRId64 ", \"messages\": %" PRId64
           ", \"distinct\": %" PRId64 ", \"lost\": %" PRId64 ", \"duplicates\": %" PRId64
           ", \"disorder\": %" PRId64 ", \"scattered\": %" PRId64 ", \"changed\": %" PRId64
           ", \"strange\": %" PRId64 ", \"first_ns\": %" PRId64 ", \"last_ns\": %" PRId64
           ", \"first_appended_ms\": %" PRId64 ", \"last_appended_ms\": %" PRId64
           ", \"value_bytes\": %" PRId64 ", \"complaint\": \"%s\"}\n",
           options.count < 0 ? "false" : "true", count, judge->messages, judge->distinct, lost,
           judge->duplicates, judge->disorder, judge->scattered, judge->changed, judge->strange,
           seen.first, seen.last_new, seen.first_appended, seen.last_appended, seen.value_bytes,
           judge->first_complaint);
    fflush(stdout);
}

/* -- forged streams
 * ---------------------------------------------------------------------------------------- */

static void judge_line(Judge* judge, char* line) {
    char* fields[3 + MOST_HEADERS];
    int count = 0;
    line[strcspn(line, "\n")] = 0;
    for (char* field = strsep(&line, "\t"); field && count < 3 + MOST_HEADERS;
         field = strsep(&line, "\t"))
        fields[count++] = field;
    if (count < 3) fail("a forged message has a partition, a key and a value", fields[0]);
    Header headers[MOST_HEADERS];
    for (int i = 3; i < count; ++i) {
        char* value = strchr(fields[i], '=');
        if (!value) fail("a header is name=value", fields[i]);
        headers[i - 3] =
            (Header){fields[i], (size_t)(value - fields[i]), value + 1, strlen(value + 1)};
    }
    judge_message(judge, atoi(fields[0]), fields[1], strlen(fields[1]), fields[2],
                  strlen(fields[2]), headers, count - 3, now_ns());
}

static int judge_forged(Judge* judge, int argc, char** argv) {
    for (int i = 2; i < argc; ++i)
        read_option(judge, argv[i]);
    judge_open(judge);
    char* line = NULL;
    size_t size = 0;
    while (getline(&line, &size, stdin) > 0)
        judge_line(judge, line);
    free(line);
    write_arrivals(judge);
    write_verdict(judge);
    return 0;
}

/* -- a topic
 * -----------------------------------------------------------------------------------------------
 */

static int partitions, at_end;
static char ended[MOST_PARTITIONS];

static void take(Judge* judge, rd_kafka_message_t* message, int64_t now) {
    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        at_end += !ended[message->partition];
        ended[message->partition] = 1;
    } else if (message->err) {
        fprintf(stderr, "consumer: %s\n", rd_kafka_message_errstr(message));
    } else {
        at_end -= ended[message->partition];
        ended[message->partition] = 0;
        Header headers[MOST_HEADERS];
        int count = 0;
        rd_kafka_headers_t* list;
        if (judge->headers >= 0 && rd_kafka_message_headers(message, &list) == 0) {
            const void* value;
            for (; count < MOST_HEADERS &&
                   rd_kafka_header_get_all(list, (size_t)count, &headers[count].name, &value,
                                           &headers[count].value_length) == 0;
                 ++count) {
                headers[count].name_length = strlen(headers[count].name);
                headers[count].value = value;
            }
        }
        int64_t distinct = judge->distinct;
        judge_message(judge, message->partition, message->key, message->key_len, message->payload,
                      message->len, headers, count, now);
        int64_t appended = rd_kafka_message_timestamp(message, NULL);
        if (appended > seen.last_appended) seen.last_appended = appended;
        if (!seen.first_appended || appended < seen.first_appended) seen.first_appended = appended;
        if (!seen.first) seen.first = now;
        seen.last = now;
        if (judge->distinct > distinct) seen.last_new = now;
        seen.value_bytes += (int64_t)message->len;
    }
    rd_kafka_message_destroy(message);
}

static rd_kafka_t* connect_to(const char* bootstrap) {
    char error[256];
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", bootstrap);
    set(conf, "group.id", "bench");
    set(conf, "enable.partition.eof", "true");
    set(conf, "fetch.wait.max.ms", "100");
    set(conf, "fetch.message.max.bytes", "4194304");
    set(conf, "queued.max.messages.kbytes", "65536");
    set(conf, "socket.nagle.disable", "true");
    /* Where a broker comes back it is others who are measured. And it may be away as long as it
     * likes. */
    set(conf, "reconnect.backoff.ms", "20");
    set(conf, "reconnect.backoff.max.ms", "100");
    set(conf, "fetch.error.backoff.ms", "50");
    set(conf, "log_level", "2");
    rd_kafka_t* client = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
    if (!client) fail("no consumer", error);
    return client;
}

/* What standard input has to say; 0 means stop. */
static int listen_to_input(int64_t* deadline) {
    static char line[64];
    static size_t length;
    static int closed;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (!closed && poll(&input, 1, 0) == 1) {
        if (read(0, line + length, 1) != 1) {
            closed = 1;
        } else if (line[length] != '\n') {
            length += length < sizeof(line) - 2;
        } else {
            line[length] = 0;
            length = 0;
            if (strcmp(line, "stop") == 0) return 0;
            if (sscanf(line, "count %" SCNd64, &options.count) == 1)
                *deadline = now_ns() + (int64_t)(options.timeout * 1e9);
        }
    }
    return 1;
}

/* A new topic's leaders are named a moment before they know of it themselves. */
static int64_t end_of(rd_kafka_t* client, const char* name, int partition) {
    int64_t low, high;
    for (int left = 100; rd_kafka_query_watermark_offsets(client, name, partition, &low, &high,
                                                          30000) != RD_KAFKA_RESP_ERR_NO_ERROR;) {
        if (--left == 0) fail(name, "does not tell its offsets");
        usleep(100000);
    }
    return high;
}

/* Where the topic's partitions end now. Reading from there on is exact, whoever writes meanwhile.
 */
static void start(rd_kafka_t* client, rd_kafka_topic_t* topic, const char* name,
                  rd_kafka_queue_t* queue) {
    for (int partition = 0; partition < partitions; ++partition) {
        int64_t from = options.from;
        if (from == RD_KAFKA_OFFSET_END) from = end_of(client, name, partition);
        if (rd_kafka_consume_start_queue(topic, partition, from, queue))
            fail(name, "cannot be read");
    }
}

static void consume(Judge* judge, rd_kafka_queue_t* queue) {
    rd_kafka_message_t** batch = zeroed(BATCH, sizeof(*batch));
    FILE* series = options.series ? fopen(options.series, "w") : NULL;
    int64_t deadline = options.count >= 0 ? now_ns() + (int64_t)(options.timeout * 1e9) : INT64_MAX;
    int64_t next_line = 0;
    for (;;) {
        /* One alone is waited for, then what is there is taken: waiting for a batch would wait
         * until it is full. */
        rd_kafka_message_t* message = rd_kafka_consume_queue(queue, 20);
        int64_t now = now_ns();
        if (message) {
            take(judge, message, now);
            ssize_t count = rd_kafka_consume_batch_queue(queue, 0, batch, BATCH);
            now = now_ns();
            for (ssize_t i = 0; i < count; ++i)
                take(judge, batch[i], now);
        }
        if (series && now >= next_line) {
            fprintf(series, "%" PRId64 " %" PRId64 "\n", now, judge->distinct);
            next_line = now + 100000000;
        }
        if (!listen_to_input(&deadline) || now > deadline) break;
        if (options.count >= 0 && judge->distinct >= options.count && at_end == partitions) break;
    }
    if (series) {
        fprintf(series, "%" PRId64 " %" PRId64 "\n", now_ns(), judge->distinct);
        fclose(series);
    }
    free(batch);
}

int main(int argc, char** argv) {
    Judge judge = {.headers = -1};
    if (argc > 1 && strcmp(argv[1], "--forged") == 0) return judge_forged(&judge, argc, argv);
    if (argc < 4) return 2;
    for (int i = 4; i < argc; ++i)
        read_option(&judge, argv[i]);
    if (judge.capacity < options.count) judge.capacity = options.count;
    partitions = atoi(argv[3]);
    if (partitions < 1 || partitions > MOST_PARTITIONS) fail("partitions", argv[3]);
    judge_open(&judge);
    rd_kafka_t* client = connect_to(argv[1]);
    rd_kafka_topic_t* topic = rd_kafka_topic_new(client, argv[2], NULL);
    rd_kafka_queue_t* queue = rd_kafka_queue_new(client);
    start(client, topic, argv[2], queue);
    puts("ready");
    fflush(stdout);
    consume(&judge, queue);
    write_arrivals(&judge);
    write_verdict(&judge);
    /* Closing a client takes a while, and everything has been said. */
    _exit(0);
}
