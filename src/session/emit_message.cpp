// The last step of every message, however it came about: into the transaction's buffer. Session's
// backend.
#include "session/emit_message.hpp"

#include "session/backlog_limit.hpp"
#include "session/commit.hpp"
#include "session/emit_rights.hpp"
#include "session/message_rules.hpp"

namespace outbox {

void emit_message(const MessageParts& parts, size_t headers_bytes, Oid user, Oid function) {
    check_topic(parts.topic, parts.topic_length);
    check_may_emit(user, function, parts.topic, parts.topic_length);
    if (parts.has_partition) check_partition(parts.partition);
    check_size(parts.key_length, parts.payload_length, headers_bytes);
    check_backlog(parts.topic_length + parts.key_length + parts.payload_length + headers_bytes);
    arm_transaction();
    transaction_buffer.append(parts);
}

}  // namespace outbox
