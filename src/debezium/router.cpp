// Debezium's outbox event router: what record it makes of a row. Session's backend, and the apply
// workers of logical replication.
//
//   topic      the value of route.by.field, through route.topic.regex and route.topic.replacement
//   key        table.field.event.key, by the key's converter
//   value      table.field.event.payload, or a structure of it and the envelope's fields, by the
//              value's converter; nothing for a tombstone
//   headers    the connector's context if that was asked for, the tracing context, id, then the
//              fields that are placed there, in their order
//   timestamp  table.field.event.timestamp, otherwise the time of the commit
#include "debezium/router.hpp"

#include "debezium/columns.hpp"
#include "debezium/java_regex.hpp"
#include "debezium/properties.hpp"
#include "session/message_rules.hpp"
#include "session/uuid7.hpp"
#include "shared/headers.hpp"

namespace outbox::debezium {

namespace {

// The declaration's columns; those that are placed follow.
enum Place { kId, kRoute, kKey, kPayload, kTimestamp, kVersion, kTracing, kPlaced };
const char* const kPlaceNames[kPlaced] = {"id",        "route",   "key",    "payload",
                                          "timestamp", "version", "tracing"};

// Headers that the propagator of the W3C trace context writes.
const char* const kTraceHeaders[] = {"traceparent", "tracestate", "baggage"};

}  // namespace

struct Router {
    Configuration configuration;
    Route* route;
    PartSpec* specs;
    int spec_count;
    Column* columns;  // one for each of specs
    bool* present;
    const char* schema_name;  // what the envelope's schema is called around the route
    bool has_envelope;
};

namespace {

bool has(const Router* router, int place) {
    return router->present[place];
}

Value value_at(const Router* router, int place, TupleTableSlot* row) {
    return has(router, place) ? column_value(router->columns[place], row) : null_value();
}

// As the router asks for the fields that it has a use for itself: no default stands in for NULL.
Value stored_at(const Router* router, int place, TupleTableSlot* row) {
    return has(router, place) ? stored_value(router->columns[place], row) : null_value();
}

const Schema& schema_at(const Router* router, int place) {
    return *router->columns[place].schema;
}

// -- binding
// -------------------------------------------------------------------------------------------

[[noreturn]] void raise_type(const char* option, const char* wanted) {
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("the column of \"%s\" must be %s", option, wanted)));
}

// Of bytes in a structure StringConverter writes where they are in memory.
void check_string(const Router* router, int place, const char* option) {
    if (has(router, place) && router->columns[place].kind == Column::Kind::VariableDecimal)
        raise_type(option,
                   "no numeric without a scale, of which StringConverter writes no digit "
                   "(decimal.handling.mode=string would)");
}

void check_strings(const Router* router) {
    const Configuration& configuration = router->configuration;
    bool strings = configuration.value_converter == Converter::String;
    if (configuration.key_converter == Converter::String)
        check_string(router, kKey, "table.field.event.key");
    if (strings) check_string(router, kPayload, "table.field.event.payload");
    for (int i = 0; i < configuration.placement_count; ++i) {
        Placement::Where where = configuration.placements[i].where;
        if ((where == Placement::Where::Envelope && strings) ||
            (where == Placement::Where::Header && configuration.headers_are_strings))
            check_string(router, kPlaced + i, "table.fields.additional.placement");
    }
}

[[noreturn]] void raise_no_envelope() {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("the value's converter writes bytes only, no envelope"),
                    errhint("BinaryDataConverter writes one with a delegate: "
                            "value.converter.delegate.converter.type.")));
}

