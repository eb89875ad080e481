// Tells launcher and relays about what happens to databases and to the extension. Session's
// backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Installs the hooks. Called from _PG_init while preloading.
void install_lifecycle_hooks();

}  // namespace outbox
