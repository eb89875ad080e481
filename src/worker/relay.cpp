// The relay: moves the committed messages of one database to its sink. Relay process.
//
// Life of the process:
//   attach -> connect -> load -> work <-> rest (paused, foreign, disabled) -> drain -> save -> exit
#include "worker/relay.hpp"

#include "settings.hpp"
#include "worker/relay_settings.hpp"
#include "worker/relay_slot.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

void connect(Relay* relay, Oid database) {
    // What was set before this is seen by the new session.
    (void)session_settings_changed(relay->slot);
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    pin_session_settings();
    StartTransactionCommand();
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    relay->database_settings = read_database_settings();
    relay->database_name = get_database_name(MyDatabaseId);
    bool present = OidIsValid(get_extension_oid("outbox", true));
    MemoryContextSwitchTo(caller);
    CommitTransactionCommand();
    if (present) return;
    set_end(relay->slot, RelayEnd::Absent);
    proc_exit(0);
}

// Deferred triggers have fired by now, with the owner's rights. After an error the server does
// this.
void act_as_superuser_again(XactEvent event, void*) {
    if (event == XACT_EVENT_COMMIT) SetUserIdAndSecContext(GetSessionUserId(), 0);
}

void initialize(Relay* relay) {
    RegisterXactCallback(act_as_superuser_again, nullptr);
    relay->scratch =
        AllocSetContextCreate(TopMemoryContext, "outbox relay turn", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    relay->sink.init();
    relay->gaps.init();
    relay->topics.init();
    relay->parked_keys.init();
    relay->in_flight.init(settings.max_in_flight_messages);
    MemoryContextSwitchTo(caller);
}

// There is no statement of a user's to cancel; but lock_timeout ends a wait by this signal too.
void on_cancel(SIGNAL_ARGS) {
    if (get_timeout_indicator(LOCK_TIMEOUT, false)) StatementCancelHandler(postgres_signal_arg);
}

}  // namespace

}  // namespace outbox

void outbox_relay_main(Datum argument) {
    using namespace outbox;
    // A request to stop is a flag that the loop looks at, so that progress is saved; nothing here
    // waits in a way that would need to be broken off.
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGINT, on_cancel);
    BackgroundWorkerUnblockSignals();

    static Relay relay;
    RelayArgument wanted;
    memcpy(&wanted, MyBgworkerEntry->bgw_extra, sizeof(wanted));
    relay.slot = attach_slot(DatumGetUInt32(argument), wanted);
    if (!relay.slot) proc_exit(0);
    if (is_held(wanted.database)) {
        set_end(relay.slot, RelayEnd::Asked);
        proc_exit(0);
    }
    connect(&relay, wanted.database);
    initialize(&relay);
    run_loop(&relay);
}
