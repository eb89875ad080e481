/* Produces at random moments (Poisson), straight to the broker: what of a latency is librdkafka's,
 * the broker's and the consumer's, whoever the relay is. Bench only.
 *
 * pacer BOOTSTRAP TOPIC RATE SECONDS BYTES KEYS SEED FILE [EVERY]: messages as in messages.h, one
 * header `id`, acks=all, idempotent, no linger. With EVERY they are handed over together every so
 * many milliseconds, as a relay that paces itself does. Writes for each number from 0 on when it
 * was due, handed over and acknowledged (int64 each, nanoseconds since 1970, 0: never), and prints
 * how many there are. */
#include "client.h"

#include <math.h>

#include "messages.h"

typedef struct {
    int64_t due, produced, acknowledged;
} Times;

static Times* times;
static long acknowledged, failed;

static void on_report(rd_kafka_t* client, const rd_kafka_message_t* message, void* opaque) {
    (void)client;
    (void)opaque;
    if (message->err)
        ++failed;
    else
        ++acknowledged;
    times[(intptr_t)message->_private].acknowledged = message->err ? 0 : now_ns();
}

static rd_kafka_t* connect_to(const char* bootstrap) {
    char error[256];
    rd_kafka_conf_t* conf = producer_conf(bootstrap);
    set(conf, "linger.ms", "0");
    set(conf, "socket.nagle.disable", "true");
    rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    rd_kafka_t* client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
    if (!client) fail("no producer", error);
    return client;
}

/* Reports are taken while it waits, by a thread's sleep in poll: no turn of the processor is
 * wasted. */
static void wait_until(rd_kafka_t* client, int64_t due) {
    for (;;) {
        int64_t rest = due - now_ns();
        if (rest <= 0) return;
        if (rest > 2000000) {
            rd_kafka_poll(client, (int)(rest / 1000000) - 1);
            continue;
        }
        rd_kafka_poll(client, 0);
        struct timespec pause = {.tv_nsec = rest > 200000 ? 200000 : rest};
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char** argv) {
    if (argc != 9 && argc != 10) return 2;
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    size_t bytes = (size_t)atol(argv[5]);
    unsigned long keys = (unsigned long)atol(argv[6]);
    long most = (long)(rate * seconds * 1.5) + 1000, count = 0;
    int64_t every = argc == 10 ? atol(argv[9]) * 1000000 : 1;
    srand48(atol(argv[7]));
    times = calloc((size_t)most + 1, sizeof(*times));
    char* value = malloc(bytes);
    if (!times || !value) fail("memory", "there is none");
    rd_kafka_t* client = connect_to(argv[1]);
    const struct rd_kafka_metadata* metadata;
    rd_kafka_topic_t* topic = rd_kafka_topic_new(client, argv[2], NULL);
    if (rd_kafka_metadata(client, 0, topic, &metadata, 10000)) fail(argv[2], "no metadata");
    rd_kafka_metadata_destroy(metadata);
    const char id[] = "01a1fd2f-d6ea-7b12-a59f-9a1861c346b7";
    int64_t due = now_ns(), end = due + (int64_t)(seconds * 1e9);
    for (;;) {
        due += (int64_t)(-log(1 - drand48()) / rate * 1e9);
        if (due > end || count == most) break;
        wait_until(client, (due + every - 1) / every * every);
        ++count;
        char key[NUMBER_BYTES];
        size_t key_length = write_number(key, (unsigned long)count % keys);
        memset(value, 'x', bytes);
        value[write_number(value, (unsigned long)count)] = ' ';
        rd_kafka_headers_t* headers = rd_kafka_headers_new(1);
        rd_kafka_header_add(headers, "id", 2, id, ID_BYTES);
        times[count].due = due;
        times[count].produced = now_ns();
        while (rd_kafka_producev(client, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_KEY(key, key_length),
                                 RD_KAFKA_V_VALUE(value, bytes), RD_KAFKA_V_HEADERS(headers),
                                 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                 RD_KAFKA_V_OPAQUE((void*)(intptr_t)count), RD_KAFKA_V_END))
            rd_kafka_poll(client, 10);
        rd_kafka_poll(client, 0);
    }
    while (acknowledged + failed < count)
        rd_kafka_poll(client, 100);
    FILE* file = fopen(argv[8], "wb");
    if (!file) fail(argv[8], strerror(errno));
    fwrite(times, sizeof(*times), (size_t)count + 1, file);
    if (fclose(file)) fail(argv[8], strerror(errno));
    printf("%ld\n", count);
    return failed > 0;
}
