// What happens to a transaction's messages when it commits, prepares or aborts. Session's backend.
//
//   emit()              arm_transaction(): the callbacks below are registered, once in a session's
//   life ROLLBACK TO, error  SubXact callback: the buffer drops the subtransaction's messages
//   PRE_COMMIT          write: lock on the active segment, then xid, then positions, then rows
//   PRE_PREPARE         the same; the rows become visible with COMMIT PREPARED
//   COMMIT              the relay's latch is set
//   ABORT               the buffer is forgotten; the relay is told if positions had been taken
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Prepares the current transaction for messages. Raises 25P01-class errors where it is too late to
// emit.
void arm_transaction();

// Wakes this database's relay when the current transaction has ended, either way.
void wake_relay_at_end();

// The same, and has it look at what operators did to parked messages.
void announce_parked_changed_at_end();

// Tells the launcher to look into this database (or all, InvalidOid) when the current transaction
// has ended.
void request_relay_at_end(Oid database);

// Has the relay of a database (InvalidOid: all relays) look at its settings when the current
// transaction has ended.
void announce_settings_at_end(Oid database);

}  // namespace outbox
