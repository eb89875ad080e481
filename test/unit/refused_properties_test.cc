// Properties that a file may not set.
#include "sink/kafka/refused_properties.hpp"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace outbox::test {
namespace {

using kafka::refusal;

TEST(RefusedProperties, WhatLoadsCodeOrRunsCommands) {
    for (const char* name : {"plugin.library.paths",
                             "ssl.engine.location",
                             "ssl.engine.id",
                             "ssl.providers",
                             "interceptors",
                             "sasl.kerberos.kinit.cmd",
                             "dr_cb",
                             "dr_msg_cb",
                             "error_cb",
                             "log_cb",
                             "stats_cb",
                             "socket_cb",
                             "connect_cb",
                             "resolve_cb",
                             "partitioner_cb",
                             "opaque",
                             "oauthbearer_token_refresh_cb",
                             "ssl.certificate.verify_cb",
                             "background_event_cb",
                             "default_topic_conf",
                             "enabled_events"})
        EXPECT_TRUE(refusal(name, "anything")) << name;
    EXPECT_TRUE(refusal("sasl.kerberos.principal", "me; rm -rf /"));
    EXPECT_TRUE(refusal("sasl.kerberos.keytab", "/tmp/$(id)"));
    EXPECT_FALSE(refusal("sasl.kerberos.principal", "outbox/host.example@EXAMPLE.COM"));
    EXPECT_FALSE(refusal("sasl.kerberos.keytab", "/etc/outbox.keytab"));
}

TEST(RefusedProperties, WhatSendsASecretInTheClearOrReadsAFileAsAnAnswer) {
    const char* name = "sasl.oauthbearer.token.endpoint.url";
    for (const char* address :
         {"file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "http://localhost/token",
          "HTTPS://x", "gopher://x", "https:/x", " https://x", ""})
        EXPECT_TRUE(refusal(name, address)) << address;
    EXPECT_FALSE(refusal(name, "https://idp.example.com/token"));
}

TEST(RefusedProperties, WhatBreaksThePromise) {
    using Case = std::pair<const char*, const char*>;
    for (auto [name, value] : {Case{"acks", "1"},
                               Case{"acks", "0"},
                               Case{"request.required.acks", "1"},
                               Case{"enable.idempotence", "false"},
                               Case{"enable.idempotence", "nonsense"},
                               Case{"enable.gapless.guarantee", "false"},
                               Case{"message.timeout.ms", "300000"},
                               Case{"delivery.timeout.ms", "1"},
                               Case{"retries", "3"},
                               Case{"message.send.max.retries", "2147483647"},
                               Case{"transactional.id", "x"},
                               Case{"delivery.report.only.error", "true"},
                               Case{"partitioner", "random"},
                               Case{"partitioner", "consistent_random"},
                               Case{"max.in.flight", "6"},
                               Case{"max.in.flight.requests.per.connection", "1000000"},
                               Case{"max.in.flight", "x"},
                               Case{"queuing.strategy", "lifo"},
                               Case{"log.queue", "false"},
                               Case{"debug", "all"},
                               Case{"internal.termination.signal", "29"},
                               Case{"test.mock.num.brokers", "3"},
                               Case{"bootstrap.servers", "elsewhere"},
                               Case{"metadata.broker.list", "elsewhere"}}) {
        EXPECT_TRUE(refusal(name, value)) << name;
        EXPECT_TRUE(refusal(std::string("topic.") + name, value)) << name;
    }
}

TEST(RefusedProperties, WhatIsFine) {
    using Case = std::pair<const char*, const char*>;
    for (auto [name, value] :
         {Case{"acks", "all"}, Case{"acks", "-1"}, Case{"enable.idempotence", "TRUE"},
          Case{"message.timeout.ms", "0"}, Case{"partitioner", "murmur2"},
          Case{"partitioner", "murmur2_random"}, Case{"max.in.flight", "1"},
          Case{"max.in.flight", "5"}, Case{"compression.type", "zstd"},
          Case{"security.protocol", "SASL_SSL"}, Case{"sasl.password", "secret"},
          Case{"linger.ms", "5"}, Case{"ssl.ca.location", "/etc/ssl"},
          Case{"topic.metadata.refresh.interval.ms", "1000"}, Case{"no.such.property", "x"}})
        EXPECT_FALSE(refusal(name, value)) << name;
}

TEST(RefusedProperties, TheValueIsNotInTheWords) {
    for (const char* name : {"acks", "sasl.kerberos.principal", "partitioner", "debug"}) {
        auto words = refusal(name, "hunter2 $");
        ASSERT_TRUE(words) << name;
        EXPECT_EQ(words->find("hunter2"), std::string::npos) << name;
    }
}

}  // namespace
}  // namespace outbox::test
