// A connector's configuration, as far as it says what records look like. Session's backend.
#include "debezium/configuration.hpp"

#include "debezium/options.hpp"

namespace outbox::debezium {

namespace {

const char* const kRouterClass = "io.debezium.transforms.outbox.EventRouter";

struct Setting {
    const char* name;
    const char* value;
};

// -- from JSON to names and values
// -------------------------------------------------------------------

const char* text_of(const JsonbValue& value) {
    switch (value.type) {
        case jbvString:
            return pnstrdup(value.val.string.val, static_cast<Size>(value.val.string.len));
        case jbvNumeric:
            return DatumGetCString(
                DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));
        case jbvBool:
            return value.val.boolean ? "true" : "false";
        default:
            return nullptr;
    }
}

[[noreturn]] void raise_no_object() {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("the configuration must be a JSON object"),
                    errhint("Give the connector's configuration, as it is posted to Kafka "
                            "Connect.")));
}

// Of {"name": ..., "config": {...}} the inner object.
JsonbContainer* options_in(const Jsonb* json) {
    if (!JB_ROOT_IS_OBJECT(json)) raise_no_object();
    JsonbContainer* whole = const_cast<JsonbContainer*>(&json->root);
    JsonbValue name;
    name.type = jbvString;
    name.val.string.val = const_cast<char*>("config");
    name.val.string.len = 6;
    JsonbValue* inner = findJsonbValueFromContainer(whole, JB_FOBJECT, &name);
    if (!inner) return whole;
    if (inner->type != jbvBinary || !JsonContainerIsObject(inner->val.binary.data))
        raise_no_object();
    return inner->val.binary.data;
}

List* settings_in(const Jsonb* json) {
    List* settings = NIL;
    JsonbIterator* iterator = JsonbIteratorInit(options_in(json));
    JsonbValue item;
    const char* name = nullptr;
    JsonbIteratorToken token;
    while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE) {
        if (token == WJB_KEY) name = text_of(item);
        if (token != WJB_VALUE) continue;
        const char* value = text_of(item);
        if (!value) {
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("option \"%s\" has no value", name),
                            errdetail("It must be a string, a number or a boolean.")));
        }
        Setting* setting = static_cast<Setting*>(palloc(sizeof(Setting)));
        *setting = {name, value};
        settings = lappend(settings, setting);
    }
    return settings;
}

const char* value_of(const List* settings, const char* name) {
    ListCell* cell;
    foreach (cell, settings) {
        const Setting* setting = static_cast<const Setting*>(lfirst(cell));
        if (strcmp(setting->name, name) == 0) return setting->value;
    }
    return nullptr;
}

// -- which of them are the router's
// -------------------------------------------------------------------

const char* trimmed(const char* text, size_t length) {
    while (length > 0 && isspace(static_cast<unsigned char>(*text))) {
        ++text;
        --length;
    }
    while (length > 0 && isspace(static_cast<unsigned char>(text[length - 1])))
        --length;
    return pnstrdup(text, length);
}
const char* trimmed(const char* text) {
    return trimmed(text, strlen(text));
}

List* split(const char* text, char separator) {
    List* parts = NIL;
    for (;;) {
        const char* end = strchr(text, separator);
        parts = lappend(parts, const_cast<char*>(trimmed(
                                   text, end ? static_cast<size_t>(end - text) : strlen(text))));
        if (!end) return parts;
        text = end + 1;
    }
}

bool is_router(const char* type) {
    return type && strcmp(trimmed(type), kRouterClass) == 0;
}

[[noreturn]] void raise_other_transform(const char* name) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("transform \"%s\" is not the outbox event router", name),
                    errdetail("What it does to records would be missing."),
                    errhint("Leave it out if records are the same without it.")));
}

