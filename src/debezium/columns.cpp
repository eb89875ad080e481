// What Debezium's PostgreSQL connector makes of a column: a schema for its type, and values of it.
// Session's backend.
#include "debezium/columns.hpp"

#include "session/value_bytes.hpp"
#include "shared/headers.hpp"

extern "C" {
#include "catalog/pg_enum.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/date.h"
}

namespace outbox::debezium {

namespace {

// Between PostgreSQL's epoch, 2000, and Unix', 1970.
constexpr int64 kEpochDays = POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE;
constexpr int64 kEpochMicros = kEpochDays * USECS_PER_DAY;

struct Mapping {
    Column::Kind kind;
    Type type;
    const char* name;  // of a logical type, all of which are in version 1; nullptr: it is none
};

[[noreturn]] void raise_unsupported(const FormData_pg_attribute* column, const char* why) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("column \"%s\" of type %s cannot be part of a record",
                           NameStr(column->attname), format_type_be(column->atttypid)),
                    errdetail("%s", why)));
}

// Decimal digits of seconds that a type's modifier allows.
int precision_of(int32 modifier) {
    return modifier < 0 ? 6 : modifier;
}

Mapping decimal(int32 modifier, DecimalMode mode) {
    switch (mode) {
        case DecimalMode::Double:
            return {Column::Kind::DecimalAsDouble, Type::Float64, nullptr};
        case DecimalMode::String:
            return {Column::Kind::DecimalAsText, Type::String, nullptr};
        case DecimalMode::Precise:
            break;
    }
    if (modifier < 0)
        return {Column::Kind::VariableDecimal, Type::Struct,
                "io.debezium.data.VariableScaleDecimal"};
    return {Column::Kind::Decimal, Type::Bytes, "org.apache.kafka.connect.data.Decimal"};
}

Mapping mapping_of(const FormData_pg_attribute* column, Oid type, int32 modifier,
                   const Configuration& configuration) {
    using Kind = Column::Kind;
    bool connect = configuration.times == TimeMode::Connect;
    bool millis = precision_of(modifier) <= 3;
    if (connect && (type == DATEOID || type == TIMEOID || type == TIMESTAMPOID))
        raise_unsupported(column, "Not with time.precision.mode=connect.");
    switch (type) {
        case INT2OID:
            return {Kind::Int16, Type::Int16, nullptr};
        case INT4OID:
            return {Kind::Int32, Type::Int32, nullptr};
        case INT8OID:
            return {Kind::Int64, Type::Int64, nullptr};
        case FLOAT4OID:
            return {Kind::Float32, Type::Float32, nullptr};
        case FLOAT8OID:
            return {Kind::Float64, Type::Float64, nullptr};
        case BOOLOID:
            return {Kind::Boolean, Type::Boolean, nullptr};
        case TEXTOID:
        case VARCHAROID:
        case BPCHAROID:
        case INETOID:
        case CIDROID:
        case MACADDROID:
        case MACADDR8OID:
            return {Kind::Text, Type::String, nullptr};
        case XMLOID:
            return {Kind::Text, Type::String, "io.debezium.data.Xml"};
        case JSONOID:
        case JSONBOID:
            return {Kind::Json, Type::String, "io.debezium.data.Json"};
        case UUIDOID:
            return {Kind::Uuid, Type::String, "io.debezium.data.Uuid"};
        case NUMERICOID:
            return decimal(modifier, configuration.decimals);
        case BYTEAOID:
            if (configuration.binaries == BinaryMode::Bytes)
                return {Kind::Bytes, Type::Bytes, nullptr};
            return {Kind::EncodedBytes, Type::String, nullptr};
        case DATEOID:
            return {Kind::Date, Type::Int32, "io.debezium.time.Date"};
        case TIMESTAMPOID:
            if (millis) return {Kind::TimestampMillis, Type::Int64, "io.debezium.time.Timestamp"};
            return {Kind::TimestampMicros, Type::Int64, "io.debezium.time.MicroTimestamp"};
        case TIMESTAMPTZOID:
            return {Kind::ZonedTimestamp, Type::String, "io.debezium.time.ZonedTimestamp"};
        case TIMEOID:
            if (millis && configuration.times == TimeMode::Adaptive)
                return {Kind::TimeMillis, Type::Int32, "io.debezium.time.Time"};
            return {Kind::TimeMicros, Type::Int64, "io.debezium.time.MicroTime"};
        default:
            if (type_is_enum(type)) return {Kind::Text, Type::String, "io.debezium.data.Enum"};
            raise_unsupported(column,
                              "Types that can are numbers, text, enums, json, jsonb, xml, "
                              "uuid, bytea, boolean, date, time, timestamps and network "
                              "addresses.");
    }
}

