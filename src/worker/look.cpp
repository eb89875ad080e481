// A relay looks at its database: is the extension there, may it work, with what does it begin?
// Relay process.
#include "fault_point.hpp"
#include "storage/backlog.hpp"
#include "storage/deferred.hpp"
#include "storage/positions.hpp"
#include "worker/relay_state.hpp"

namespace outbox {

namespace {

// This process is a superuser's, and statements run what has been attached to their tables.
void act_as_owner(const Schema& schema) {
    SetUserIdAndSecContext(acting_role(schema),
                           SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

// Begins from what is saved. In the caller's transaction.
void load_state(Relay* relay, const Schema& schema) {
    relay->extension = schema.extension;
    relay->sequence = schema.sequence;
    relay->progress = load_progress();
    if (set_forward(schema.sequence, relay->progress.watermark)) {
        ereport(WARNING,
                (errmsg("outbox.message_position had been set back; it goes on after " INT64_FORMAT,
                        relay->progress.watermark)));
    }
    relay->gaps.clear();
    relay->resend_floor = PG_INT64_MAX;
    for (int i = 0; i < relay->progress.unsettled_count; ++i) {
        relay->gaps.take_back_range(relay->progress.unsettled[i].from,
                                    relay->progress.unsettled[i].to);
    }
    if (relay->progress.unsettled_count > 0)
        relay->resend_floor = relay->progress.unsettled[0].from;
    relay->progress.unsettled = nullptr;
    relay->progress.unsettled_count = 0;
    relay->removal_count = 0;
    relay->topics.forget_troubles();
    load_deferred(relay);
}

bool anything_foreign(const Schema& schema) {
    // A clone begins where its original stood: what was written here since, by sessions of this
    // server, has been noted and is ours.
    bool clone;
    (void)read_standing(schema, GetActiveSnapshot(), &clone);
    int64 ours_from = clone ? first_noted_position() : PG_INT64_MAX;
    Progress progress = load_progress();
    Row row;
    int64 position;
    TimestampTz time;
    if (first_unsettled(schema, GetActiveSnapshot(), progress, &row) && row.position < ours_from) {
        return true;
    }
    return oldest_deferred(&position, &time);
}

// A copy of a database (CREATE DATABASE ... TEMPLATE, a restored dump) that holds nothing to
// publish becomes ours without a word: Done. The lock comes first: whoever is just bringing foreign
// rows holds one that conflicts, to the end of its transaction.
Look adopt_if_nothing_foreign(Relay* relay, const Schema& schema) {
    if (!ConditionalLockRelationOid(schema.identity, ShareRowExclusiveLock)) return Look::Locked;
    PushActiveSnapshot(GetLatestSnapshot());
    bool foreign = anything_foreign(schema);
    PopActiveSnapshot();
    if (foreign) return Look::Resting;
    adopt(false);
    OUTBOX_FAULT_POINT("relay-after-adopting-copy");
    relay->standing = Standing::Ours;
    return Look::Done;
}

}  // namespace

Look enter(const Relay& relay, Schema* schema) {
    switch (enter_schema(schema)) {
        case Entry::Absent:
            return Look::Absent;
        case Entry::Locked:
            return Look::Locked;
        case Entry::Entered:
            break;
    }
    bool same = !OidIsValid(relay.extension) || relay.extension == schema->extension;
    if (!same) return Look::Replaced;
    act_as_owner(*schema);
    return Look::Done;
}

Look look_while_resting(Relay* relay) {
    StartTransactionCommand();
    SetCurrentStatementStartTimestamp();
    Schema schema;
    Look look = enter(*relay, &schema);
    if (look == Look::Done) {
        PushActiveSnapshot(GetTransactionSnapshot());
        relay->standing = read_standing(schema, GetActiveSnapshot());
        if (relay->standing == Standing::Foreign) {
            look = adopt_if_nothing_foreign(relay, schema);
        } else if (relay->standing == Standing::Paused) {
            look = Look::Resting;
        }
        if (look == Look::Done) load_state(relay, schema);
        OUTBOX_FAULT_POINT("relay-after-loading");
        PopActiveSnapshot();
    }
    CommitTransactionCommand();
    return look;
}

Look look_only(Relay* relay) {
    StartTransactionCommand();
    Schema schema;
    Look look = enter(*relay, &schema);
    if (look == Look::Done) {
        PushActiveSnapshot(GetTransactionSnapshot());
        relay->standing = read_standing(schema, GetActiveSnapshot());
        bool rest = relay->standing == Standing::Paused || relay->standing == Standing::Foreign;
        look = rest ? Look::Resting : Look::Done;
        set_identified(relay->slot, relay->standing != Standing::Foreign);
        PopActiveSnapshot();
    }
    CommitTransactionCommand();
    return look;
}

}  // namespace outbox
