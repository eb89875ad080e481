// outbox.attached(): the trigger function of attached tables, which emits a message for a row.
// Session's backend, and the apply workers of logical replication where the trigger was enabled for
// them.
#include "attach/evaluation.hpp"
#include "debezium/router.hpp"
#include "session/emit_message.hpp"
#include "session/message_rules.hpp"
#include "session/uuid7.hpp"

namespace outbox {

namespace {

const TriggerData* row_trigger(FunctionCallInfo fcinfo) {
    const TriggerData* trigger = reinterpret_cast<const TriggerData*>(fcinfo->context);
    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
        !TRIGGER_FIRED_FOR_ROW(trigger->tg_event)) {
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("outbox.attached() can only be called as an AFTER trigger of rows"),
                        errhint("outbox.attach() makes the trigger.")));
    }
    return trigger;
}

RowEvent event_of(const TriggerData* trigger) {
    if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event)) return RowEvent::Insert;
    return TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? RowEvent::Update : RowEvent::Delete;
}

// Below the executor: the application's statement has inserted a row, and says so; no trigger hears
// of its end. What it leaves behind is a dead row for vacuum, as after a DELETE.
void remove_row(Relation relation, TupleTableSlot* row) {
    if (relation->rd_rel->relkind != RELKIND_RELATION) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("rows of foreign table \"%s\" cannot be removed",
                               RelationGetRelationName(relation))));
    }
    // Otherwise it would not be there yet for this command.
    CommandCounterIncrement();
    simple_table_tuple_delete(relation, &row->tts_tid, GetActiveSnapshot());
}

}  // namespace

}  // namespace outbox

using namespace outbox;

OUTBOX_SQL_FUNCTION(outbox_attached) {
    const TriggerData* trigger = row_trigger(fcinfo);
    check_session_can_emit();
    RowEvent event = event_of(trigger);
    TupleTableSlot* new_row =
        event == RowEvent::Update ? trigger->tg_newslot : trigger->tg_trigslot;
    TupleTableSlot* old_row = event == RowEvent::Insert ? nullptr : trigger->tg_trigslot;
    Attachment* attachment = find_attachment(trigger->tg_relation, trigger->tg_trigger, event);
    if (attachment->router && event == RowEvent::Update) {
        debezium::note_update(attachment->router, trigger->tg_relation);
        return PointerGetDatum(nullptr);
    }
    MessageParts parts;
    size_t headers_bytes;
    if (make_message(attachment, new_row, old_row, &parts, &headers_bytes)) {
        if (!attachment->router) make_uuid7(parts.id);
        emit_message(parts, headers_bytes, attachment->owner, attachment->emit);
        if (attachment->removes_rows && event == RowEvent::Insert)
            remove_row(trigger->tg_relation, new_row);
    }
    return PointerGetDatum(nullptr);
}