const Schema kScale = {.type = Type::Int32};
const Schema kUnscaled = {.type = Type::Bytes};
const Field kVariableDecimal[] = {{"scale", &kScale}, {"value", &kUnscaled}};

Value value_of(const Column& column, Datum datum);

// What stands for a default that is computed: the connector does not compute it.
bool computed_default(Column::Kind kind, Value* value) {
    *value = {};
    switch (kind) {
        case Column::Kind::Uuid: {
            const char* const kNone = "00000000-0000-0000-0000-000000000000";
            *value = text_value(kNone, strlen(kNone));
            return true;
        }
        case Column::Kind::ZonedTimestamp: {
            const char* const kEpoch = "1970-01-01T00:00:00.000000Z";
            *value = text_value(kEpoch, strlen(kEpoch));
            return true;
        }
        case Column::Kind::Date:
        case Column::Kind::TimestampMillis:
        case Column::Kind::TimestampMicros:
            return true;
        default:
            return false;
    }
}

// What the schema has as the column's default, and a record where the column is NULL.
const Value* default_of(Relation relation, const Column& column) {
    TupleDesc descriptor = RelationGetDescr(relation);
    if (!TupleDescAttr(descriptor, column.number - 1)->atthasdef) return nullptr;
    Node* expression = build_column_default(relation, column.number);
    if (!expression) return nullptr;
    Value* value = static_cast<Value*>(palloc(sizeof(Value)));
    expression = eval_const_expressions(nullptr, expression);
    if (!IsA(expression, Const)) return computed_default(column.kind, value) ? value : nullptr;
    const Const* constant = reinterpret_cast<const Const*>(expression);
    if (constant->constisnull) return nullptr;
    *value = value_of(column, constant->constvalue);
    return value;
}

// The labels of an enum, in their order.
const char* labels_of(Oid type) {
    StringInfoData labels;
    initStringInfo(&labels);
    Relation catalogue = table_open(EnumRelationId, AccessShareLock);
    Relation index = index_open(EnumTypIdSortOrderIndexId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_enum_enumtypid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(type));
    SysScanDesc scan = systable_beginscan_ordered(catalogue, index, nullptr, 1, &key);
    HeapTuple tuple;
    while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection))) {
        const FormData_pg_enum& label = *reinterpret_cast<Form_pg_enum>(GETSTRUCT(tuple));
        appendStringInfo(&labels, "%s%s", labels.len > 0 ? "," : "", NameStr(label.enumlabel));
    }
    systable_endscan_ordered(scan);
    index_close(index, AccessShareLock);
    table_close(catalogue, AccessShareLock);
    return labels.data;
}

void add_parameter(Schema* schema, const char* name, const char* value) {
    Parameter* parameters = static_cast<Parameter*>(
        palloc(sizeof(Parameter) * static_cast<size_t>(schema->parameter_count + 1)));
    for (int i = 0; i < schema->parameter_count; ++i)
        parameters[i] = schema->parameters[i];
    parameters[schema->parameter_count++] = Parameter{name, value};
    schema->parameters = parameters;
}

// -- values
// ------------------------------------------------------------------------------------------------

Value integer_value(int64 number) {
    Value value = {};
    value.integer = number;
    return value;
}

