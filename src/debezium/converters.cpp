// Kafka Connect's converters: from a schema and a value to bytes. Session's backend.
#include "debezium/converters.hpp"

#include <math.h>

namespace outbox::debezium {

namespace {

const char* finished(const StringInfoData& out, size_t* length) {
    *length = static_cast<size_t>(out.len);
    return out.data;
}

// -- JSON
// ------------------------------------------------------------------------------------------

// As Jackson writes strings: what JSON demands, and what lies beyond the basic plane as two
// escapes.
void append_json_string(StringInfo out, const char* data, size_t length) {
    appendStringInfoChar(out, '"');
    for (size_t i = 0; i < length; ++i) {
        unsigned char c = static_cast<unsigned char>(data[i]);
        if (c >= 0xf0 && length - i >= 4) {
            pg_wchar rest =
                utf8_to_unicode(reinterpret_cast<const unsigned char*>(data + i)) - 0x10000;
            appendStringInfo(out, "\\u%04X\\u%04X", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
            i += 3;
            continue;
        }
        switch (c) {
            case '"':
            case '\\':
                appendStringInfoChar(out, '\\');
                appendStringInfoChar(out, data[i]);
                break;
            case '\b':
                appendStringInfoString(out, "\\b");
                break;
            case '\f':
                appendStringInfoString(out, "\\f");
                break;
            case '\n':
                appendStringInfoString(out, "\\n");
                break;
            case '\r':
                appendStringInfoString(out, "\\r");
                break;
            case '\t':
                appendStringInfoString(out, "\\t");
                break;
            default:
                if (c < 0x20)
                    appendStringInfo(out, "\\u%04X", c);
                else
                    appendStringInfoChar(out, data[i]);
        }
    }
    appendStringInfoChar(out, '"');
}

void append_json_text(StringInfo out, const char* text) {
    append_json_string(out, text, strlen(text));
}

// What is no number is a string there.
void append_json_float(StringInfo out, bool finite, void (*append)(StringInfo, const Value&),
                       const Value& value) {
    if (!finite) appendStringInfoChar(out, '"');
    append(out, value);
    if (!finite) appendStringInfoChar(out, '"');
}

void append_json(StringInfo out, const Schema& schema, const Value& value);

void append_json_list(StringInfo out, const Schema& schema, const Value& value) {
    bool object = schema.type == Type::Struct;
    appendStringInfoChar(out, object ? '{' : '[');
    for (int i = 0; i < value.list.count; ++i) {
        if (i > 0) appendStringInfoChar(out, ',');
        if (object) {
            append_json_text(out, schema.fields[i].name);
            appendStringInfoChar(out, ':');
        }
        append_json(out, object ? *schema.fields[i].schema : *schema.element, value.list.items[i]);
    }
    appendStringInfoChar(out, object ? '}' : ']');
}

void append_json(StringInfo out, const Schema& schema, const Value& value) {
    check_stack_depth();
    if (value.null) {
        if (schema.fallback)
            append_json(out, schema, *schema.fallback);
        else
            appendStringInfoString(out, "null");
        return;
    }
    switch (schema.type) {
        case Type::Int16:
        case Type::Int32:
        case Type::Int64:
            appendStringInfo(out, INT64_FORMAT, value.integer);
            break;
        case Type::Float32:
            append_json_float(
                out, isfinite(value.float32),
                [](StringInfo to, const Value& of) { append_float(to, of.float32); }, value);
            break;
        case Type::Float64:
            append_json_float(
                out, isfinite(value.float64),
                [](StringInfo to, const Value& of) { append_double(to, of.float64); }, value);
            break;
        case Type::Boolean:
            appendStringInfoString(out, value.boolean ? "true" : "false");
            break;
        case Type::String:
            append_json_string(out, value.text.data, value.text.length);
            break;
        case Type::Bytes: {
            size_t length = value.text.length;
            const char* bytes =
                schema.decimal ? unscaled_bytes(value.decimal, &length) : value.text.data;
            appendStringInfoChar(out, '"');
            append_base64(out, bytes, length);
            appendStringInfoChar(out, '"');
            break;
        }
        case Type::Array:
        case Type::Struct:
            append_json_list(out, schema, value);
    }
}

const char* name_of(Type type) {
    switch (type) {
        case Type::Int16:
            return "int16";
        case Type::Int32:
            return "int32";
        case Type::Int64:
            return "int64";
        case Type::Float32:
            return "float";
        case Type::Float64:
            return "double";
        case Type::Boolean:
            return "boolean";
        case Type::String:
            return "string";
        case Type::Bytes:
            return "bytes";
        case Type::Array:
            return "array";
        case Type::Struct:
            break;
    }
    return "struct";
}

void append_parameters(StringInfo out, const Schema& schema) {
    if (schema.parameter_count == 0) return;
    appendStringInfoString(out, ",\"parameters\":{");
    for (int i = 0; i < schema.parameter_count; ++i) {
        if (i > 0) appendStringInfoChar(out, ',');
        append_json_text(out, schema.parameters[i].name);
        appendStringInfoChar(out, ':');
        append_json_text(out, schema.parameters[i].value);
    }
    appendStringInfoChar(out, '}');
}

// `field`: the name of the struct's field that has this schema; nullptr: it is none's.
void append_json_schema(StringInfo out, const Schema& schema, const char* field) {
    check_stack_depth();
    appendStringInfo(out, "{\"type\":\"%s\"", name_of(schema.type));
    if (schema.type == Type::Array) {
        appendStringInfoString(out, ",\"items\":");
        append_json_schema(out, *schema.element, nullptr);
    }
    if (schema.type == Type::Struct) {
        appendStringInfoString(out, ",\"fields\":[");
        for (int i = 0; i < schema.field_count; ++i) {
            if (i > 0) appendStringInfoChar(out, ',');
            append_json_schema(out, *schema.fields[i].schema, schema.fields[i].name);
        }
        appendStringInfoChar(out, ']');
    }
    appendStringInfo(out, ",\"optional\":%s", schema.optional ? "true" : "false");
    if (schema.name) {
        appendStringInfoString(out, ",\"name\":");
        append_json_text(out, schema.name);
    }
    if (schema.has_version) appendStringInfo(out, ",\"version\":%d", schema.version);
    if (schema.doc) {
        appendStringInfoString(out, ",\"doc\":");
        append_json_text(out, schema.doc);
    }
    append_parameters(out, schema);
    if (schema.fallback) {
        appendStringInfoString(out, ",\"default\":");
        append_json(out, schema, *schema.fallback);
    }
    if (field) {
        appendStringInfoString(out, ",\"field\":");
        append_json_text(out, field);
    }
    appendStringInfoChar(out, '}');
}

const char* to_json(const Schema& schema, const Value& value, bool with_schema, size_t* length) {
    StringInfoData out;
    initStringInfo(&out);
    if (with_schema) {
        appendStringInfoString(&out, "{\"schema\":");
        append_json_schema(&out, schema, nullptr);
        appendStringInfoString(&out, ",\"payload\":");
    }
    append_json(&out, schema, value);
    if (with_schema) appendStringInfoChar(&out, '}');
    return finished(out, length);
}

// -- toString()
// --------------------------------------------------------------------------------------

void append_scalar(StringInfo out, const Schema& schema, const Value& value) {
    switch (schema.type) {
        case Type::Int16:
        case Type::Int32:
        case Type::Int64:
            appendStringInfo(out, INT64_FORMAT, value.integer);
            break;
        case Type::Float32:
            append_float(out, value.float32);
            break;
        case Type::Float64:
            append_double(out, value.float64);
            break;
        case Type::Boolean:
            appendStringInfoString(out, value.boolean ? "true" : "false");
            break;
        default:
            appendBinaryStringInfo(out, value.text.data, static_cast<int>(value.text.length));
    }
}

// java.nio.ByteBuffer says only how long it is.
void append_buffer(StringInfo out, size_t length) {
    appendStringInfo(out, "java.nio.HeapByteBuffer[pos=0 lim=%zu cap=%zu]", length, length);
}

void append_java(StringInfo out, const Schema& schema, const Value& value) {
    check_stack_depth();
    if (value.null) {
        appendStringInfoString(out, "null");
        return;
    }
    const char* comma = "";
    switch (schema.type) {
        case Type::Bytes:
            if (schema.decimal)
                append_decimal(out, value.decimal);
            else
                append_buffer(out, value.text.length);
            return;
        case Type::Array:
            appendStringInfoChar(out, '[');
            for (int i = 0; i < value.list.count; ++i) {
                appendStringInfoString(out, i > 0 ? ", " : "");
                append_java(out, *schema.element, value.list.items[i]);
            }
            appendStringInfoChar(out, ']');
            return;
        case Type::Struct:
            appendStringInfoString(out, "Struct{");
            for (int i = 0; i < value.list.count; ++i) {
                if (value.list.items[i].null) continue;
                appendStringInfo(out, "%s%s=", comma, schema.fields[i].name);
                append_java(out, *schema.fields[i].schema, value.list.items[i]);
                comma = ",";
            }
            appendStringInfoChar(out, '}');
            return;
        default:
            append_scalar(out, schema, value);
    }
}

// -- org.apache.kafka.connect.data.Values
// --------------------------------------------------------------

// Inside of something, strings are quoted; their quotes and backslashes escaped.
void append_quoted(StringInfo out, const char* data, size_t length) {
    appendStringInfoChar(out, '"');
    for (size_t i = 0; i < length; ++i) {
        if (data[i] == '"' || data[i] == '\\') appendStringInfoChar(out, '\\');
        appendStringInfoChar(out, data[i]);
    }
    appendStringInfoChar(out, '"');
}

void append_header(StringInfo out, const Schema& schema, const Value& value, bool inside) {
    check_stack_depth();
    if (value.null) {
        appendStringInfoString(out, "null");
        return;
    }
    switch (schema.type) {
        case Type::String:
            if (inside)
                append_quoted(out, value.text.data, value.text.length);
            else
                append_scalar(out, schema, value);
            return;
        case Type::Bytes:
            if (schema.decimal) {
                append_decimal(out, value.decimal);
                return;
            }
            if (inside) appendStringInfoChar(out, '"');
            append_base64(out, value.text.data, value.text.length);
            if (inside) appendStringInfoChar(out, '"');
            return;
        case Type::Array:
            appendStringInfoChar(out, '[');
            for (int i = 0; i < value.list.count; ++i) {
                appendStringInfoString(out, i > 0 ? "," : "");
                append_header(out, *schema.element, value.list.items[i], true);
            }
            appendStringInfoChar(out, ']');
            return;
        case Type::Struct:
            appendStringInfoChar(out, '{');
            for (int i = 0; i < value.list.count; ++i) {
                appendStringInfoString(out, i > 0 ? "," : "");
                append_quoted(out, schema.fields[i].name, strlen(schema.fields[i].name));
                appendStringInfoChar(out, ':');
                append_header(out, *schema.fields[i].schema, value.list.items[i], true);
            }
            appendStringInfoChar(out, '}');
            return;
        default:
            append_scalar(out, schema, value);
    }
}

const char* pass_through(const Schema& schema, const Value& value, size_t* length) {
    if (value.null) return nullptr;
    if (schema.type != Type::Bytes || schema.decimal) {
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("a converter for bytes cannot write a value of type %s",
                               name_of(schema.type)),
                        errhint("The column has to be bytea.")));
    }
    *length = value.text.length;
    return value.text.data;
}

}  // namespace

const char* convert(Converter converter, const Schema* schema, const Value& value, size_t* length) {
    if (!schema) return nullptr;
    switch (converter) {
        case Converter::String: {
            if (value.null) return nullptr;
            if (schema->type == Type::String) {
                *length = value.text.length;
                return value.text.data;
            }
            StringInfoData out;
            initStringInfo(&out);
            append_java(&out, *schema, value);
            return finished(out, length);
        }
        case Converter::Json:
        case Converter::JsonWithSchemas:
            return to_json(*schema, value, converter == Converter::JsonWithSchemas, length);
        case Converter::Bytes:
            break;
    }
    return pass_through(*schema, value, length);
}

const char* header_text(const Schema& schema, const Value& value, size_t* length) {
    if (value.null) return nullptr;
    StringInfoData out;
    initStringInfo(&out);
    append_header(&out, schema, value, false);
    return finished(out, length);
}

}  // namespace outbox::debezium
