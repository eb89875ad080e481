// Values of the properties file do not leave the process.
#include "sink/kafka/scrubber.hpp"

#include <gtest/gtest.h>

namespace outbox::test {
namespace {

TEST(Scrubber, HidesValues) {
    kafka::Scrubber scrub;
    scrub.hide("hunter2");
    scrub.hide("hunter2-and-more");
    scrub.hide("true");
    scrub.hide("5");
    scrub.hide("");
    EXPECT_EQ(scrub("password hunter2, again hunter2-and-more."), "password ***, again ***.");
    EXPECT_EQ(scrub("5 brokers"), "5 brokers");
    EXPECT_EQ(scrub(""), "");
}

}  // namespace
}  // namespace outbox::test