Value encoded_bytes(Datum datum, BinaryMode mode) {
    size_t length;
    const char* bytes = varlena_bytes(datum, &length);
    StringInfoData out;
    initStringInfo(&out);
    if (mode == BinaryMode::Hex) {
        for (size_t i = 0; i < length; ++i)
            appendStringInfo(&out, "%02x", static_cast<unsigned char>(bytes[i]));
    } else {
        append_base64(&out, bytes, length);
        for (int i = 0; mode == BinaryMode::Base64UrlSafe && i < out.len; ++i) {
            if (out.data[i] == '+') out.data[i] = '-';
            if (out.data[i] == '/') out.data[i] = '_';
        }
    }
    return text_value(out.data, static_cast<size_t>(out.len));
}

Decimal decimal_of(Datum datum) {
    const char* text = DatumGetCString(DirectFunctionCall1(numeric_out, datum));
    Decimal decimal;
    if (parse_decimal(text, &decimal)) return decimal;
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s has no place in a record", text),
             errhint("decimal.handling.mode=string has one for it.")));
}

// Zeros at the end of a fraction are not kept where the column has no scale.
Decimal without_trailing_zeros(Decimal decimal) {
    size_t count = strlen(decimal.digits);
    size_t kept = count;
    while (decimal.scale > 0 && kept > 1 && decimal.digits[kept - 1] == '0') {
        --kept;
        --decimal.scale;
    }
    if (strcmp(decimal.digits, "0") == 0) decimal.scale = 0;
    decimal.digits = pnstrdup(decimal.digits, kept);
    return decimal;
}

Value variable_decimal(Datum datum) {
    Decimal decimal = without_trailing_zeros(decimal_of(datum));
    Value* items = static_cast<Value*>(palloc(2 * sizeof(Value)));
    items[0] = integer_value(decimal.scale);
    size_t length;
    const char* bytes = unscaled_bytes(decimal, &length);
    items[1] = text_value(bytes, length);
    Value value = {};
    value.list = {items, 2};
    return value;
}

// PGStatement.DATE_POSITIVE_INFINITY and DATE_NEGATIVE_INFINITY of PostgreSQL's Java driver, in
// milliseconds.
constexpr int64 kInfinityMillis = 9223372036825200000LL / 1000;
constexpr int64 kMinusInfinityMillis = -9223372036832400000LL / 1000;

Value timestamp_value(Timestamp time, bool in_micros) {
    int64 unit = in_micros ? 1000 : 1;
    if (TIMESTAMP_IS_NOEND(time)) return integer_value(kInfinityMillis * unit);
    if (TIMESTAMP_IS_NOBEGIN(time)) return integer_value(kMinusInfinityMillis * unit);
    int64 micros = time + kEpochMicros;
    return integer_value(in_micros ? micros : micros / 1000);
}

// As java.time prints a year: with a sign beyond four digits, and 0 for 1 BC.
void append_year(StringInfo out, int year) {
    if (year > 9999)
        appendStringInfo(out, "+%d", year);
    else if (year < 0)
        appendStringInfo(out, "-%04d", -year);
    else
        appendStringInfo(out, "%04d", year);
}

