// outbox.emit() and outbox.uncommitted(). Session's backend: no network, no file, no wait.
#include "pg/postgres.hpp"
#include "session/emit_message.hpp"
#include "session/message_rules.hpp"
#include "session/transaction_buffer.hpp"
#include "session/uuid7.hpp"
#include "session/value_bytes.hpp"
#include "shared/headers.hpp"

namespace outbox {

namespace {

// Types of the arguments of the overload that was called, looked up once per call site.
struct Overload {
    Oid key_type;
    Oid payload_type;
};

const Overload* called_overload(FunctionCallInfo fcinfo) {
    Overload* overload = static_cast<Overload*>(fcinfo->flinfo->fn_extra);
    if (overload) return overload;
    Oid* types = nullptr;
    int count = 0;
    (void)get_func_signature(fcinfo->flinfo->fn_oid, &types, &count);
    if (count != 5) elog(ERROR, "outbox_emit was declared with %d arguments instead of 5", count);
    overload =
        static_cast<Overload*>(MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(Overload)));
    *overload = Overload{types[1], types[2]};
    pfree(types);
    fcinfo->flinfo->fn_extra = overload;
    return overload;
}

}  // namespace

}  // namespace outbox

using namespace outbox;

// outbox.emit(topic text, key, payload, headers jsonb, partition integer) returns uuid: every
// overload.
OUTBOX_SQL_FUNCTION(outbox_emit) {
    const Overload* overload = called_overload(fcinfo);
    check_session_can_emit();
    if (PG_ARGISNULL(0)) check_topic_is_there(nullptr);

    MessageParts parts = {};
    parts.topic = varlena_bytes(PG_GETARG_DATUM(0), &parts.topic_length);
    if (!PG_ARGISNULL(1)) {
        parts.key = value_bytes(PG_GETARG_DATUM(1), overload->key_type, &parts.key_length);
    }
    if (!PG_ARGISNULL(2)) {
        parts.payload =
            value_bytes(PG_GETARG_DATUM(2), overload->payload_type, &parts.payload_length);
    }
    size_t headers_bytes = 0;
    if (!PG_ARGISNULL(3)) {
        parts.headers = PG_GETARG_JSONB_P(3);
        check_headers(parts.headers);
        (void)append_headers(nullptr, parts.headers, nullptr, &headers_bytes);
    }
    parts.has_partition = !PG_ARGISNULL(4);
    if (parts.has_partition) parts.partition = PG_GETARG_INT32(4);
    make_uuid7(parts.id);
    emit_message(parts, headers_bytes, GetUserId(), fcinfo->flinfo->fn_oid);

    pg_uuid_t* id = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t)));
    memcpy(id->data, parts.id, UUID_LEN);
    PG_RETURN_UUID_P(id);
}

// outbox.uncommitted(): the messages of the current transaction.
OUTBOX_SQL_FUNCTION(outbox_uncommitted) {
    enum { kOrdinal, kId, kTopic, kKey, kPayload, kHeaders, kPartition, kColumns };
    compat::init_materialized_result(fcinfo);
    ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);

    MemoryContext row =
        AllocSetContextCreate(CurrentMemoryContext, "outbox uncommitted", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(row);
    transaction_buffer.begin_read();
    int64 ordinal = 0;
    while (const BufferedMessage* message = transaction_buffer.next()) {
        Datum values[kColumns];
        bool nulls[kColumns] = {};
        values[kOrdinal] = Int64GetDatum(++ordinal);
        values[kId] = PointerGetDatum(message->id);
        values[kTopic] = message->value(message->topic);
        values[kKey] = message->value(message->key);
        nulls[kKey] = message->key == 0;
        values[kPayload] = message->value(message->payload);
        nulls[kPayload] = message->payload == 0;
        values[kHeaders] = message->value(message->headers);
        nulls[kHeaders] = message->headers == 0;
        values[kPartition] = Int32GetDatum(message->partition);
        nulls[kPartition] = !message->has_partition;
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
        MemoryContextReset(row);
        CHECK_FOR_INTERRUPTS();
    }
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(row);
    return static_cast<Datum>(0);
}
