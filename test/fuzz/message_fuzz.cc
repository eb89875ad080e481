// The body of a Message from a relay that sends rubbish: what is taken for a message is one, to its
// last byte, and every sink can do with it what it does with messages.
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "protocol/frames.hpp"
#include "sink/common/bytes.hpp"
#include "sink/file/json_line.hpp"
#include "sink/kafka/owned_message.hpp"
#include "support/check.hpp"

namespace outbox::fuzz {
namespace {

using sink::text_of;

std::string encoded(const protocol::MessageView& message) {
    std::string body(reinterpret_cast<const char*>(&message.head), sizeof(message.head));
    for (const protocol::Bytes& part :
         {message.topic, message.key, message.payload, message.headers})
        body += text_of(part);
    return body;
}

void decode(std::string_view body) {
    protocol::MessageView message;
    if (!protocol::decode_message(body.data(), body.size(), &message)) return;
    must(encoded(message) == body, "a message is the whole body");
    must(text_of(message.topic).find('\0') == std::string_view::npos, "a topic is a name");
    must(message.head.partition >= -1, "a partition is one, or none");
    must(uint64_t{message.head.header_count} * 8 <= message.headers.length, "headers are there");

    kafka::OwnedMessage owned(message);
    must(encoded(owned.view()) == body, "a copy is equal");
    must(owned.view().key.absent() == message.key.absent(), "absent stays absent");
    auto line = nlohmann::json::parse(file::json_line(owned.view()), nullptr, false);
    must(line.is_object(), "a line is JSON");
    const bool has_id = (message.head.flags & protocol::kFlagHeadersComplete) == 0;
    must(line["headers"].size() == size_t{message.head.header_count} + (has_id ? 1 : 0),
         "no header is lost");
}

}  // namespace
}  // namespace outbox::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    // A copy of exactly that size, so that one byte too many is noticed.
    std::unique_ptr<char[]> body(new char[size]);
    if (size > 0) std::memcpy(body.get(), bytes, size);
    outbox::fuzz::decode({body.get(), size});
    return 0;
}