// 2026-01-02T03:04:05.678901Z, with as many digits as the column has.
Value zoned_timestamp(TimestampTz time, int digits) {
    if (TIMESTAMP_IS_NOEND(time)) return text_value("infinity", 8);
    if (TIMESTAMP_IS_NOBEGIN(time)) return text_value("-infinity", 9);
    pg_tm parts;
    fsec_t micros;
    if (timestamp2tm(time, nullptr, &parts, &micros, nullptr, nullptr) != 0)
        ereport(ERROR,
                (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
    StringInfoData out;
    initStringInfo(&out);
    append_year(&out, parts.tm_year);
    appendStringInfo(&out, "-%02d-%02dT%02d:%02d:%02d", parts.tm_mon, parts.tm_mday, parts.tm_hour,
                     parts.tm_min, parts.tm_sec);
    if (digits > 0) {
        const char* fraction = psprintf("%06d", static_cast<int>(micros));
        appendStringInfo(&out, ".%.*s", digits, fraction);
    }
    appendStringInfoChar(&out, 'Z');
    return text_value(out.data, static_cast<size_t>(out.len));
}

Value value_of(const Column& column, Datum datum) {
    using Kind = Column::Kind;
    Value value = {};
    switch (column.kind) {
        case Kind::Int16:
            return integer_value(DatumGetInt16(datum));
        case Kind::Int32:
            return integer_value(DatumGetInt32(datum));
        case Kind::Int64:
            return integer_value(DatumGetInt64(datum));
        case Kind::Float32:
            value.float32 = DatumGetFloat4(datum);
            return value;
        case Kind::Float64:
            value.float64 = DatumGetFloat8(datum);
            return value;
        case Kind::Boolean:
            value.boolean = DatumGetBool(datum);
            return value;
        case Kind::Text:
        case Kind::Json:
        case Kind::Uuid: {
            size_t length;
            const char* text = value_bytes(datum, column.type, &length, column.output);
            return text_value(text, length);
        }
        case Kind::Bytes: {
            size_t length;
            const char* bytes = varlena_bytes(datum, &length);
            return text_value(bytes, length);
        }
        case Kind::EncodedBytes:
            return encoded_bytes(datum, column.binaries);
        case Kind::Decimal:
            value.decimal = decimal_of(datum);
            return value;
        case Kind::VariableDecimal:
            return variable_decimal(datum);
        case Kind::DecimalAsDouble:
            value.float64 = DatumGetFloat8(DirectFunctionCall1(numeric_float8, datum));
            return value;
        case Kind::DecimalAsText: {
            const char* text = DatumGetCString(DirectFunctionCall1(numeric_out, datum));
            return text_value(text, strlen(text));
        }
        case Kind::Date:
            // Infinite dates overflow in Java, too.
            return integer_value(static_cast<int32>(DatumGetDateADT(datum) + kEpochDays));
        case Kind::TimestampMillis:
            return timestamp_value(DatumGetTimestamp(datum), false);
        case Kind::TimestampMicros:
            return timestamp_value(DatumGetTimestamp(datum), true);
        case Kind::ZonedTimestamp:
            return zoned_timestamp(DatumGetTimestampTz(datum), column.digits);
        case Kind::TimeMillis:
            return integer_value(DatumGetTimeADT(datum) / 1000);
        case Kind::TimeMicros:
            return integer_value(DatumGetTimeADT(datum));
    }
    return null_value();
}

}  // namespace

Column look_at_column(Relation relation, AttrNumber number, const Configuration& configuration) {
    const FormData_pg_attribute* attribute = TupleDescAttr(RelationGetDescr(relation), number - 1);
    int32 modifier = attribute->atttypmod;
    Oid type = getBaseTypeAndTypmod(attribute->atttypid, &modifier);
    Mapping mapping = mapping_of(attribute, type, modifier, configuration);
    Schema* schema = static_cast<Schema*>(palloc(sizeof(Schema)));
    *schema = {};
    schema->type = mapping.type;
    schema->name = mapping.name;
    schema->has_version = mapping.name != nullptr;
    schema->version = 1;
    schema->optional = !attribute->attnotnull;
    Column column = {mapping.kind,           configuration.binaries, number, type,
                     precision_of(modifier), output_of(type),        schema};
    if (mapping.kind == Column::Kind::Decimal) {
        schema->decimal = true;
        add_parameter(schema, "scale", psprintf("%d", (modifier - VARHDRSZ) & 0x7ff));
        add_parameter(schema, "connect.decimal.precision",
                      psprintf("%d", ((modifier - VARHDRSZ) >> 16) & 0xffff));
    }
    if (mapping.kind == Column::Kind::VariableDecimal) {
        schema->doc = "Variable scaled decimal";
        schema->fields = kVariableDecimal;
        schema->field_count = lengthof(kVariableDecimal);
    }
    if (type_is_enum(type)) add_parameter(schema, "allowed", labels_of(type));
    schema->fallback = default_of(relation, column);
    return column;
}

Value stored_value(const Column& column, TupleTableSlot* row) {
    bool null;
    Datum datum = slot_getattr(row, column.number, &null);
    return null ? null_value() : value_of(column, datum);
}

Value column_value(const Column& column, TupleTableSlot* row) {
    Value value = stored_value(column, row);
    if (!value.null) return value;
    return column.schema->fallback ? *column.schema->fallback : null_value();
}

}  // namespace outbox::debezium
