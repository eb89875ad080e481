// The last step of every message, however it came about: into the transaction's buffer. Session's
// backend.
#pragma once

#include "pg/postgres.hpp"
#include "session/transaction_buffer.hpp"

namespace outbox {

// Checks what a message is allowed to be, and appends it: topic (22023), rights of `user` by means
// of `function` (42501), partition (22023), size (54000), backlog (53400). The caller has checked
// the session (check_session_can_emit) and the headers, which take `headers_bytes`.
void emit_message(const MessageParts& parts, size_t headers_bytes, Oid user, Oid function);

}  // namespace outbox
