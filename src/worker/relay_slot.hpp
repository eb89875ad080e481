// A relay takes its slot in shared memory, and gives it back. Relay process.
#pragma once

#include "shared/shared_state.hpp"
#include "worker/relay.hpp"

namespace outbox {

// Takes the slot for this process, to its end. nullptr: it belongs to another database by now, or
// another process has it.
RelaySlot* attach_slot(uint32 index, const RelayArgument& argument);

// What the launcher shall make of this process's end. Without it, an error.
void set_end(RelaySlot* slot, RelayEnd end);

// Whether somebody waits for this process to leave its database.
bool asked_to_leave(RelaySlot* slot);

// ALTER DATABASE or ALTER ROLE have committed since this process connected, or while it did:
// whether it has seen what they set can't be told, so it begins anew.
bool session_settings_changed(RelaySlot* slot);

}  // namespace outbox
