// The place of a message: where order has to be kept it is one, and partitions have different ones.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <set>
#include <string>

#include "sink/common/file_descriptor.hpp"
#include "sink/kafka/producer.hpp"
#include "support/mock_cluster.hpp"

namespace outbox::test {
namespace {

using kafka::ClientConfiguration;
using kafka::Producer;

class CountingEvents final : public kafka::ProducerEvents {
  public:
    void on_delivered(uint64_t) override { ++delivered; }
    void on_failed(uint64_t, std::string_view, rd_kafka_resp_err_t, std::string_view) override {}
    void on_returned(uint64_t, std::string_view) override {}
    void on_error(rd_kafka_resp_err_t, std::string_view) override {}
    void on_log(int, std::string_view, std::string_view) override {}
    void on_statistics(std::string_view) override {}
    int delivered = 0;
};

class PlaceTest : public testing::Test {
  protected:
    static Message keyed(const std::string& key, const std::string& topic = "topic") {
        Message message;
        message.topic = topic;
        message.key = key;
        return message;
    }
    static Message asking_for(int32_t partition) {
        Message message;
        message.partition = partition;
        return message;
    }
    uint32_t place(const Message& message) { return producer_.place(Decoded(message).view()); }
    void submit(const Message& message) {
        ASSERT_TRUE(producer_.submit(Decoded(message, ++number_).view()));
    }
    // The count of a topic's partitions is known when a key has been asked for its partition: with
    // the second message, because the client keeps the first one until it knows the topic.
    void learn(const std::string& topic) {
        deliver(keyed("first", topic));
        deliver(keyed("second", topic));
    }
    void deliver(const Message& message) {
        submit(message);
        while (events_.delivered < static_cast<int>(number_)) {
            pollfd one = {wake_.get(), POLLIN, 0};
            ASSERT_EQ(::poll(&one, 1, 60000), 1);
            eventfd_t wakes;
            eventfd_read(wake_.get(), &wakes);
            producer_.poll();
        }
    }
    std::set<uint32_t> places_of_keys() {
        std::set<uint32_t> places;
        for (int i = 0; i < 200; ++i)
            places.insert(place(keyed(std::to_string(i))));
        return places;
    }

    sink::Settings settings() const {
        auto sent = cluster_.settings();
        return sink::Settings({sent.begin(), sent.end()});
    }

    MockCluster cluster_;
    sink::FileDescriptor wake_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    CountingEvents events_;
    Producer producer_{ClientConfiguration(settings()).stream(), false, wake_.get(), events_};
    uint64_t number_ = 0;
};

TEST_F(PlaceTest, ATopicIsOnePlaceWhileItsPartitionsAreNotKnown) {
    cluster_.create_topic("topic", 6);
    EXPECT_EQ(places_of_keys().size(), 1u);
    deliver(asking_for(0));
    EXPECT_EQ(places_of_keys().size(), 1u);
    // The key may lead there.
    EXPECT_EQ(place(keyed("a")), place(asking_for(0)));
    EXPECT_NE(place(keyed("a")), place(keyed("a", "another")));
}

TEST_F(PlaceTest, ThenEachPartitionIsOne) {
    cluster_.create_topic("topic", 6);
    learn("topic");
    EXPECT_EQ(places_of_keys().size(), 6u);
    const std::string key = "some key";
    int32_t partition = kafka::Partitioner::by_key(key.data(), key.size(), 6);
    EXPECT_EQ(place(keyed(key)), place(asking_for(partition)));
    EXPECT_NE(place(keyed(key)), place(asking_for((partition + 1) % 6)));
    EXPECT_NE(place(keyed(key)), place(Message()));
}

TEST_F(PlaceTest, OfEachTopic) {
    cluster_.create_topic("topic", 6);
    cluster_.create_topic("other", 6);
    learn("topic");
    learn("other");
    EXPECT_NE(place(keyed("a")), place(keyed("a", "other")));
    EXPECT_EQ(places_of_keys().size(), 6u);
}

}  // namespace
}  // namespace outbox::test
