// What keeps an attachment together: its trigger needs its declaration, which goes with the table.
// Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// A trigger has been made, by outbox.attach() or by a dump that is being restored. If it calls
// outbox.attached(), its dependencies are recorded.
void note_trigger(Oid trigger);

}  // namespace outbox