void check_types(const Router* router) {
    auto kind = [router](int place) { return router->columns[place].kind; };
    if (schema_at(router, kRoute).type != Type::String) raise_type("route.by.field", "text");
    if (has(router, kTimestamp) && kind(kTimestamp) != Column::Kind::TimestampMillis &&
        kind(kTimestamp) != Column::Kind::TimestampMicros)
        raise_type("table.field.event.timestamp", "a timestamp without time zone");
    if (has(router, kVersion) && kind(kVersion) != Column::Kind::Int32)
        raise_type("table.field.event.schema.version", "an integer");
    if (has(router, kTracing) && schema_at(router, kTracing).type != Type::String)
        raise_type("tracing.span.context.field", "text");
    const Configuration& configuration = router->configuration;
    for (int i = 0; i < configuration.placement_count; ++i) {
        bool partition = configuration.placements[i].where == Placement::Where::Partition;
        if (partition && has(router, kPlaced + i) && kind(kPlaced + i) != Column::Kind::Int32)
            raise_type("table.fields.additional.placement", "an integer where it is the partition");
    }
    check_strings(router);
    auto check_bytes = [&kind](Converter converter, int place, const char* option) {
        bool bytes = kind(place) == Column::Kind::Bytes;
        if (converter == Converter::Bytes && !bytes) raise_type(option, "bytea for its converter");
        if (converter == Converter::String && bytes)
            raise_type(option, "no bytea, of which StringConverter writes no byte");
    };
    check_bytes(configuration.key_converter, kKey, "table.field.event.key");
    if (configuration.has_value_delegate) return;
    if (!router->has_envelope)
        check_bytes(configuration.value_converter, kPayload, "table.field.event.payload");
    else if (configuration.value_converter == Converter::Bytes)
        raise_no_envelope();
}

// -- parts of the record
// ---------------------------------------------------------------------------------

// As Java's trim(): everything up to a space.
bool is_empty(const Schema& schema, const Value& payload) {
    if (payload.null) return true;
    if (schema.type != Type::String) return false;
    for (size_t i = 0; i < payload.text.length; ++i) {
        if (static_cast<unsigned char>(payload.text.data[i]) > ' ') return false;
    }
    return true;
}

Schema* envelope_schema(const Router* router, const Schema* payload, const char* route,
                        const Value& version) {
    const Configuration& configuration = router->configuration;
    Schema* schema = static_cast<Schema*>(palloc(sizeof(Schema)));
    *schema = {};
    schema->type = Type::Struct;
    schema->name = psprintf("%s.%s.Value", router->schema_name, route);
    schema->has_version = !version.null;
    if (!version.null) schema->version = static_cast<int32>(version.integer);
    Field* fields = static_cast<Field*>(
        palloc(sizeof(Field) * static_cast<size_t>(configuration.placement_count + 1)));
    fields[schema->field_count++] = Field{"payload", payload};
    for (int i = 0; i < configuration.placement_count; ++i) {
        const Placement& placement = configuration.placements[i];
        if (placement.where != Placement::Where::Envelope || !has(router, kPlaced + i)) continue;
        fields[schema->field_count++] = Field{placement.alias, router->columns[kPlaced + i].schema};
    }
    schema->fields = fields;
    return schema;
}

Value envelope(const Router* router, const Value& payload, TupleTableSlot* row) {
    const Configuration& configuration = router->configuration;
    Value* items = static_cast<Value*>(
        palloc(sizeof(Value) * static_cast<size_t>(configuration.placement_count + 1)));
    Value value = {};
    value.list = {items, 0};
    items[value.list.count++] = payload;
    for (int i = 0; i < configuration.placement_count; ++i) {
        if (configuration.placements[i].where == Placement::Where::Envelope &&
            has(router, kPlaced + i))
            items[value.list.count++] = value_at(router, kPlaced + i, row);
    }
    return value;
}

const char* converted(const Configuration& configuration, const Schema& schema, const Value& value,
                      size_t* length) {
    bool bytes = schema.type == Type::Bytes && !schema.decimal;
    bool delegated =
        configuration.value_converter == Converter::Bytes && configuration.has_value_delegate;
    Converter converter =
        delegated && !bytes ? configuration.value_delegate : configuration.value_converter;
    return convert(converter, &schema, value, length);
}

void fill_value(const Router* router, TupleTableSlot* row, const char* route,
                MessageParts* message) {
    const Configuration& configuration = router->configuration;
    const Schema* schema = &schema_at(router, kPayload);
    Value payload = value_at(router, kPayload, row);
    bool empty = is_empty(*schema, payload);
    if (empty && configuration.tombstones) return;
    if (configuration.expands && !payload.null && schema->type == Type::String)
        (void)expand_json(payload.text.data, payload.text.length, configuration.payload,
                          configuration.expansion, &schema, &payload);
    if (router->has_envelope) {
        schema = envelope_schema(router, schema, route, stored_at(router, kVersion, row));
        payload = envelope(router, payload, row);
    }
    message->payload = converted(configuration, *schema, payload, &message->payload_length);
}

