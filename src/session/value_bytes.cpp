// The bytes that a value of SQL has as a key or a payload. Session's backend.
#include "session/value_bytes.hpp"

#include "shared/headers.hpp"

namespace outbox {

namespace {

char* iso_8601(Datum value, Oid type) {
    // As in JSON, whatever DateStyle and TimeZone say: the same value is always the same key.
    constexpr int kUtc = 0;
    char* text = static_cast<char*>(palloc(MAXDATELEN + 1));
    return JsonEncodeDateTime(text, value, type, type == TIMESTAMPTZOID ? &kUtc : nullptr);
}

char* printed(Datum value, Oid type, FmgrInfo* output) {
    switch (type) {
        case JSONBOID: {
            Jsonb* json = DatumGetJsonbP(value);
            return JsonbToCString(nullptr, &json->root, static_cast<int>(VARSIZE(json)));
        }
        case BOOLOID:
            return pstrdup(DatumGetBool(value) ? "true" : "false");
        case INT2OID:
            return DatumGetCString(DirectFunctionCall1(int2out, value));
        case INT4OID:
            return DatumGetCString(DirectFunctionCall1(int4out, value));
        case INT8OID:
            return DatumGetCString(DirectFunctionCall1(int8out, value));
        case NUMERICOID:
            return DatumGetCString(DirectFunctionCall1(numeric_out, value));
        case UUIDOID:
            return DatumGetCString(DirectFunctionCall1(uuid_out, value));
        case DATEOID:
        case TIMEOID:
        case TIMETZOID:
        case TIMESTAMPOID:
        case TIMESTAMPTZOID:
            return iso_8601(value, type);
        default:
            if (!output) elog(ERROR, "no text is known for a value of type %u", type);
            return OutputFunctionCall(output, value);
    }
}

bool has_own_bytes(Oid type) {
    switch (type) {
        case BYTEAOID:
        case TEXTOID:
        case VARCHAROID:
        case BPCHAROID:
        case JSONOID:
        case JSONBOID:
        case BOOLOID:
        case INT2OID:
        case INT4OID:
        case INT8OID:
        case NUMERICOID:
        case UUIDOID:
        case DATEOID:
        case TIMEOID:
        case TIMETZOID:
        case TIMESTAMPOID:
        case TIMESTAMPTZOID:
            return true;
        default:
            return false;
    }
}

}  // namespace

FmgrInfo* output_of(Oid type) {
    if (has_own_bytes(type)) return nullptr;
    Oid function;
    bool varlena;
    getTypeOutputInfo(type, &function, &varlena);
    FmgrInfo* output = static_cast<FmgrInfo*>(palloc(sizeof(FmgrInfo)));
    fmgr_info(function, output);
    return output;
}

const char* varlena_bytes(Datum value, size_t* length) {
    varlena* data = PG_DETOAST_DATUM_PACKED(value);
    *length = VARSIZE_ANY_EXHDR(data);
    return VARDATA_ANY(data);
}

const char* value_bytes(Datum value, Oid type, size_t* length, FmgrInfo* output) {
    switch (type) {
        case BYTEAOID:
            return varlena_bytes(value, length);
        case TEXTOID:
        case VARCHAROID:
        case BPCHAROID:
        case JSONOID: {
            const char* text = varlena_bytes(value, length);
            return to_utf8(text, length);
        }
        default: {
            const char* text = printed(value, type, output);
            *length = strlen(text);
            return to_utf8(text, length);
        }
    }
}

}  // namespace outbox
