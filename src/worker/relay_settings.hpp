// Settings as a relay sees them: its own session's are pinned, and those it works by are watched.
// Relay process.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Sets what must not depend on roles, databases or the configuration file. Once, after connecting.
void pin_session_settings();

// A text that changes when the sink has to be started anew to see its settings. In the current
// memory context, as the next one.
char* current_sink_signature();

// A text that changes when ALTER DATABASE or ALTER ROLE have changed what a new session of this
// process would find. In the caller's transaction.
char* read_database_settings();

}  // namespace outbox
