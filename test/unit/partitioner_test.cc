// Keys go where Java producers send them.
#include <gtest/gtest.h>

#include <string>

#include "sink/kafka/topic.hpp"

namespace outbox::test {
namespace {

using kafka::Partitioner;

// Values of org.apache.kafka.common.utils.Utils.toPositive(Utils.murmur2(key)).
TEST(Partitioner, IsThatOfJava) {
    struct Case {
        std::string key;
        int64_t hash;
    };
    for (const Case& one :
         {Case{"kafka", 0xd067cf64 & 0x7fffffff},
          Case{"giberish123456789", 0x8f552b0c & 0x7fffffff}, Case{"1234", 0x9fc97b14 & 0x7fffffff},
          Case{"234", 0xe7c009ca & 0x7fffffff}, Case{"34", 0x873930da & 0x7fffffff},
          Case{"4", 0x5a4b5ca1 & 0x7fffffff}, Case{"", 0x106e08d9}}) {
        for (int32_t count : {1, 2, 3, 6, 7, 12, 100, 1000})
            EXPECT_EQ(Partitioner::by_key(one.key.data(), one.key.size(), count),
                      static_cast<int32_t>(one.hash % count))
                << one.key << " of " << count;
    }
}

TEST(Partitioner, AMissingKeyIsFreeUnlessItCountsAsEmpty) {
    EXPECT_TRUE(Partitioner(false).chooses_freely(true));
    EXPECT_FALSE(Partitioner(false).chooses_freely(false));
    EXPECT_FALSE(Partitioner(true).chooses_freely(true));
}

}  // namespace
}  // namespace outbox::test
