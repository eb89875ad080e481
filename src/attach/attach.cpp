// outbox.attach() and outbox.detach(): declares that rows of a table are messages, and takes that
// back. Session's backend.
#include "attach/declare.hpp"
#include "session/message_rules.hpp"

namespace outbox {

namespace {

const char* text_or_null(FunctionCallInfo fcinfo, int argument) {
    return PG_ARGISNULL(argument) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

[[noreturn]] void raise_null(const char* what) {
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be NULL", what)));
}

Events events_of(ArrayType* array) {
    Datum* values;
    bool* nulls;
    int count;
    deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
    Events events = {};
    for (int i = 0; i < count; ++i) {
        const char* given = nulls[i] ? "NULL" : TextDatumGetCString(values[i]);
        bool known = false;
        for (RowEvent event : kRowEvents) {
            if (pg_strcasecmp(given, name_of(event)) != 0) continue;
            events.add(event);
            known = true;
        }
        if (!known) {
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("unknown event \"%s\"", given),
                            errhint("Events are insert, update and delete.")));
        }
    }
    if (events.empty()) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no event is given"),
                        errhint("Events are insert, update and delete.")));
    }
    return events;
}

}  // namespace

}  // namespace outbox

using namespace outbox;

// outbox.attach(table regclass, topic, key, payload, headers, partition, when text, events text[],
// name name)
OUTBOX_SQL_FUNCTION(outbox_attach) {
    check_session_can_emit();
    if (PG_ARGISNULL(0)) raise_null("table");
    if (PG_ARGISNULL(1)) raise_null("topic");
    if (PG_ARGISNULL(7)) raise_null("events");
    if (PG_ARGISNULL(8)) raise_null("name");
    AttachRequest request = {};
    request.table = table_open(PG_GETARG_OID(0), ShareRowExclusiveLock);
    check_may_attach(request.table);
    request.events = events_of(PG_GETARG_ARRAYTYPE_P(7));
    request.name = NameStr(*PG_GETARG_NAME(8));
    for (int i = 0; i < kParts; ++i) {
        PartName part = static_cast<PartName>(i);
        const char* given = text_or_null(fcinfo, i + 1);
        const char* expression = part_expression(request.table, part, given, request.events);
        if (expression) add_part_text(&request, name_of(part), expression, given);
    }
    declare_attachment(request);
    table_close(request.table, NoLock);
    PG_RETURN_VOID();
}

// outbox.detach(table regclass, name name)
OUTBOX_SQL_FUNCTION(outbox_detach) {
    if (PG_ARGISNULL(0)) raise_null("table");
    Relation table = table_open(PG_GETARG_OID(0), AccessExclusiveLock);
    check_may_attach(table);
    remove_attachments(table, PG_ARGISNULL(1) ? nullptr : NameStr(*PG_GETARG_NAME(1)));
    table_close(table, NoLock);
    PG_RETURN_VOID();
}
