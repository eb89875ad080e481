// Where the server loads the library: settings, shared memory, hooks, the launcher. Postmaster and
// backends.
#include "pg/postgres.hpp"
#include "session/lifecycle_hooks.hpp"
#include "settings.hpp"
#include "shared/shared_state.hpp"
#include "worker/launcher.hpp"

extern "C" {
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init();
}

void _PG_init() {
    using namespace outbox;
    define_settings(process_shared_preload_libraries_in_progress);
    // Loaded by the first call of a function instead: emit() says what is missing.
    if (!process_shared_preload_libraries_in_progress) return;
    install_shared_memory();
    install_lifecycle_hooks();
    register_launcher();
}