// "transforms.outbox." or whatever the router is called; "" where its options stand alone.
const char* router_prefix(const List* settings) {
    const char* list = value_of(settings, "transforms");
    if (list) {
        const char* prefix = nullptr;
        ListCell* cell;
        foreach (cell, split(list, ',')) {
            const char* name = static_cast<const char*>(lfirst(cell));
            const char* candidate = psprintf("transforms.%s.", name);
            if (!is_router(value_of(settings, psprintf("%stype", candidate))))
                raise_other_transform(name);
            prefix = candidate;
        }
        return prefix;
    }
    ListCell* cell;
    foreach (cell, settings) {
        const char* name = static_cast<const Setting*>(lfirst(cell))->name;
        if (strncmp(name, "transforms.", 11) != 0) continue;
        const char* end = strchr(name + 11, '.');
        if (end) return pnstrdup(name, static_cast<Size>(end - name + 1));
    }
    return "";
}

// -- values
// -----------------------------------------------------------------------------------------

[[noreturn]] void raise_value(const char* name, const char* value, const char* allowed) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("option \"%s\" cannot be \"%s\"", name, value),
                    errhint("It can be %s.", allowed)));
}

[[noreturn]] void raise_refused(const char* name, const char* value, const char* reason) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("option \"%s\" is not supported with value \"%s\"", name, value),
                    errdetail("%s", reason)));
}

bool boolean(const char* name, const char* value) {
    const char* text = trimmed(value);
    if (pg_strcasecmp(text, "true") == 0) return true;
    if (pg_strcasecmp(text, "false") == 0) return false;
    raise_value(name, value, "true or false");
}

// The number of `value` among `words`, which a nullptr ends.
int one_of(const char* name, const char* value, const char* const* words) {
    StringInfoData allowed;
    initStringInfo(&allowed);
    for (int i = 0; words[i]; ++i) {
        if (pg_strcasecmp(trimmed(value), words[i]) == 0) return i;
        appendStringInfo(&allowed, "%s%s", i > 0 ? ", " : "", words[i]);
    }
    raise_value(name, value, allowed.data);
}

void read_placements(Configuration* to, const char* name, const char* value) {
    static const char* const kWhere[] = {"header", "envelope", "partition", nullptr};
    List* entries = split(value, ',');
    to->placements = static_cast<Placement*>(
        palloc(sizeof(Placement) * static_cast<size_t>(list_length(entries))));
    ListCell* cell;
    foreach (cell, entries) {
        const char* entry = static_cast<const char*>(lfirst(cell));
        List* parts = split(entry, ':');
        int count = list_length(parts);
        if (count < 2 || count > 3 || *static_cast<const char*>(linitial(parts)) == '\0')
            raise_value(name, value, "a list of column:placement or column:placement:alias");
        Placement& placement = to->placements[to->placement_count++];
        placement.column = static_cast<const char*>(linitial(parts));
        placement.where = static_cast<Placement::Where>(
            one_of(name, static_cast<const char*>(lsecond(parts)), kWhere));
        placement.alias = static_cast<const char*>(count == 3 ? lthird(parts) : linitial(parts));
    }
}

void read_router_option(Configuration* to, const char* name, const char* value) {
    static const char* const kOnUpdate[] = {"warn", "error", "fatal", nullptr};
    static const char* const kMissing[] = {"error", "ignore", nullptr};
    static const char* const kNulls[] = {"ignore", "optional_bytes", nullptr};
    static const char* const kEmptyArrays[] = {"ignore", "optional_string", nullptr};
    auto is = [name](const char* option) { return strcmp(name, option) == 0; };
    if (is("type")) {
        if (!is_router(value)) raise_value(name, value, kRouterClass);
    } else if (is("table.field.event.id")) {
        to->id = value;
    } else if (is("table.field.event.key")) {
        to->key = value;
    } else if (is("table.field.event.payload")) {
        to->payload = value;
    } else if (is("table.field.event.timestamp")) {
        to->timestamp = value;
    } else if (is("table.field.event.schema.version")) {
        to->version = value;
    } else if (is("table.fields.additional.placement")) {
        read_placements(to, name, value);
    } else if (is("table.field.additional.missing")) {
        to->ignores_missing = one_of(name, value, kMissing) == 1;
    } else if (is("table.op.invalid.behavior")) {
        to->on_update = static_cast<OnUpdate>(one_of(name, value, kOnUpdate));
    } else if (is("table.expand.json.payload")) {
        to->expands = boolean(name, value);
    } else if (is("table.json.payload.null.behavior")) {
        to->expansion.keeps_nulls = one_of(name, value, kNulls) == 1;
    } else if (is("table.json.payload.empty.array.behavior")) {
        to->expansion.keeps_empty_arrays = one_of(name, value, kEmptyArrays) == 1;
    } else if (is("route.by.field")) {
        to->route = value;
    } else if (is("route.topic.regex")) {
        to->regex = value;
    } else if (is("route.topic.replacement")) {
        to->replacement = value;
    } else if (is("route.tombstone.on.empty.payload")) {
        to->tombstones = boolean(name, value);
    } else if (is("tracing.span.context.field")) {
        to->tracing = value;
    }
    // table.field.event.type is one that the router itself never reads.
}

