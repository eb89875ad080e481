// A message as one line of JSON. Runs in outbox-file.
#include "sink/file/json_line.hpp"

#include <nlohmann/json.hpp>
#include <string_view>

#include "sink/common/bytes.hpp"
#include "sink/common/errors.hpp"
#include "sink/common/uuid.hpp"

namespace outbox::file {

using Json = nlohmann::ordered_json;
using sink::text_of;

namespace {

std::string base64(std::string_view bytes) {
    constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    text.reserve((bytes.size() + 2) / 3 * 4);
    for (size_t at = 0; at < bytes.size(); at += 3) {
        uint32_t group = 0;
        for (size_t i = 0; i < 3; ++i)
            group = group << 8 | (at + i < bytes.size() ? static_cast<uint8_t>(bytes[at + i]) : 0u);
        for (size_t i = 0; i < 4; ++i)
            text += at + i > bytes.size() ? '=' : kAlphabet[group >> (18 - 6 * i) & 63];
    }
    return text;
}

bool is_utf8(std::string_view bytes) {
    try {
        static_cast<void>(Json(bytes).dump());
        return true;
    } catch (const Json::type_error&) {
        return false;
    }
}

Json value(const protocol::Bytes& bytes) {
    if (bytes.absent()) return nullptr;
    std::string_view text = text_of(bytes);
    if (is_utf8(text)) return text;
    return Json{{"base64", base64(text)}};
}

}  // namespace

std::string json_line(const protocol::MessageView& message) {
    Json headers = Json::array();
    const sink::UuidText id(message.head.id);
    if ((message.head.flags & protocol::kFlagHeadersComplete) == 0)
        headers.push_back(Json::array({"id", id.view()}));
    protocol::BodyReader reader(message.headers.data, message.headers.length);
    protocol::HeaderView header;
    while (protocol::next_header(&reader, &header))
        headers.push_back(Json::array({value(header.name), value(header.value)}));
    if (reader.failed()) throw sink::ProtocolError("the headers of a message are damaged");

    Json line;
    line["topic"] = value(message.topic);
    if (message.head.partition == protocol::kNull)
        line["partition"] = nullptr;
    else
        line["partition"] = message.head.partition;
    line["key"] = value(message.key);
    line["payload"] = value(message.payload);
    line["headers"] = std::move(headers);
    line["id"] = id.view();
    line["timestamp"] = message.head.timestamp;
    return line.dump() + "\n";
}

}  // namespace outbox::file
