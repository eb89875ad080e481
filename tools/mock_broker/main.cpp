// outbox-mock-broker: librdkafka's mock cluster for the demo and for tests. Never installed.
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <poll.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
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
        "them. Nothing is kept: every partition holds a few megabytes.\n\n"
        "A line on its standard input is a command, answered with \"ok\" or \"no\":\n"
        "  refuse API CODE...   answer the next requests of that number with these errors\n"
        "  accept API           no more of them\n"
        "  topic NAME CODE      the error of a topic in metadata; 0: none\n"
        "  down N, up N         one of the brokers\n"
        "  leader NAME P N      partition P of a topic is led by broker N\n"
        "  delay N MS           how long broker N takes to answer\n");
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

bool refuse(rd_kafka_mock_cluster_t* cluster, std::istringstream& words) {
    int16_t api = 0;
    if (!(words >> api)) return false;
    std::vector<rd_kafka_resp_err_t> errors;
    for (int code = 0; words >> code;)
        errors.push_back(static_cast<rd_kafka_resp_err_t>(code));
    rd_kafka_mock_push_request_errors_array(cluster, api, errors.size(), errors.data());
    return !errors.empty();
}

bool obey(rd_kafka_mock_cluster_t* cluster, const std::string& line) {
    std::istringstream words(line);
    std::string command, topic;
    int first = 0, second = 0;
    words >> command;
    if (command == "refuse") return refuse(cluster, words);
    if (command == "accept" && words >> first) {
        rd_kafka_mock_clear_request_errors(cluster, static_cast<int16_t>(first));
        return true;
    }
    if (command == "topic" && words >> topic >> first) {
        rd_kafka_mock_topic_set_error(cluster, topic.c_str(),
                                      static_cast<rd_kafka_resp_err_t>(first));
        return true;
    }
    if (command == "down" && words >> first)
        return rd_kafka_mock_broker_set_down(cluster, first) == RD_KAFKA_RESP_ERR_NO_ERROR;
    if (command == "up" && words >> first)
        return rd_kafka_mock_broker_set_up(cluster, first) == RD_KAFKA_RESP_ERR_NO_ERROR;
    if (command == "leader" && words >> topic >> first >> second)
        return rd_kafka_mock_partition_set_leader(cluster, topic.c_str(), first, second) ==
               RD_KAFKA_RESP_ERR_NO_ERROR;
    if (command == "delay" && words >> first >> second)
        return rd_kafka_mock_broker_set_rtt(cluster, first, second) == RD_KAFKA_RESP_ERR_NO_ERROR;
    return false;
}

volatile std::sig_atomic_t stop = 0;

// Until the input ends.
void serve(rd_kafka_mock_cluster_t* cluster) {
    std::string input;
    for (;;) {
        pollfd source{STDIN_FILENO, POLLIN, 0};
        ::poll(&source, 1, -1);
        if (stop != 0) return;
        if (source.revents == 0) continue;
        char piece[4096];
        ssize_t length = ::read(STDIN_FILENO, piece, sizeof(piece));
        if (length <= 0) return;
        input.append(piece, static_cast<size_t>(length));
        for (size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) {
            std::puts(obey(cluster, input.substr(0, end)) ? "ok" : "no");
            std::fflush(stdout);
        }
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
    serve(cluster);
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(host);
    return 0;
}
