// outbox.retry() and outbox.discard(): what operators decide about parked messages. Session's
// backend.
//
// Both only take messages out of the state "parked": retry marks them, discard removes them. What
// follows (in which order they are sent, what stood behind them) is the relay's to do, when this
// transaction has committed; see storage/deferred.hpp.
#include "pg/postgres.hpp"
#include "session/as_owner.hpp"
#include "session/commit.hpp"
#include "storage/spi.hpp"

namespace outbox {

namespace {

constexpr const char* kRetry =
    "UPDATE outbox.deferred SET state = 'released' WHERE state = 'parked'";
constexpr const char* kDiscard = "DELETE FROM outbox.deferred WHERE state = 'parked'";

// Which messages: a condition on outbox.deferred with its parameters.
struct Selection {
    const char* condition;
    int count;
    Oid types[2];
    Datum values[2];
};

int64 act(const char* verb, const Selection& selection) {
    AsOwner owner;
    StringInfoData statement;
    initStringInfo(&statement);
    appendStringInfo(&statement, "%s %s", verb, selection.condition);
    Oid types[2];
    Datum values[2];
    memcpy(types, selection.types, sizeof(types));
    memcpy(values, selection.values, sizeof(values));
    spi_begin();
    spi_execute(statement.data, verb == kRetry ? SPI_OK_UPDATE : SPI_OK_DELETE, selection.count,
                types, values);
    int64 count = static_cast<int64>(SPI_processed);
    spi_end();
    owner.end();
    // Also where it found nothing: a message may have been parked behind these just now.
    announce_parked_changed_at_end();
    return count;
}

void require(FunctionCallInfo fcinfo, int argument, const char* name) {
    if (!PG_ARGISNULL(argument)) return;
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be NULL", name),
                    errhint("Without arguments the function concerns every parked message.")));
}

// A text that looks like an id was hardly meant as a topic.
bool looks_like_id(const char* text) {
    return strlen(text) == 36 && strspn(text, "0123456789abcdefABCDEF-") == 36;
}

int64 act_on_all(const char* verb) {
    return act(verb, Selection{"", 0, {}, {}});
}

int64 act_on_topic(const char* verb, FunctionCallInfo fcinfo, const char* function) {
    require(fcinfo, 0, "topic");
    char* topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
    int64 count = act(verb, Selection{"AND topic = $1", 1, {TEXTOID}, {PG_GETARG_DATUM(0)}});
    if (count == 0 && looks_like_id(topic)) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("no message of the topic \"%s\" is parked", topic),
                        errhint("To name a message by its id, write outbox.%s(id => '%s').",
                                function, topic)));
    }
    return count;
}

// NULL: the topic's messages without a key.
int64 act_on_key(const char* verb, FunctionCallInfo fcinfo) {
    require(fcinfo, 0, "topic");
    if (PG_ARGISNULL(1)) {
        return act(verb,
                   Selection{"AND topic = $1 AND key IS NULL", 1, {TEXTOID}, {PG_GETARG_DATUM(0)}});
    }
    return act(verb, Selection{"AND topic = $1 AND key = $2 "
                               "AND pg_catalog.sha256(key) = pg_catalog.sha256($2)",
                               2,
                               {TEXTOID, BYTEAOID},
                               {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)}});
}

// A message behind another one can't go first.
void require_first_of_key(Datum id) {
    Oid types[] = {UUIDOID};
    Datum values[] = {id};
    AsOwner owner;
    spi_begin();
    spi_execute(
        "SELECT h.id::pg_catalog.text FROM outbox.deferred AS d "
        "JOIN outbox.deferred AS h ON h.position = d.behind AND h.state = 'parked' "
        "WHERE d.id = $1 AND d.state = 'parked'",
        SPI_OK_SELECT, 1, types, values);
    if (SPI_processed > 0) {
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("the message stands behind another one of its key, which is parked too"),
             errhint("Retry or discard the message %s first: those behind it follow by themselves.",
                     SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1))));
    }
    spi_end();
    owner.end();
}

}  // namespace

}  // namespace outbox

using namespace outbox;

// outbox.retry() returns bigint
OUTBOX_SQL_FUNCTION(outbox_retry) {
    (void)fcinfo;
    PG_RETURN_INT64(act_on_all(kRetry));
}

// outbox.retry(id uuid) returns bigint
OUTBOX_SQL_FUNCTION(outbox_retry_message) {
    require(fcinfo, 0, "id");
    require_first_of_key(PG_GETARG_DATUM(0));
    PG_RETURN_INT64(act(kRetry, Selection{"AND (id = $1 OR behind = (SELECT position FROM "
                                          "outbox.deferred WHERE id = $1 AND state = 'parked'))",
                                          1,
                                          {UUIDOID},
                                          {PG_GETARG_DATUM(0)}}));
}

// outbox.retry(topic text) returns bigint
OUTBOX_SQL_FUNCTION(outbox_retry_topic) {
    PG_RETURN_INT64(act_on_topic(kRetry, fcinfo, "retry"));
}

// outbox.retry(topic text, key bytea) returns bigint
OUTBOX_SQL_FUNCTION(outbox_retry_key) {
    PG_RETURN_INT64(act_on_key(kRetry, fcinfo));
}

// outbox.discard() returns bigint
OUTBOX_SQL_FUNCTION(outbox_discard) {
    (void)fcinfo;
    PG_RETURN_INT64(act_on_all(kDiscard));
}

// outbox.discard(id uuid) returns bigint
OUTBOX_SQL_FUNCTION(outbox_discard_message) {
    require(fcinfo, 0, "id");
    PG_RETURN_INT64(act(kDiscard, Selection{"AND id = $1", 1, {UUIDOID}, {PG_GETARG_DATUM(0)}}));
}

// outbox.discard(topic text) returns bigint
OUTBOX_SQL_FUNCTION(outbox_discard_topic) {
    PG_RETURN_INT64(act_on_topic(kDiscard, fcinfo, "discard"));
}

// outbox.discard(topic text, key bytea) returns bigint
OUTBOX_SQL_FUNCTION(outbox_discard_key) {
    PG_RETURN_INT64(act_on_key(kDiscard, fcinfo));
}
