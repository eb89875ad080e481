/* The yardstick: fills a topic as fast as librdkafka can, with the messages that the relay would
 * send. Bench only.
 *
 * producer BOOTSTRAP TOPICS COUNT BYTES KEYS HEADERS [NAME=VALUE ...]: messages as in messages.h,
 * 1 .. COUNT in each of TOPICS (with commas between them), which take turns, with HEADERS (0 or 4)
 * of the user's; acks=all, idempotent; NAME=VALUE are properties of the client
 * (compression.type=lz4). Prints the seconds from the first message to the last acknowledgement,
 * and when (nanoseconds since 1970) the first was given. */
#include "client.h"
#include "messages.h"

#define MAX_TOPICS 1000

static long delivered, failed;

static void on_report(rd_kafka_t* client, const rd_kafka_message_t* message, void* opaque) {
    (void)client;
    (void)opaque;
    if (message->err)
        ++failed;
    else
        ++delivered;
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static rd_kafka_t* connect_to(const char* bootstrap, char** properties, int count) {
    char error[256];
    rd_kafka_conf_t* conf = producer_conf(bootstrap);
    set(conf, "linger.ms", "5");
    set(conf, "queue.buffering.max.messages", "1000000");
    for (int i = 0; i < count; ++i) {
        char* value = strchr(properties[i], '=');
        if (!value) exit(2);
        *value++ = 0;
        set(conf, properties[i], value);
    }
    rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    rd_kafka_t* client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
    const struct rd_kafka_metadata* metadata;
    if (!client || rd_kafka_metadata(client, 1, NULL, &metadata, 10000)) exit(1);
    rd_kafka_metadata_destroy(metadata);
    return client;
}

static size_t open_topics(rd_kafka_t* client, char* names, rd_kafka_topic_t** topics) {
    size_t count = 0;
    for (char* name = strtok(names, ","); name; name = strtok(NULL, ",")) {
        if (count == MAX_TOPICS) exit(2);
        topics[count++] = rd_kafka_topic_new(client, name, NULL);
    }
    return count;
}

int main(int argc, char** argv) {
    if (argc < 7) return 2;
    long count = atol(argv[3]), keys = atol(argv[5]);
    size_t bytes = (size_t)atol(argv[4]);
    size_t user = (size_t)atol(argv[6]);
    if (user > USER_HEADERS || bytes < NUMBER_BYTES || keys < 1) return 2;
    rd_kafka_t* client = connect_to(argv[1], argv + 7, argc - 7);
    rd_kafka_topic_t* topics[MAX_TOPICS];
    size_t topic_count = open_topics(client, argv[2], topics);
    if (topic_count == 0) return 2;
    /* Numbers grow, so what one leaves behind of the filler is never short. */
    char* payload = malloc(bytes);
    memset(payload, 'x', bytes);
    const char id[] = "01a1fd2f-d6ea-7b12-a59f-9a1861c346b7";
    double wall = now(CLOCK_REALTIME), start = now(CLOCK_MONOTONIC);
    count *= (long)topic_count;
    for (long sent = 0; sent < count; ++sent) {
        rd_kafka_topic_t* topic = topics[sent % (long)topic_count];
        long i = sent / (long)topic_count + 1;
        char key[NUMBER_BYTES];
        size_t length = write_number(key, (unsigned long)(i % keys));
        payload[write_number(payload, (unsigned long)i)] = ' ';
        rd_kafka_headers_t* headers = rd_kafka_headers_new(1 + user);
        rd_kafka_header_add(headers, "id", 2, id, ID_BYTES);
        for (size_t h = 0; h < user; ++h)
            rd_kafka_header_add(headers, user_headers[h].name, -1, user_headers[h].value, -1);
        while (rd_kafka_producev(client, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_KEY(key, length),
                                 RD_KAFKA_V_VALUE(payload, bytes), RD_KAFKA_V_HEADERS(headers),
                                 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END))
            rd_kafka_poll(client, 10);
        rd_kafka_poll(client, 0);
    }
    while (delivered + failed < count)
        rd_kafka_poll(client, 100);
    printf("{\"seconds\": %.6f, \"started\": %.6f}\n", now(CLOCK_MONOTONIC) - start, wall);
    for (size_t t = 0; t < topic_count; ++t)
        rd_kafka_topic_destroy(topics[t]);
    rd_kafka_destroy(client);
    return failed != 0;
}
