// The trigger function of the segments: rows that did not come through emit(). Session's backend,
// and the apply workers of logical replication.
#include "pg/postgres.hpp"
#include "storage/identity.hpp"

using namespace outbox;

// emit() writes below the executor, where no trigger fires; whatever fires this one came another
// way.
OUTBOX_SQL_FUNCTION(outbox_guard_segment) {
    if (!CALLED_AS_TRIGGER(fcinfo)) {
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("outbox.guard_segment() is a trigger function")));
    }
    // The publisher has a relay of its own; its rows are dropped here.
    if (IsLogicalWorker()) return PointerGetDatum(nullptr);
    // Once in each subtransaction, so that a rolled-back one does not take the mark with it.
    static LocalTransactionId transaction = InvalidLocalTransactionId;
    static SubTransactionId subtransaction = InvalidSubTransactionId;
    if (transaction != compat::my_local_transaction() ||
        subtransaction != GetCurrentSubTransactionId()) {
        mark_foreign();
        transaction = compat::my_local_transaction();
        subtransaction = GetCurrentSubTransactionId();
    }
    TriggerData* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
    return PointerGetDatum(trigger->tg_trigtuple);
}
