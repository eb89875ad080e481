// outbox.emit(event json, topic): what applications that write no outbox table, but call
// pg_logical_emit_message() with an event in JSON, call instead. Session's backend.
#include "session/emit_message.hpp"
#include "session/message_rules.hpp"
#include "session/uuid7.hpp"
#include "shared/headers.hpp"

namespace outbox::debezium {

namespace {

// A member's text, without quotes if it is a string; nullptr: missing or null.
const char* member(Datum event, const char* name) {
    LOCAL_FCINFO(call, 2);
    InitFunctionCallInfoData(*call, nullptr, 2, InvalidOid, nullptr, nullptr);
    call->args[0] = {event, false};
    call->args[1] = {CStringGetTextDatum(name), false};
    Datum found = json_object_field_text(call);
    return call->isnull ? nullptr : TextDatumGetCString(found);
}

const char* required(Datum event, const char* name) {
    const char* found = member(event, name);
    if (found) return found;
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the event has no \"%s\"", name),
             errhint("An event has id, aggregatetype, aggregateid and payload.")));
}

// `pattern` with the event's type in place of every ${routedByValue}.
const char* topic_for(const char* pattern, const char* type) {
    constexpr char kPlace[] = "${routedByValue}";
    StringInfoData topic;
    initStringInfo(&topic);
    while (const char* place = strstr(pattern, kPlace)) {
        appendBinaryStringInfo(&topic, pattern, static_cast<int>(place - pattern));
        appendStringInfoString(&topic, type);
        pattern = place + strlen(kPlace);
    }
    appendStringInfoString(&topic, pattern);
    return topic.data;
}

const char* to_utf8_text(const char* text, size_t* length) {
    if (!text) return nullptr;
    *length = strlen(text);
    return to_utf8(text, length);
}

}  // namespace

}  // namespace outbox::debezium

using namespace outbox;

// outbox.emit(event json, topic text) returns uuid
OUTBOX_SQL_FUNCTION(outbox_emit_event) {
    check_session_can_emit();
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) {
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("neither event nor topic can be NULL")));
    }
    Datum event = PG_GETARG_DATUM(0);
    const char* pattern = text_to_cstring(PG_GETARG_TEXT_PP(1));
    MessageParts parts = {};
    parts.topic = debezium::to_utf8_text(
        debezium::topic_for(pattern, debezium::required(event, "aggregatetype")),
        &parts.topic_length);
    parts.key = debezium::to_utf8_text(debezium::member(event, "aggregateid"), &parts.key_length);
    parts.payload =
        debezium::to_utf8_text(debezium::member(event, "payload"), &parts.payload_length);
    const char* id = debezium::member(event, "id");
    if (id)
        memcpy(parts.id, DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(id)))->data,
               UUID_LEN);
    else
        make_uuid7(parts.id);
    emit_message(parts, 0, GetUserId(), fcinfo->flinfo->fn_oid);
    pg_uuid_t* result = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t)));
    memcpy(result->data, parts.id, UUID_LEN);
    PG_RETURN_UUID_P(result);
}
