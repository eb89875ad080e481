// Cuts the byte stream from the relay into frames. Runs in the sink programs.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include "protocol/frames.hpp"

namespace outbox::sink {

// The body points into the reader's buffer and stays valid until the next fill().
struct Frame {
    protocol::FrameType type;
    const char* body;
    size_t length;
};

// One large buffer: a read(2) brings in many frames at once, and the frames are handed out as
// views. Only the unfinished frame at the end of the buffer is ever moved.
class FrameReader {
  public:
    enum class Fill { Data, Nothing, Closed };

    explicit FrameReader(size_t capacity = size_t{1} << 20);

    // Reads once, without waiting. Closed: the peer is gone.
    Fill fill(int fd);

    // The next complete frame, if there is one; it stays the next one until pop(). Throws
    // ProtocolError on a length that no frame can have.
    std::optional<Frame> front() const;
    void pop();

    size_t buffered() const { return end_ - begin_; }
    size_t capacity() const { return capacity_; }

  private:
    void make_room();
    void reallocate(size_t capacity);

    size_t normal_capacity_;
    size_t capacity_;
    std::unique_ptr<char[]> buffer_;
    size_t begin_ = 0;
    size_t end_ = 0;
};

}  // namespace outbox::sink
