// The trigger functions of the extension's tables: rows that did not come through emit(), changes
// that another server's replication brings, and rights that change. Session's backend, and the
// apply workers of logical replication.
#include "pg/postgres.hpp"
#include "session/commit.hpp"
#include "storage/identity.hpp"
#include "storage/schema.hpp"
#include "storage/segment_index.hpp"
#include "storage/spi.hpp"

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

// Where a row is about to go, what is found through it must be found without.
void keep_others_findable(const TriggerData* trigger) {
    Schema schema = {};
    (void)find_schema(&schema);
    Relation segment = trigger->tg_relation;
    for (int i = 0; i < kSegments; ++i) {
        if (schema.segments[i] != RelationGetRelid(segment)) continue;
        Relation index = index_open(schema.segment_indexes[i], RowExclusiveLock);
        if (is_of_runs(index)) keep_next_findable(segment, index, trigger->tg_trigtuple);
        index_close(index, NoLock);
    }
}

// How many committed messages stand in this segment alone and are not settled.
int64 undelivered_in(Relation segment) {
    StringInfoData query;
    initStringInfo(&query);
    appendStringInfo(
        &query,
        "SELECT pg_catalog.count(*) FROM outbox.%s AS l LEFT JOIN "
        "(SELECT watermark, unsettled FROM (SELECT * FROM outbox.progress_1 UNION ALL "
        "SELECT * FROM outbox.progress_2) AS p ORDER BY number DESC LIMIT 1) AS p ON true "
        "WHERE NOT coalesce(l.position <= p.watermark AND NOT p.unsettled @> l.position, false) "
        "AND NOT EXISTS (SELECT FROM outbox.deferred AS d WHERE d.position = l.position)",
        quote_identifier(RelationGetRelationName(segment)));
    spi_begin();
    spi_execute(query.data, SPI_OK_SELECT);
    int64 count = spi_int64(0, 1);
    spi_end();
    return count;
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
    if (!TRIGGER_FIRED_BY_INSERT(trigger->tg_event)) keep_others_findable(trigger);
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

// Whoever may empty a segment may throw messages away, but not unknowingly. The relay empties them
// below the executor, where no trigger fires.
OUTBOX_SQL_FUNCTION(outbox_guard_truncate) {
    TriggerData* trigger = trigger_data(fcinfo);
    int64 undelivered = undelivered_in(trigger->tg_relation);
    if (undelivered > 0) {
        ereport(WARNING, (errmsg_plural("TRUNCATE of outbox.%s discards %lld undelivered message",
                                        "TRUNCATE of outbox.%s discards %lld undelivered messages",
                                        static_cast<unsigned long>(undelivered),
                                        RelationGetRelationName(trigger->tg_relation),
                                        static_cast<long long>(undelivered)),
                          errhint("Roll back to keep them. outbox empties its tables by itself.")));
    }
    return PointerGetDatum(nullptr);
}