// -- converters
// -------------------------------------------------------------------------------------

Converter read_converter(const List* settings, const char* name, const char* value) {
    const char* type = trimmed(value);
    if (strcmp(type, "org.apache.kafka.connect.storage.StringConverter") == 0)
        return Converter::String;
    if (strcmp(type, "org.apache.kafka.connect.converters.ByteArrayConverter") == 0 ||
        strcmp(type, "io.debezium.converters.BinaryDataConverter") == 0)
        return Converter::Bytes;
    if (strcmp(type, "org.apache.kafka.connect.json.JsonConverter") == 0) {
        const char* option = psprintf("%s.schemas.enable", name);
        const char* schemas = value_of(settings, option);
        return !schemas || boolean(option, schemas) ? Converter::JsonWithSchemas : Converter::Json;
    }
    raise_refused(name, value,
                  "Converters that are done here are StringConverter, JsonConverter, "
                  "ByteArrayConverter and BinaryDataConverter.");
}

void read_connector_option(Configuration* to, const List* settings, const char* name,
                           const char* value) {
    static const char* const kDecimals[] = {"precise", "double", "string", nullptr};
    static const char* const kTimes[] = {"adaptive", "adaptive_time_microseconds", "connect",
                                         nullptr};
    static const char* const kBinaries[] = {"bytes", "base64", "base64-url-safe", "hex", nullptr};
    auto is = [name](const char* option) { return strcmp(name, option) == 0; };
    if (is("key.converter")) {
        to->key_converter = read_converter(settings, name, value);
        to->names_key_converter = true;
    } else if (is("value.converter")) {
        to->value_converter = read_converter(settings, name, value);
        to->names_value_converter = true;
    } else if (is("value.converter.delegate.converter.type")) {
        to->value_delegate = read_converter(settings, name, value);
        to->has_value_delegate = true;
    } else if (is("header.converter")) {
        const char* type = trimmed(value);
        to->headers_are_strings =
            strcmp(type, "org.apache.kafka.connect.storage.StringConverter") == 0;
        if (!to->headers_are_strings &&
            strcmp(type, "org.apache.kafka.connect.storage.SimpleHeaderConverter") != 0)
            raise_refused(name, value,
                          "Headers are written by SimpleHeaderConverter or StringConverter.");
    } else if (is("connector.class")) {
        if (strcmp(trimmed(value), "io.debezium.connector.postgresql.PostgresConnector") != 0)
            raise_value(name, value, "io.debezium.connector.postgresql.PostgresConnector");
    } else if (is("topic.prefix")) {
        to->topic_prefix = value;
    } else if (is("extended.headers.enabled")) {
        to->context_headers = boolean(name, value);
    } else if (is("decimal.handling.mode")) {
        to->decimals = static_cast<DecimalMode>(one_of(name, value, kDecimals));
    } else if (is("time.precision.mode")) {
        static const char* const kOthers[] = {"isostring", "microseconds", "nanoseconds"};
        for (const char* other : kOthers) {
            if (strcmp(trimmed(value), other) == 0)
                raise_refused(name, value, "Times are written in the adaptive modes only.");
        }
        to->times = static_cast<TimeMode>(one_of(name, value, kTimes));
    } else if (is("binary.handling.mode")) {
        to->binaries = static_cast<BinaryMode>(one_of(name, value, kBinaries));
    } else if (is("field.name.adjustment.mode") || is("schema.name.adjustment.mode")) {
        if (pg_strcasecmp(trimmed(value), "none") != 0)
            raise_refused(name, value, "Names are left as they are.");
    } else if (is("topic.naming.strategy")) {
        if (strcmp(trimmed(value), "io.debezium.schema.SchemaTopicNamingStrategy") != 0)
            raise_refused(name, value, "It changes the names of schemas.");
    } else if (is("topic.delimiter")) {
        if (strcmp(value, ".") != 0) raise_refused(name, value, "It changes the names of schemas.");
    } else if (is("skipped.operations")) {
        ListCell* cell;
        foreach (cell, split(value, ',')) {
            if (strcmp(static_cast<const char*>(lfirst(cell)), "c") == 0)
                raise_refused(name, value, "Without inserts there is nothing to send.");
        }
    }
}

