// Cutting the stream into frames: any slicing of the bytes gives the same frames.
#include "sink/common/frame_reader.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "sink/common/errors.hpp"
#include "sink/common/file_descriptor.hpp"
#include "support/frame_builder.hpp"

namespace outbox::test {
namespace {

using protocol::FrameType;
using sink::FrameReader;

class FrameReaderTest : public testing::Test {
  protected:
    FrameReaderTest() {
        int ends[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        ours_ = sink::FileDescriptor(ends[0]);
        theirs_ = sink::FileDescriptor(ends[1]);
    }
    void write(std::string_view bytes) {
        ASSERT_EQ(::send(theirs_.get(), bytes.data(), bytes.size(), 0),
                  static_cast<ssize_t>(bytes.size()));
    }
    // Reads all frames there are; their bodies in a row, each in brackets.
    std::string take(FrameReader& reader) {
        std::string bodies;
        while (reader.fill(ours_.get()) == FrameReader::Fill::Data) {
            while (auto frame = reader.front()) {
                bodies += "[" + std::string(frame->body, frame->length) + "]";
                reader.pop();
            }
        }
        return bodies;
    }

    sink::FileDescriptor ours_;
    sink::FileDescriptor theirs_;
};

TEST_F(FrameReaderTest, NothingThere) {
    FrameReader reader;
    EXPECT_EQ(reader.fill(ours_.get()), FrameReader::Fill::Nothing);
    EXPECT_FALSE(reader.front());
}

TEST_F(FrameReaderTest, TheEndIsNoticedBehindWhatWasWritten) {
    FrameReader reader;
    write(frame(FrameType::Drain, ""));
    theirs_.reset();
    EXPECT_EQ(reader.fill(ours_.get()), FrameReader::Fill::Data);
    ASSERT_TRUE(reader.front());
    EXPECT_EQ(reader.front()->type, FrameType::Drain);
    EXPECT_EQ(reader.front()->length, 0u);
    reader.pop();
    EXPECT_EQ(reader.fill(ours_.get()), FrameReader::Fill::Closed);
}

TEST_F(FrameReaderTest, AFrameStaysFirstUntilItIsTaken) {
    FrameReader reader;
    write(frame(FrameType::Reopen, "a") + frame(FrameType::Reopen, "b"));
    EXPECT_EQ(reader.fill(ours_.get()), FrameReader::Fill::Data);
    EXPECT_EQ(*reader.front()->body, 'a');
    EXPECT_EQ(*reader.front()->body, 'a');
    reader.pop();
    EXPECT_EQ(*reader.front()->body, 'b');
}

TEST_F(FrameReaderTest, AnySlicingGivesTheSameFrames) {
    const std::string stream = frame(FrameType::Reopen, "") + frame(FrameType::Reopen, "one") +
                               frame(FrameType::Reopen, std::string(50, 'x')) +
                               frame(FrameType::Reopen, "two");
    const std::string expected = "[][one][" + std::string(50, 'x') + "][two]";
    for (size_t capacity : {16u, 20u, 64u, 4096u}) {
        for (size_t slice = 1; slice <= stream.size(); ++slice) {
            FrameReader reader(capacity);
            std::string got;
            for (size_t at = 0; at < stream.size(); at += slice) {
                write(std::string_view(stream).substr(at, slice));
                got += take(reader);
            }
            ASSERT_EQ(got, expected) << "capacity " << capacity << ", slices of " << slice;
        }
    }
}

TEST_F(FrameReaderTest, AHugeFrameDoesNotKeepItsBuffer) {
    FrameReader reader(1024);
    const std::string body(100000, 'y');
    const std::string stream = frame(FrameType::Reopen, body) + frame(FrameType::Reopen, "small");
    std::string got;
    for (size_t at = 0; at < stream.size(); at += 20000) {
        write(std::string_view(stream).substr(at, 20000));
        got += take(reader);
    }
    EXPECT_EQ(got, "[" + body + "][small]");
    EXPECT_EQ(reader.capacity(), 1024u);
}

TEST_F(FrameReaderTest, ALengthBeyondTheLimitIsRefused) {
    protocol::FrameHeader header{};
    header.type = FrameType::Message;
    header.length = protocol::kMaxBody;
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
    FrameReader at_limit;
    write(bytes);
    EXPECT_EQ(at_limit.fill(ours_.get()), FrameReader::Fill::Data);
    EXPECT_FALSE(at_limit.front());

    header.length = protocol::kMaxBody + 1;
    bytes.assign(reinterpret_cast<const char*>(&header), sizeof(header));
    FrameReader beyond;
    write(bytes);
    EXPECT_EQ(beyond.fill(ours_.get()), FrameReader::Fill::Data);
    EXPECT_THROW(beyond.front(), sink::ProtocolError);
}

}  // namespace
}  // namespace outbox::test
