// A sink that sends rubbish: what the relay makes of any stream of bytes. It must not depend on how
// the stream is cut, and no report may be read past its end.
//
// An input that begins with "S" describes frames, most of them nearly right; every other one is the
// stream itself.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <string>

#include "support/check.hpp"
#include "support/relay_model.hpp"

namespace outbox::fuzz {
namespace {

using protocol::FrameType;

template <typename T>
std::string raw(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// Right more often than not, so that what comes behind it is reached.
template <typename T>
T about(FuzzedDataProvider& data, T right) {
    return data.ConsumeIntegralInRange(0, 9) > 0 ? right : data.ConsumeIntegral<T>();
}

std::string body_of(FuzzedDataProvider& data, FrameType type) {
    std::string text = data.ConsumeRandomLengthString(40);
    auto length = about<uint16_t>(data, static_cast<uint16_t>(text.size()));
    switch (type) {
        case FrameType::Ready:
            return raw(about<uint32_t>(data, protocol::kVersion)) + text;
        case FrameType::Delivered: {
            std::string numbers;
            for (auto count = data.ConsumeIntegralInRange(0, 5); count > 0; --count)
                numbers += raw(data.ConsumeIntegralInRange<uint64_t>(0, 9));
            return data.ConsumeIntegralInRange(0, 9) > 0 ? numbers : numbers + text;
        }
        case FrameType::Failed: {
            protocol::FailedHead head{};
            head.number = data.ConsumeIntegralInRange<uint64_t>(0, 9);
            head.kind = static_cast<protocol::FailureKind>(data.ConsumeIntegralInRange(0, 4));
            head.text_length = length;
            return raw(head) + text;
        }
        case FrameType::Condition: {
            protocol::ConditionHead head{};
            head.trouble = data.ConsumeIntegralInRange<uint8_t>(0, 2);
            head.fatal = data.ConsumeIntegralInRange<uint8_t>(0, 2);
            head.text_length = length;
            return raw(head) + text;
        }
        case FrameType::Log:
            return raw(about<uint8_t>(data, 3)) + text;
        case FrameType::Statistics:
            return data.ConsumeBool() ? R"({"name":)" + text + "}" : text;
        default:
            return text;
    }
}

std::string stream_of(FuzzedDataProvider& data) {
    std::string stream;
    while (data.remaining_bytes() > 0 && stream.size() < (1 << 16)) {
        constexpr FrameType kTypes[] = {
            FrameType::Ready, FrameType::Delivered,  FrameType::Failed, FrameType::Condition,
            FrameType::Log,   FrameType::Statistics, FrameType::Idle};
        FrameType type = data.PickValueInArray(kTypes);
        std::string body = body_of(data, type);
        protocol::FrameHeader header{};
        header.type = type;
        header.length = about<uint32_t>(data, static_cast<uint32_t>(body.size()));
        stream += raw(header) + body;
    }
    return stream;
}

void hear(std::string_view stream) {
    RelayModel whole(0), single(1), odd(2);
    bool fine = whole.receive(stream, stream.size());
    must(single.receive(stream, 1) == fine, "the verdict is the same byte by byte");
    must(odd.receive(stream, 5) == fine, "the verdict is the same in pieces");
    must(single.understood() == whole.understood(), "the same is understood byte by byte");
    must(odd.understood() == whole.understood(), "the same is understood in pieces");
}

}  // namespace
}  // namespace outbox::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size > 0 && bytes[0] == 'S') {
        FuzzedDataProvider data(bytes + 1, size - 1);
        outbox::fuzz::hear(outbox::fuzz::stream_of(data));
    } else {
        outbox::fuzz::hear({reinterpret_cast<const char*>(bytes), size});
    }
    return 0;
}
