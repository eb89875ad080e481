// The rules a message has to keep, checked when emit() is called. Session's backend.
#include "session/message_rules.hpp"

#include "settings.hpp"
#include "shared/shared_state.hpp"

namespace outbox {

namespace {

// org.apache.kafka.common.internals.Topic: MAX_NAME_LENGTH and LEGAL_CHARS.
constexpr size_t kMaxTopicLength = 249;
const char* const kTopicHint =
    "Kafka's topic names are 1 to 249 characters long and hold only letters, digits, \".\", \"_\" "
    "and \"-\".";

bool is_topic_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

// "." and "..".
bool is_only_dots(const char* topic, size_t length) {
    return length <= 2 && topic[0] == '.' && topic[length - 1] == '.';
}

}  // namespace

void check_topic_is_there(const char* topic) {
    if (topic) return;
    ereport(ERROR,
            (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("topic must not be NULL"),
             errdetail(
                 "Key, payload, headers and partition may be NULL; a message always has a topic."),
             errhint("Name the Kafka topic that the message is for.")));
}

bool is_topic(const char* topic, size_t length) {
    for (size_t i = 0; i < length; ++i) {
        if (!is_topic_character(topic[i])) return false;
    }
    return length > 0 && length <= kMaxTopicLength && !is_only_dots(topic, length);
}

void check_topic(const char* topic, size_t length) {
    if (length == 0) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("topic is empty"),
                        errdetail("A message needs the name of a Kafka topic."),
                        errhint("%s", kTopicHint)));
    }
    if (length > kMaxTopicLength) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("topic name is too long"),
                        errdetail("It has %zu bytes; Kafka allows %zu.", length, kMaxTopicLength),
                        errhint("%s", kTopicHint)));
    }
    for (size_t i = 0; i < length; ++i) {
        if (is_topic_character(topic[i])) continue;
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("topic name \"%.*s\" is not valid", static_cast<int>(length), topic),
                        errdetail("The character at byte %zu is not allowed.", i + 1),
                        errhint("%s", kTopicHint)));
    }
    if (is_only_dots(topic, length)) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("topic name \"%.*s\" is not valid", static_cast<int>(length), topic),
                        errdetail("Kafka allows neither \".\" nor \"..\" as a topic."),
                        errhint("%s", kTopicHint)));
    }
}

void check_headers(const Jsonb* headers) {
    if (!JB_ROOT_IS_OBJECT(headers)) {
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("headers must be a JSON object"),
                 errdetail("An array, a string, a number or a boolean has no names for headers."),
                 errhint("Give names and values, as in '{\"type\": \"OrderCreated\"}'.")));
    }
    JsonbValue id;
    id.type = jbvString;
    id.val.string.val = const_cast<char*>("id");
    id.val.string.len = 2;
    if (findJsonbValueFromContainer(const_cast<JsonbContainer*>(&headers->root), JB_FOBJECT, &id)) {
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("header \"id\" is reserved"),
                 errdetail("Every message carries the id that emit() returns in this header."),
                 errhint("Give your own identifier another name.")));
    }
}

void check_partition(int32 partition) {
    if (partition >= 0) return;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("partition must not be negative"), errdetail("It is %d.", partition),
                    errhint("Leave it out, or give NULL, to let the key decide.")));
}

void check_size(size_t key, size_t payload, size_t headers) {
    size_t size = key + payload + headers;
    if (size <= static_cast<size_t>(settings.max_message_bytes)) return;
    ereport(
        ERROR,
        (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("message is too large"),
         errdetail("Key, payload and headers have %zu bytes; outbox.max_message_bytes is %d.", size,
                   settings.max_message_bytes),
         errhint("Send a reference instead of the data, or raise outbox.max_message_bytes together "
                 "with message.max.bytes of the broker or max.message.bytes of the topic.")));
}

void check_session_can_emit() {
    if (!shared) {
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("outbox is not loaded by the server"),
                        errdetail("Without its background workers nothing would be sent."),
                        errhint("Add outbox to shared_preload_libraries and restart the server.")));
    }
    if (RecoveryInProgress()) {
        ereport(
            ERROR,
            (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("cannot emit on a standby server"),
             errdetail("A message is a row, and rows are written on the primary server."),
             errhint("Connect to the primary server.")));
    }
    if (XactReadOnly) {
        ereport(ERROR,
                (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                 errmsg("cannot emit in a read-only transaction"),
                 errdetail("A message is a row that is written when the transaction commits."),
                 errhint("Start it with BEGIN READ WRITE.")));
    }
    if (IsInParallelMode()) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
                        errmsg("cannot emit during a parallel operation")));
    }
}

}  // namespace outbox