// -- headers
// ---------------------------------------------------------------------------------------------

class HeaderList {
  public:
    HeaderList() { (void)pushJsonbValue(&state_, WJB_BEGIN_ARRAY, nullptr); }

    void add_timestamp(int64 milliseconds) {
        JsonbValue number;
        number.type = jbvNumeric;
        number.val.numeric = int64_to_numeric(milliseconds);
        (void)pushJsonbValue(&state_, WJB_ELEM, &number);
    }

    // The message's own id.
    void add_id() { push(WJB_ELEM, "id", 2); }

    void add(const char* name, const char* value, size_t length) {
        (void)pushJsonbValue(&state_, WJB_BEGIN_ARRAY, nullptr);
        push(WJB_ELEM, name, strlen(name));
        if (value) {
            push(WJB_ELEM, value, length);
        } else {
            JsonbValue null;
            null.type = jbvNull;
            (void)pushJsonbValue(&state_, WJB_ELEM, &null);
        }
        (void)pushJsonbValue(&state_, WJB_END_ARRAY, nullptr);
    }

    Jsonb* finish() { return JsonbValueToJsonb(pushJsonbValue(&state_, WJB_END_ARRAY, nullptr)); }

  private:
    void push(JsonbIteratorToken token, const char* text, size_t length) {
        JsonbValue string;
        string.type = jbvString;
        string.val.string.val = const_cast<char*>(text);
        string.val.string.len = static_cast<int>(length);
        (void)pushJsonbValue(&state_, token, &string);
    }

    JsonbParseState* state_ = nullptr;
};

const char* header_of(const Router* router, int place, const Value& value, size_t* length) {
    const Schema& schema = schema_at(router, place);
    if (router->configuration.headers_are_strings)
        return convert(Converter::String, &schema, value, length);
    return header_text(schema, value, length);
}

void add_context(const Router* router, HeaderList* headers) {
    const char* prefix = router->configuration.topic_prefix;
    auto add = [headers](const char* name, const char* value) {
        headers->add(name, value, strlen(value));
    };
    add("__debezium.context.connectorLogicalName", prefix ? prefix : "");
    add("__debezium.context.taskId", "0");
    add("__debezium.context.connectorName", "postgresql");
}

void add_tracing(const Router* router, TupleTableSlot* row, HeaderList* headers) {
    Value context = stored_at(router, kTracing, row);
    if (context.null) return;
    for (const char* name : kTraceHeaders) {
        const char* value = property(context.text.data, context.text.length, name);
        if (value) headers->add(name, value, strlen(value));
    }
}

// Milliseconds since 1970; false: the time of the commit.
bool timestamp_of(const Router* router, TupleTableSlot* row, int64* milliseconds) {
    Value value = stored_at(router, kTimestamp, row);
    if (value.null) return false;
    bool micros = router->columns[kTimestamp].kind == Column::Kind::TimestampMicros;
    *milliseconds = micros ? value.integer / 1000 : value.integer;
    if (*milliseconds >= 0) return true;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("a message's timestamp must not be before 1970"),
                    errhint("Kafka has no such timestamps.")));
}

void fill_headers(const Router* router, TupleTableSlot* row, MessageParts* message) {
    const Configuration& configuration = router->configuration;
    HeaderList headers;
    int64 milliseconds;
    if (timestamp_of(router, row, &milliseconds)) headers.add_timestamp(milliseconds);
    if (configuration.context_headers) add_context(router, &headers);
    add_tracing(router, row, &headers);
    Value id = value_at(router, kId, row);
    size_t length = 0;
    if (!id.null && router->columns[kId].kind == Column::Kind::Uuid) {
        Datum uuid =
            DirectFunctionCall1(uuid_in, CStringGetDatum(pnstrdup(id.text.data, id.text.length)));
        memcpy(message->id, DatumGetUUIDP(uuid)->data, UUID_LEN);
        headers.add_id();
    } else {
        make_uuid7(message->id);
        const char* text = header_of(router, kId, id, &length);
        headers.add("id", text, length);
    }
    for (int i = 0; i < configuration.placement_count; ++i) {
        const Placement& placement = configuration.placements[i];
        if (placement.where != Placement::Where::Header || !has(router, kPlaced + i)) continue;
        const char* text =
            header_of(router, kPlaced + i, value_at(router, kPlaced + i, row), &length);
        headers.add(placement.alias, text, length);
    }
    message->headers = headers.finish();
}

