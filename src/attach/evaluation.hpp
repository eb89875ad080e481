// Evaluates an attachment for a row: what message it makes of it. Session's backend.
#pragma once

#include "attach/attachment.hpp"
#include "session/transaction_buffer.hpp"

namespace outbox {

// Raises 42501 where the attachment's owner may not call what its expressions call.
void check_can_run(Attachment* attachment);

// The message that the attachment makes of a row: fills `parts` (id excepted) and `*headers_bytes`.
// They live as long as the slots, the current memory context, and until the attachment is evaluated
// again. False: its condition says that there is none. A slot that the event has no row for is not
// looked at. Raises 22004 for a topic that is NULL, 22023 for headers that are none, and whatever
// the expressions raise.
bool make_message(Attachment* attachment, TupleTableSlot* new_row, TupleTableSlot* old_row,
                  MessageParts* parts, size_t* headers_bytes);

}  // namespace outbox
