// outbox-mock-broker: librdkafka's mock cluster for the demo and for tests. Never installed.
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <poll.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Topic {
    std::string name;
    int partitions;
};

struct Arguments {
    int brokers = 1;
    std::vector<Topic> topics;
};

[[noreturn]] void usage(FILE* to, int status) {
    std::fprintf(
        to,
        "outbox-mock-broker [--brokers N] [--topics NAME:PARTITIONS,...]\n\n"
        "Prints its bootstrap address and serves until its standard input ends or it is\n"
        "told to terminate. Other topics appear, with 4 partitions, when somebody asks for\n"
        "them. Nothing is kept: every partition holds a few megabytes.\n");
    std::exit(status);
}

int positive(std::string_view text) {
    int number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < 1) usage(stderr, 64);
    return number;
}

std::vector<Topic> parse_topics(std::string_view list) {
    std::vector<Topic> topics;
    while (!list.empty()) {
        std::string_view one = list.substr(0, list.find(','));
        list.remove_prefix(std::min(one.size() + 1, list.size()));
        size_t colon = one.rfind(':');
        if (colon == std::string_view::npos || colon == 0) usage(stderr, 64);
        topics.push_back({std::string(one.substr(0, colon)), positive(one.substr(colon + 1))});
    }
    return topics;
}

Arguments parse(int argc, char** argv) {
    Arguments arguments;
    for (int i = 1; i < argc; ++i) {
        std::string_view name = argv[i];
        if (name == "--help") usage(stdout, 0);
        if (i + 1 == argc) usage(stderr, 64);
        std::string_view value = argv[++i];
        if (name == "--brokers")
            arguments.brokers = positive(value);
        else if (name == "--topics")
            arguments.topics = parse_topics(value);
        else
            usage(stderr, 64);
    }
    return arguments;
}

volatile std::sig_atomic_t stop = 0;

void wait_for_the_end() {
    for (;;) {
        pollfd input{STDIN_FILENO, POLLIN, 0};
        ::poll(&input, 1, -1);
        if (stop != 0) return;
        char rest[4096];
        if (input.revents != 0 && ::read(STDIN_FILENO, rest, sizeof(rest)) <= 0) return;
    }
}

}  // namespace

int main(int argc, char** argv) {
    const Arguments arguments = parse(argc, argv);
    struct sigaction on_signal {};
    on_signal.sa_handler = [](int) { stop = 1; };
    for (int signal : {SIGTERM, SIGINT})
        ::sigaction(signal, &on_signal, nullptr);

    // The cluster lives in a client that talks to nobody.
    char text[512];
    rd_kafka_t* host = rd_kafka_new(RD_KAFKA_PRODUCER, nullptr, text, sizeof(text));
    if (host == nullptr) {
        std::fprintf(stderr, "outbox-mock-broker: %s\n", text);
        return 70;
    }
    rd_kafka_mock_cluster_t* cluster = rd_kafka_mock_cluster_new(host, arguments.brokers);
    for (const Topic& topic : arguments.topics) {
        rd_kafka_resp_err_t error = rd_kafka_mock_topic_create(cluster, topic.name.c_str(),
                                                               topic.partitions, arguments.brokers);
        if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
            std::fprintf(stderr, "outbox-mock-broker: topic %s: %s\n", topic.name.c_str(),
                         rd_kafka_err2str(error));
            return 70;
        }
    }
    std::printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
    std::fflush(stdout);
    wait_for_the_end();
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(host);
    return 0;
}