void fill_partition(const Router* router, TupleTableSlot* row, MessageParts* message) {
    const Configuration& configuration = router->configuration;
    for (int i = 0; i < configuration.placement_count; ++i) {
        if (configuration.placements[i].where != Placement::Where::Partition ||
            !has(router, kPlaced + i))
            continue;
        // Of several the last one counts, NULL or not.
        Value value = stored_at(router, kPlaced + i, row);
        message->has_partition = !value.null;
        message->partition = value.null ? 0 : static_cast<int32>(value.integer);
    }
}

}  // namespace

Router* make_router(const char* json) {
    Router* router = static_cast<Router*>(palloc0(sizeof(Router)));
    Jsonb* config = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
    router->configuration = read_configuration(config).configuration;
    const Configuration& configuration = router->configuration;
    router->route = compile_route(configuration.regex, configuration.replacement);
    router->has_envelope = configuration.has_envelope();
    router->spec_count = kPlaced + configuration.placement_count;
    router->specs =
        static_cast<PartSpec*>(palloc(sizeof(PartSpec) * static_cast<size_t>(router->spec_count)));
    for (int i = 0; i < router->spec_count; ++i)
        router->specs[i] = PartSpec{
            i < kPlaced ? kPlaceNames[i] : psprintf("field %d", i - kPlaced + 1), InvalidOid};
    return router;
}

const PartSpec* router_parts(const Router* router, int* count) {
    *count = router->spec_count;
    return router->specs;
}

[[noreturn]] static void raise_missing(const char* place) {
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("the declaration of the attachment has no column for the router's %s", place),
             errhint("Call outbox.detach(), then outbox.attach_debezium() again.")));
}

void bind_router(Router* router, Relation relation, const Part* parts) {
    size_t count = static_cast<size_t>(router->spec_count);
    router->columns = static_cast<Column*>(palloc0(sizeof(Column) * count));
    router->present = static_cast<bool*>(palloc0(count));
    for (int i = 0; i < router->spec_count; ++i) {
        router->present[i] = parts[i].source == Part::Source::New;
        if (router->present[i])
            router->columns[i] = look_at_column(relation, parts[i].column, router->configuration);
        else if (i == kId || i == kKey || i == kPayload || i == kRoute)
            raise_missing(kPlaceNames[i]);
    }
    const char* prefix = router->configuration.topic_prefix;
    router->schema_name = psprintf("%s.%s.%s", prefix ? prefix : "outbox",
                                   get_namespace_name(RelationGetNamespace(relation)),
                                   RelationGetRelationName(relation));
    check_types(router);
}

bool make_record(const Router* router, const Part*, TupleTableSlot* row, MessageParts* message,
                 size_t* headers_bytes) {
    *message = {};
    Value route = stored_at(router, kRoute, row);
    if (route.null) check_topic_is_there(nullptr);
    message->topic =
        topic_of(router->route, route.text.data, route.text.length, &message->topic_length);
    Value key = value_at(router, kKey, row);
    message->key = convert(router->configuration.key_converter, &schema_at(router, kKey), key,
                           &message->key_length);
    fill_value(router, row, pnstrdup(route.text.data, route.text.length), message);
    fill_headers(router, row, message);
    fill_partition(router, row, message);
    *headers_bytes = 0;
    (void)append_headers(nullptr, message->headers, nullptr, headers_bytes);
    return true;
}

void note_update(const Router* router, Relation relation) {
    const char* table = RelationGetRelationName(relation);
    if (router->configuration.on_update == OnUpdate::Fatal) {
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("rows of the outbox table \"%s\" must not be updated", table),
                        errdetail("table.op.invalid.behavior is fatal."),
                        errhint("Insert a new row instead.")));
    }
    ereport(WARNING, (errmsg("an update of the outbox table \"%s\" sends nothing", table)));
}

}  // namespace outbox::debezium