[[noreturn]] void raise_unknown(const char* name, const char* nearest) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown option \"%s\"", name),
                    nearest ? errhint("Perhaps you meant \"%s\".", nearest)
                            : errhint("Options have the names that Debezium and Kafka Connect "
                                      "give them.")));
}

// -- one option after the other
// -----------------------------------------------------------------------

class Reader {
  public:
    explicit Reader(const List* settings) : settings_(settings), prefix_(router_prefix(settings)) {
        (void)pushJsonbValue(&kept_, WJB_BEGIN_OBJECT, nullptr);
    }

    Reading read() {
        ListCell* cell;
        foreach (cell, settings_)
            read_setting(*static_cast<const Setting*>(lfirst(cell)));
        JsonbValue* kept = pushJsonbValue(&kept_, WJB_END_OBJECT, nullptr);
        reading_.kept = JsonbValueToJsonb(kept);
        return reading_;
    }

  private:
    void read_setting(const Setting& setting) {
        size_t length = strlen(prefix_);
        bool routers = strncmp(setting.name, prefix_, length) == 0;
        const char* bare = routers ? setting.name + length : setting.name;
        const Option* option = routers ? find_router_option(bare) : nullptr;
        bool is_routers = option != nullptr;
        // Without a prefix the names of both stand side by side.
        if (!option && (!routers || length == 0)) option = find_connector_option(setting.name);
        if (!option) raise_unknown(setting.name, nearest(setting.name, bare, routers));
        switch (option->fate) {
            case Fate::Needless:
                reading_.needless = lappend(reading_.needless, const_cast<char*>(setting.name));
                return;
            case Fate::Refused:
                raise_refused(setting.name, setting.value, option->reason);
            case Fate::Router:
                break;
        }
        if (is_routers)
            read_router_option(&reading_.configuration, bare, setting.value);
        else
            read_connector_option(&reading_.configuration, settings_, setting.name, setting.value);
        keep(setting);
    }

    const char* nearest(const char* name, const char* bare, bool routers) const {
        int of_router, of_connector;
        const char* router = nearest_router_option(bare, &of_router);
        const char* connector = nearest_connector_option(name, &of_connector);
        // What has the router's prefix is one of its options, and nothing else.
        bool is_routers = routers && *prefix_;
        if (!is_routers && connector && of_connector <= of_router) return connector;
        return router ? psprintf("%s%s", prefix_, router) : nullptr;
    }

    void keep(const Setting& setting) {
        JsonbValue text;
        text.type = jbvString;
        text.val.string.val = const_cast<char*>(setting.name);
        text.val.string.len = static_cast<int>(strlen(setting.name));
        (void)pushJsonbValue(&kept_, WJB_KEY, &text);
        text.val.string.val = const_cast<char*>(setting.value);
        text.val.string.len = static_cast<int>(strlen(setting.value));
        (void)pushJsonbValue(&kept_, WJB_VALUE, &text);
    }

    const List* settings_;
    const char* prefix_;
    Reading reading_ = {};
    JsonbParseState* kept_ = nullptr;
};

}  // namespace

bool Configuration::has_envelope() const {
    for (int i = 0; i < placement_count; ++i) {
        if (placements[i].where == Placement::Where::Envelope) return true;
    }
    return false;
}

Reading read_configuration(const Jsonb* json) {
    return Reader(settings_in(json)).read();
}

}  // namespace outbox::debezium
