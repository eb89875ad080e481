// The trigger functions of the extension's tables: rows that did not come through emit(), changes
// that another server's replication brings, and rights that change. Session's backend, and the
// apply workers of logical replication.
#include "pg/postgres.hpp"
#include "session/commit.hpp"
#include "storage/identity.hpp"

namespace outbox {

namespace {

TriggerData* trigger_data(FunctionCallInfo fcinfo) {
    if (!CALLED_AS_TRIGGER(fcinfo)) {
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("this function can only be called as a trigger")));
    }
    return reinterpret_cast<TriggerData*>(fcinfo->context);
}

// What lets the change happen.
Datum proceed(const TriggerData* trigger) {
    bool update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
    return PointerGetDatum(update ? trigger->tg_newtuple : trigger->tg_trigtuple);
}

// Once in each subtransaction, so that a rolled-back one does not take the mark with it.
void mark_foreign_once() {
    static LocalTransactionId transaction = InvalidLocalTransactionId;
    static SubTransactionId subtransaction = InvalidSubTransactionId;
    if (transaction == compat::my_local_transaction() &&
        subtransaction == GetCurrentSubTransactionId()) {
        return;
    }
    mark_foreign();
    // It rests from now on, and says so.
    wake_relay_at_end();
    transaction = compat::my_local_transaction();
    subtransaction = GetCurrentSubTransactionId();
}

}  // namespace

}  // namespace outbox

using namespace outbox;

// emit() writes below the executor, where no trigger fires; whatever fires this one came another
// way.
OUTBOX_SQL_FUNCTION(outbox_guard_segment) {
    TriggerData* trigger = trigger_data(fcinfo);
    // The publisher has a relay of its own; its rows are dropped here.
    if (IsLogicalWorker()) return PointerGetDatum(nullptr);
    mark_foreign_once();
    return proceed(trigger);
}

// The relay and the functions of operators write these tables, and pass; another server's changes
// do not.
OUTBOX_SQL_FUNCTION(outbox_guard_state) {
    TriggerData* trigger = trigger_data(fcinfo);
    return IsLogicalWorker() ? PointerGetDatum(nullptr) : proceed(trigger);
}

// Every session looks at the rights anew that it has kept in memory (session/emit_rights), once
// this transaction has committed; this one at once.
OUTBOX_SQL_FUNCTION(outbox_guard_emit_grant) {
    TriggerData* trigger = trigger_data(fcinfo);
    if (IsLogicalWorker()) return PointerGetDatum(nullptr);
    CacheInvalidateRelcache(trigger->tg_relation);
    return proceed(trigger);
}
