// outbox.pause(), resume() and discard_backlog(). Session's backend.
#include "pg/postgres.hpp"
#include "session/as_owner.hpp"
#include "session/commit.hpp"
#include "session/relay_view.hpp"
#include "storage/backlog.hpp"
#include "storage/identity.hpp"
#include "storage/progress.hpp"
#include "storage/spi.hpp"

using namespace outbox;

// outbox.pause()
OUTBOX_SQL_FUNCTION(outbox_pause) {
    Schema schema = required_schema();
    AsOwner owner;
    PushActiveSnapshot(GetLatestSnapshot());
    Standing standing = read_standing(schema, GetActiveSnapshot());
    PopActiveSnapshot();
    if (standing == Standing::Foreign) {
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("the relay rests already: these messages were written by another server or "
                    "database"),
             errhint("outbox.resume() publishes them, outbox.discard_backlog() gives them up.")));
    }
    adopt(true);
    owner.end();
    wake_relay_at_end();
    PG_RETURN_VOID();
}

// outbox.resume()
OUTBOX_SQL_FUNCTION(outbox_resume) {
    (void)required_schema();
    AsOwner owner;
    adopt(false);
    owner.end();
    wake_relay_at_end();
    PG_RETURN_VOID();
}

// outbox.discard_backlog() returns bigint
OUTBOX_SQL_FUNCTION(outbox_discard_backlog) {
    Schema schema = required_schema();
    AsOwner owner;
    int64 last = last_position(schema.sequence);
    PushActiveSnapshot(GetLatestSnapshot());
    Standing standing = read_standing(schema, GetActiveSnapshot());
    SlotView view = look_at_slot();
    bool rests = view.relay_pid == 0 || view.state == RelayState::Paused ||
                 view.state == RelayState::Foreign || view.state == RelayState::Disabled;
    if ((standing != Standing::Paused && standing != Standing::Foreign) || !rests) {
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("the backlog can be discarded only while the relay rests"),
                 errdetail("Its state is \"%s\".", relay_state_name(view.state)),
                 errhint("Call outbox.pause(), commit, and wait until outbox.status shows it.")));
    }
    Progress progress = load_progress();
    int64 discarded =
        settle_visible(schema, GetActiveSnapshot(), last, &progress) + progress.deferred;
    spi_begin();
    spi_execute("DELETE FROM outbox.deferred WHERE state <> 'parked'", SPI_OK_DELETE);
    spi_end();
    progress.deferred = 0;
    save_progress(schema, &progress);
    PopActiveSnapshot();
    owner.end();
    wake_relay_at_end();
    PG_RETURN_INT64(discarded);
}
