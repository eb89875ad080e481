// outbox.preview(): what message a row would become. Session's backend; sends nothing.
#include "attach/evaluation.hpp"
#include "session/message_rules.hpp"
#include "shared/murmur2.hpp"
#include "storage/schema.hpp"

namespace outbox {

namespace {

// A slot that holds a composite value; nullptr for NULL.
TupleTableSlot* slot_of(Datum row, bool null, TupleDesc descriptor) {
    if (null) return nullptr;
    HeapTupleHeader header = DatumGetHeapTupleHeader(row);
    HeapTupleData tuple = {};
    tuple.t_len = HeapTupleHeaderGetDatumLength(header);
    tuple.t_data = header;
    TupleTableSlot* slot = MakeSingleTupleTableSlot(descriptor, &TTSOpsHeapTuple);
    ExecStoreHeapTuple(heap_copytuple(&tuple), slot, false);
    return slot;
}

Oid table_of_argument(FunctionCallInfo fcinfo) {
    Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);
    Oid table = OidIsValid(type) ? get_typ_typrelid(getBaseType(type)) : InvalidOid;
    if (OidIsValid(table)) return table;
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("the row is not one of a table"),
                    errhint("As in SELECT p.* FROM orders AS o, outbox.preview(o) AS p;")));
}

bool fires_for(const Trigger& trigger, RowEvent event) {
    switch (event) {
        case RowEvent::Insert:
            return TRIGGER_FOR_INSERT(trigger.tgtype);
        case RowEvent::Update:
            return TRIGGER_FOR_UPDATE(trigger.tgtype);
        case RowEvent::Delete:
            break;
    }
    return TRIGGER_FOR_DELETE(trigger.tgtype);
}

void put_message(ReturnSetInfo* result, const char* attachment, const MessageParts& parts,
                 size_t headers_bytes, const NullableDatum& partitions) {
    enum { kAttachment, kTopic, kPartition, kKey, kPayload, kHeaders, kSize, kColumns };
    Datum values[kColumns] = {};
    bool nulls[kColumns] = {};
    auto bytes = [](const char* data, size_t length) {
        return PointerGetDatum(cstring_to_text_with_len(data, static_cast<int>(length)));
    };
    values[kAttachment] = DirectFunctionCall1(namein, CStringGetDatum(attachment));
    values[kTopic] = bytes(parts.topic, parts.topic_length);
    nulls[kPartition] = true;
    if (parts.has_partition) {
        values[kPartition] = Int32GetDatum(parts.partition);
        nulls[kPartition] = false;
    } else if (parts.key && !partitions.isnull) {
        uint32 count = static_cast<uint32>(DatumGetInt32(partitions.value));
        values[kPartition] =
            UInt32GetDatum((murmur2(parts.key, parts.key_length) & 0x7fffffff) % count);
        nulls[kPartition] = false;
    }
    nulls[kKey] = !parts.key;
    if (parts.key) values[kKey] = bytes(parts.key, parts.key_length);
    nulls[kPayload] = !parts.payload;
    if (parts.payload) values[kPayload] = bytes(parts.payload, parts.payload_length);
    nulls[kHeaders] = !parts.headers;
    if (parts.headers) values[kHeaders] = JsonbPGetDatum(const_cast<Jsonb*>(parts.headers));
    values[kSize] =
        Int64GetDatum(static_cast<int64>(parts.key_length + parts.payload_length + headers_bytes));
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

}  // namespace

}  // namespace outbox

using namespace outbox;

// outbox.preview(new anyelement, old anyelement, partitions integer)
OUTBOX_SQL_FUNCTION(outbox_preview) {
    NullableDatum partitions = {PG_GETARG_DATUM(2), PG_ARGISNULL(2)};
    if (!partitions.isnull && DatumGetInt32(partitions.value) < 1) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("a topic has at least one partition")));
    }
    Relation table = relation_open(table_of_argument(fcinfo), AccessShareLock);
    // Expressions run with the owner's rights, on whatever row is given.
    if (!compat::owns_relation(RelationGetRelid(table), GetUserId()))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(table));
    compat::init_materialized_result(fcinfo);
    ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    TupleTableSlot* new_row = slot_of(PG_GETARG_DATUM(0), PG_ARGISNULL(0), RelationGetDescr(table));
    TupleTableSlot* old_row = slot_of(PG_GETARG_DATUM(1), PG_ARGISNULL(1), RelationGetDescr(table));
    RowEvent event = !new_row ? RowEvent::Delete : !old_row ? RowEvent::Insert : RowEvent::Update;
    Oid attached = find_attached();
    int count = table->trigdesc ? table->trigdesc->numtriggers : 0;
    for (int i = 0; i < count && (new_row || old_row); ++i) {
        const Trigger& trigger = table->trigdesc->triggers[i];
        if (trigger.tgfoid != attached || !fires_for(trigger, event)) continue;
        MessageParts parts;
        size_t headers_bytes;
        Attachment* attachment = find_attachment(table, &trigger, event);
        if (!make_message(attachment, new_row, old_row, &parts, &headers_bytes)) continue;
        check_topic(parts.topic, parts.topic_length);
        if (parts.has_partition) check_partition(parts.partition);
        check_size(parts.key_length, parts.payload_length, headers_bytes);
        put_message(result, trigger.tgname, parts, headers_bytes, partitions);
    }
    if (new_row) ExecDropSingleTupleTableSlot(new_row);
    if (old_row) ExecDropSingleTupleTableSlot(old_row);
    relation_close(table, AccessShareLock);
    return static_cast<Datum>(0);
}
