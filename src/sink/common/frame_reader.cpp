// Cuts the byte stream from the relay into frames. Runs in the sink programs.
#include "sink/common/frame_reader.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "sink/common/errors.hpp"

namespace outbox::sink {

using protocol::FrameHeader;

namespace {

FrameHeader header_at(const char* at) {
    FrameHeader header;
    std::memcpy(&header, at, sizeof(header));
    if (header.length > protocol::kMaxBody)
        throw ProtocolError("a frame of " + std::to_string(header.length) + " bytes");
    return header;
}

}  // namespace

FrameReader::FrameReader(size_t capacity)
    : normal_capacity_(capacity),
      capacity_(capacity),
      buffer_(std::make_unique_for_overwrite<char[]>(capacity)) {}

FrameReader::Fill FrameReader::fill(int fd) {
    make_room();
    ssize_t got = ::recv(fd, buffer_.get() + end_, capacity_ - end_, MSG_DONTWAIT);
    if (got > 0) {
        end_ += static_cast<size_t>(got);
        return Fill::Data;
    }
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return Fill::Nothing;
    return Fill::Closed;
}

std::optional<Frame> FrameReader::front() const {
    if (buffered() < sizeof(FrameHeader)) return std::nullopt;
    const char* at = buffer_.get() + begin_;
    FrameHeader header = header_at(at);
    if (buffered() - sizeof(FrameHeader) < header.length) return std::nullopt;
    return Frame{header.type, at + sizeof(FrameHeader), header.length};
}

void FrameReader::pop() {
    begin_ += sizeof(FrameHeader) + header_at(buffer_.get() + begin_).length;
}

void FrameReader::make_room() {
    if (buffered() == 0) {
        begin_ = end_ = 0;
        // One huge message must not keep its buffer for ever.
        if (capacity_ > normal_capacity_) reallocate(normal_capacity_);
        return;
    }
    size_t needed = sizeof(FrameHeader);
    if (buffered() >= sizeof(FrameHeader)) needed += header_at(buffer_.get() + begin_).length;
    if (begin_ + needed > capacity_ || begin_ > capacity_ / 2) {
        std::memmove(buffer_.get(), buffer_.get() + begin_, buffered());
        end_ = buffered();
        begin_ = 0;
    }
    if (end_ < capacity_) return;
    // It grows with what has come: a large length is easily written. And a complete frame that
    // nobody has taken yet may fill the buffer to its last byte.
    reallocate(needed > capacity_ ? std::min(needed, capacity_ * 2) : capacity_ + normal_capacity_);
}

void FrameReader::reallocate(size_t capacity) {
    auto larger = std::make_unique_for_overwrite<char[]>(capacity);
    std::memcpy(larger.get(), buffer_.get() + begin_, buffered());
    end_ = buffered();
    begin_ = 0;
    buffer_ = std::move(larger);
    capacity_ = capacity;
}

}  // namespace outbox::sink
