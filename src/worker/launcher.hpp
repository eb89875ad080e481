// The launcher: keeps one relay running for each database that has the extension. Launcher process.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Registers the launcher with the postmaster. Called from _PG_init while preloading.
void register_launcher();

}  // namespace outbox

// Where the postmaster starts the launcher.
extern "C" PGDLLEXPORT void outbox_launcher_main(Datum argument);
