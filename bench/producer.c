/* The yardstick: fills a topic as fast as librdkafka can, with the messages that the relay would send. Bench only.
 *
 * producer BOOTSTRAP TOPIC COUNT BYTES: COUNT messages of BYTES bytes, keys 1 to COUNT, one header `id` of 36
 * bytes, acks=all, idempotent. Prints the seconds from the first message to the last acknowledgement. */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static long delivered, failed;

static void on_report(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
    (void)client;
    (void)opaque;
    if (message->err)
        ++failed;
    else
        ++delivered;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char error[256];
    if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) == RD_KAFKA_CONF_OK) return;
    fprintf(stderr, "%s\n", error);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    long count = atol(argv[3]);
    size_t bytes = (size_t)atol(argv[4]);
    char error[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", argv[1]);
    set(conf, "acks", "all");
    set(conf, "enable.idempotence", "true");
    set(conf, "partitioner", "murmur2_random");
    set(conf, "linger.ms", "5");
    set(conf, "queue.buffering.max.messages", "1000000");
    rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    rd_kafka_t *client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
    if (!client) return 1;
    const struct rd_kafka_metadata *metadata;
    if (rd_kafka_metadata(client, 1, NULL, &metadata, 10000)) return 1;
    rd_kafka_metadata_destroy(metadata);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(client, argv[2], NULL);
    char *payload = malloc(bytes);
    memset(payload, 'x', bytes);
    const char id[] = "01a1fd2f-d6ea-7b12-a59f-9a1861c346b7";
    char key[32];
    double start = now();
    for (long i = 1; i <= count; ++i) {
        int length = snprintf(key, sizeof(key), "%ld", i);
        rd_kafka_headers_t *headers = rd_kafka_headers_new(1);
        rd_kafka_header_add(headers, "id", 2, id, sizeof(id) - 1);
        while (rd_kafka_producev(client, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_KEY(key, (size_t)length),
                                 RD_KAFKA_V_VALUE(payload, bytes), RD_KAFKA_V_HEADERS(headers),
                                 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END))
            rd_kafka_poll(client, 10);
        rd_kafka_poll(client, 0);
    }
    while (delivered + failed < count) rd_kafka_poll(client, 100);
    printf("%.6f\n", now() - start);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(client);
    return failed != 0;
}
