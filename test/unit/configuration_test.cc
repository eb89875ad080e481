// From settings to librdkafka's configuration, and what is refused on the way.
#include "sink/kafka/configuration.hpp"

#include <gtest/gtest.h>

#include <map>

#include "sink/common/errors.hpp"
#include "support/temporary_folder.hpp"

namespace outbox::test {
namespace {

using kafka::ClientConfiguration;
using Values = std::map<std::string, std::string, std::less<>>;

sink::Settings settings(Values more = {}) {
    Values values{{"database", "shop"}, {"bootstrap_servers", "localhost:9092"}};
    values.merge(more);
    return sink::Settings(std::move(values));
}

std::string value(const kafka::Configuration& configuration, const std::string& name) {
    char text[512];
    size_t length = sizeof(text);
    if (rd_kafka_conf_get(configuration.get(), name.c_str(), text, &length) != RD_KAFKA_CONF_OK) {
        rd_kafka_topic_conf_t* topics = rd_kafka_conf_get_default_topic_conf(configuration.get());
        length = sizeof(text);
        if (topics == nullptr ||
            rd_kafka_topic_conf_get(topics, name.c_str(), text, &length) != RD_KAFKA_CONF_OK)
            return "?";
    }
    return text;
}

std::string refusal_of(const TemporaryFolder& folder, const std::string& properties) {
    try {
        ClientConfiguration refused(settings({{"config_file", folder.write("conf", properties)}}));
        return "";
    } catch (const sink::ConfigurationError& error) {
        return error.what();
    }
}

TEST(ClientConfiguration, KeepsThePromise) {
    ClientConfiguration configuration(settings());
    for (const auto& client : {configuration.stream(), configuration.alone()}) {
        EXPECT_EQ(value(client, "acks"), "-1");
        EXPECT_EQ(value(client, "enable.idempotence"), "true");
        EXPECT_EQ(value(client, "message.timeout.ms"), "0");
        EXPECT_EQ(value(client, "client.id"), "outbox/shop");
        EXPECT_EQ(value(client, "log.queue"), "true");
    }
    EXPECT_EQ(value(configuration.stream(), "enable.gapless.guarantee"), "true");
    EXPECT_EQ(value(configuration.alone(), "enable.gapless.guarantee"), "false");
    EXPECT_EQ(value(configuration.alone(), "batch.num.messages"), "1");
}

TEST(ClientConfiguration, LooksOnceASecondWhetherABrokerIsBack) {
    ClientConfiguration configuration(settings());
    for (const auto& client : {configuration.stream(), configuration.alone()})
        EXPECT_EQ(value(client, "reconnect.backoff.max.ms"), "1000");
}

TEST(ClientConfiguration, KnowsCredentialsThatAreRenewedByATimer) {
    TemporaryFolder folder;
    auto renews = [&](const std::string& properties) {
        auto file = folder.write("conf", properties);
        return ClientConfiguration(settings({{"config_file", file}})).renews_credentials();
    };
    for (const char* lasting :
         {"# none\n", "security.protocol=ssl\n", "sasl.mechanism=OAUTHBEARER\n",
          "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n",
          "sasl.mechanisms=SCRAM-SHA-512\nsecurity.protocol=sasl_plaintext\n"})
        EXPECT_FALSE(renews(lasting)) << lasting;
    // GSSAPI is what librdkafka takes where nothing is said.
    for (const char* renewed : {"security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n",
                                "security.protocol=sasl_plaintext\n"})
        EXPECT_TRUE(renews(renewed)) << renewed;
}

TEST(ClientConfiguration, TlsVerifiesTheBrokerUnlessTheFileSaysOtherwise) {
    TemporaryFolder folder;
    auto expect = [&](const std::string& properties, const char* verify, const char* name) {
        ClientConfiguration configuration(
            settings({{"config_file", folder.write("conf", properties)}}));
        for (const auto& client : {configuration.stream(), configuration.alone()}) {
            EXPECT_EQ(value(client, "enable.ssl.certificate.verification"), verify) << properties;
            EXPECT_EQ(value(client, "ssl.endpoint.identification.algorithm"), name) << properties;
        }
    };
    expect("", "true", "https");
    expect("security.protocol=ssl", "true", "https");
    expect("security.protocol=sasl_ssl\nssl.ca.location=/etc/ssl/ca.pem\n", "true", "https");
    // Whoever writes the file decides, and has to say it.
    expect("ssl.endpoint.identification.algorithm=none", "true", "none");
    expect("enable.ssl.certificate.verification=false", "false", "https");
}

TEST(ClientConfiguration, QueuesAreLargerThanTheWindow) {
    ClientConfiguration configuration(settings({{"max_message_bytes", "134217728"},
                                                {"max_in_flight_messages", "1000000"},
                                                {"max_in_flight_bytes", "1073741824"}}));
    auto client = configuration.stream();
    EXPECT_GT(std::stoll(value(client, "queue.buffering.max.messages")), 1000000);
    EXPECT_GT(std::stoll(value(client, "queue.buffering.max.kbytes")), 1073741824 / 1024);
    EXPECT_GT(std::stoll(value(client, "message.max.bytes")), 134217728);
}

TEST(ClientConfiguration, AFileSetsWhatItMay) {
    TemporaryFolder folder;
    ClientConfiguration configuration(
        settings({{"config_file", folder.write("conf",
                                               "compression.type=lz4\n"
                                               "linger.ms=20\n"
                                               "security.protocol=sasl_plaintext\n"
                                               "sasl.mechanisms=PLAIN\n"
                                               "sasl.username=me\n"
                                               "sasl.password=hunter2\n"
                                               "client.id=mine\n"
                                               "partitioner=murmur2\n")}}));
    auto client = configuration.stream();
    EXPECT_EQ(value(client, "compression.codec"), "lz4");
    EXPECT_EQ(value(client, "linger.ms"), "20");
    EXPECT_EQ(value(client, "client.id"), "mine");
    EXPECT_TRUE(configuration.null_key_is_empty_key());
    EXPECT_EQ(configuration.scrubber()("said hunter2"), "said ***");
    EXPECT_EQ(value(configuration.alone(), "linger.ms"), "0");
}

TEST(ClientConfiguration, RefusalsNameThePropertyAndNeverItsValue) {
    TemporaryFolder folder;
    struct Case {
        std::string properties;
        std::string expected;
    };
    for (const Case& one :
         {Case{"acks=12345", "property acks"}, Case{"plugin.library.paths=12345", "load code"},
          Case{"topic.acks=12345", "property topic.acks"},
          Case{"no.such.thing=12345", "No such configuration property: \"no.such.thing\""},
          Case{"linger.ms=abc12345", "value of the property linger.ms"},
          Case{"security.protocol=12345", "value of the property security.protocol"}}) {
        std::string words = refusal_of(folder, one.properties);
        EXPECT_NE(words.find(one.expected), std::string::npos) << words;
        EXPECT_NE(words.find(folder.path("conf")), std::string::npos) << words;
        EXPECT_EQ(words.find("12345"), std::string::npos) << words;
    }
}

TEST(ClientConfiguration, BootstrapServersAreNeeded) {
    try {
        ClientConfiguration refused(
            sink::Settings(Values{{"database", "shop"}, {"bootstrap_servers", ""}}));
        FAIL();
    } catch (const sink::ConfigurationError& error) {
        EXPECT_STREQ(error.what(), "outbox.kafka_bootstrap_servers is not set");
    }
}

TEST(ClientConfiguration, BatchesShrinkToAFloor) {
    ClientConfiguration configuration(settings());
    EXPECT_EQ(value(configuration.stream(), "batch.size"), "1000000");
    EXPECT_TRUE(configuration.shrink_batches());
    EXPECT_EQ(value(configuration.stream(), "batch.size"), "500000");
    int times = 1;
    while (configuration.shrink_batches())
        ++times;
    EXPECT_LT(times, 10);
    EXPECT_EQ(value(configuration.stream(), "batch.size"), "16384");
}

}  // namespace
}  // namespace outbox::test
