// Headers of a message: from the JSON that emit() was given to names and values. Backends and
// relay.
#include "shared/headers.hpp"

#include "protocol/frames.hpp"

namespace outbox {

namespace {

// How a length is written in front of bytes in Kafka's record format: seven bits in each byte, one
// of them for the sign. Thousands of small headers are mostly this.
size_t framing_of(size_t length) {
    size_t bytes = 1;
    for (size_t rest = length >> 6; rest > 0; rest >>= 7)
        ++bytes;
    return bytes;
}

// Room has been made before: for all parts of a header at once.
void put(StringInfo out, const void* data, size_t length) {
    memcpy(out->data + out->len, data, length);
    out->len += static_cast<int>(length);
}

void append_header(StringInfo out, const char* name, size_t name_length, const char* value,
                   size_t value_length, size_t* bytes) {
    if (!value) value_length = 0;
    *bytes += framing_of(name_length) + name_length + framing_of(value_length) + value_length;
    if (!out) return;
    uint32_t encoded_name_length = static_cast<uint32_t>(name_length);
    int32_t encoded_value_length = value ? static_cast<int32_t>(value_length) : protocol::kNull;
    enlargeStringInfo(out,
                      static_cast<int>(sizeof(encoded_name_length) + sizeof(encoded_value_length) +
                                       name_length + value_length));
    put(out, &encoded_name_length, sizeof(encoded_name_length));
    put(out, &encoded_value_length, sizeof(encoded_value_length));
    put(out, name, name_length);
    if (value) put(out, value, value_length);
}

// The text of one value, or nullptr for JSON's null.
const char* value_text(const JsonbValue* value, size_t* length) {
    const char* text = nullptr;
    switch (value->type) {
        case jbvNull:
            return nullptr;
        case jbvString:
            *length = static_cast<size_t>(value->val.string.len);
            return to_utf8(value->val.string.val, length);
        case jbvNumeric:
            text = DatumGetCString(
                DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
            break;
        case jbvBool:
            text = value->val.boolean ? "true" : "false";
            break;
        case jbvBinary:
            text = JsonbToCString(nullptr, value->val.binary.data, value->val.binary.len);
            break;
        default:
            elog(ERROR, "unexpected type %d of a JSON value", static_cast<int>(value->type));
    }
    *length = strlen(text);
    return to_utf8(text, length);
}

bool is_array(const JsonbValue* value) {
    return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

uint32 append_object(StringInfo out, const Jsonb* headers, size_t* bytes) {
    uint32 count = 0;
    JsonbIterator* pairs = JsonbIteratorInit(const_cast<JsonbContainer*>(&headers->root));
    JsonbValue item;
    const char* name = nullptr;
    size_t name_length = 0;
    JsonbIteratorToken token;
    while ((token = JsonbIteratorNext(&pairs, &item, true)) != WJB_DONE) {
        size_t length = 0;
        if (token == WJB_KEY) {
            name_length = static_cast<size_t>(item.val.string.len);
            name = to_utf8(item.val.string.val, &name_length);
        } else if (token == WJB_VALUE && is_array(&item)) {
            JsonbIterator* elements = JsonbIteratorInit(item.val.binary.data);
            JsonbValue element;
            while ((token = JsonbIteratorNext(&elements, &element, true)) != WJB_DONE) {
                if (token != WJB_ELEM) continue;
                const char* value = value_text(&element, &length);
                append_header(out, name, name_length, value, length, bytes);
                ++count;
            }
        } else if (token == WJB_VALUE) {
            const char* value = value_text(&item, &length);
            append_header(out, name, name_length, value, length, bytes);
            ++count;
        }
    }
    return count;
}

void append_pair(StringInfo out, JsonbContainer* pair, size_t* bytes) {
    JsonbValue* name =
        JsonContainerSize(pair) == 2 ? getIthJsonbValueFromContainer(pair, 0) : nullptr;
    if (!name || name->type != jbvString) elog(ERROR, "a stored header is no pair");
    size_t name_length = static_cast<size_t>(name->val.string.len);
    const char* text = to_utf8(name->val.string.val, &name_length);
    size_t length = 0;
    const char* value = value_text(getIthJsonbValueFromContainer(pair, 1), &length);
    append_header(out, text, name_length, value, length, bytes);
}

void append_id(StringInfo out, const uint8* id, size_t* bytes) {
    constexpr size_t kTextLength = 36;
    // Its size is known without it.
    char* text = nullptr;
    if (out) {
        pg_uuid_t value;
        memcpy(value.data, id, UUID_LEN);
        text = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&value)));
    }
    append_header(out, "id", 2, out ? text : "", kTextLength, bytes);
}

void append_list(HeadersFound* found, StringInfo out, const Jsonb* headers, const uint8* id,
                 size_t* bytes) {
    JsonbIterator* elements = JsonbIteratorInit(const_cast<JsonbContainer*>(&headers->root));
    JsonbValue element;
    JsonbIteratorToken token;
    while ((token = JsonbIteratorNext(&elements, &element, true)) != WJB_DONE) {
        if (token != WJB_ELEM) continue;
        if (element.type == jbvNumeric) {
            found->has_timestamp = true;
            found->timestamp = DatumGetInt64(
                DirectFunctionCall1(numeric_int8, NumericGetDatum(element.val.numeric)));
            continue;
        }
        if (is_array(&element))
            append_pair(out, element.val.binary.data, bytes);
        else
            append_id(out, id, bytes);
        ++found->count;
    }
}

}  // namespace

const char* to_utf8(const char* text, size_t* length) {
    if (GetDatabaseEncoding() == PG_UTF8) return text;
    char* converted = pg_server_to_any(text, static_cast<int>(*length), PG_UTF8);
    if (converted != text) *length = strlen(converted);
    return converted;
}

HeadersFound append_headers(StringInfo out, const Jsonb* headers, const uint8* id, size_t* bytes) {
    HeadersFound found = {};
    found.complete = JB_ROOT_IS_ARRAY(headers);
    if (found.complete)
        append_list(&found, out, headers, id, bytes);
    else
        found.count = append_object(out, headers, bytes);
    return found;
}

}  // namespace outbox
