// Names and shapes of the extension's own relations, and how to find them. Any process with a
// database.
#include "storage/schema.hpp"

namespace outbox {

namespace {

const char* const kSchemaName = "outbox";
const char* const kExtensionName = "outbox";

Oid relation_in(Oid name_space, const char* format, int number) {
    char name[NAMEDATALEN];
    snprintf(name, sizeof(name), format, number);
    return get_relname_relid(name, name_space);
}

Oid required(Oid name_space, const char* format, int number) {
    Oid relation = relation_in(name_space, format, number);
    if (OidIsValid(relation)) return relation;
    char name[NAMEDATALEN];
    snprintf(name, sizeof(name), format, number);
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation outbox.%s is missing", name),
                    errhint("Drop the extension outbox and create it again.")));
}

Oid function_named(const char* name, const Oid* types, int count) {
    Oid name_space = get_namespace_oid(kSchemaName, true);
    if (!OidIsValid(name_space)) return InvalidOid;
    oidvector* arguments = buildoidvector(types, count);
    Oid function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
                                   PointerGetDatum(arguments), ObjectIdGetDatum(name_space));
    pfree(arguments);
    return function;
}

// What was found last, until some of it changes. Whatever drops, replaces or renames one of these
// relations or their schema invalidates the caches of every session, this memory among them.
Schema found;
bool found_is_true = false;
bool disturbed;  // something has changed since the search began

void forget_relation(Datum, Oid relation) {
    disturbed = true;
    // The object ids are all that is in there.
    const Oid* oids = reinterpret_cast<const Oid*>(&found);
    bool ours = !OidIsValid(relation);
    for (size_t i = 0; i < sizeof(found) / sizeof(Oid); ++i)
        ours = ours || oids[i] == relation;
    if (ours) found_is_true = false;
}

void forget(Datum, int, uint32) {
    disturbed = true;
    found_is_true = false;
}

void begin_search() {
    static bool registered = false;
    if (!registered) {
        CacheRegisterRelcacheCallback(forget_relation, static_cast<Datum>(0));
        CacheRegisterSyscacheCallback(NAMESPACEOID, forget, static_cast<Datum>(0));
        registered = true;
    }
    disturbed = false;
}

}  // namespace

bool find_schema(Schema* schema) {
    if (found_is_true) {
        *schema = found;
        return true;
    }
    begin_search();
    schema->extension = get_extension_oid(kExtensionName, true);
    if (!OidIsValid(schema->extension)) return false;
    Oid name_space = get_namespace_oid(kSchemaName, true);
    for (int i = 0; i < kSegments; ++i) {
        schema->segments[i] = required(name_space, "segment_%d", i + 1);
        schema->segment_indexes[i] = required(name_space, "segment_%d_position", i + 1);
    }
    for (int i = 0; i < kProgressTables; ++i) {
        schema->progress[i] = required(name_space, "progress_%d", i + 1);
        schema->progress_indexes[i] = required(name_space, "progress_%d_number", i + 1);
    }
    schema->sequence = required(name_space, "message_position", 0);
    schema->identity = required(name_space, "identity", 0);
    schema->deferred = required(name_space, "deferred", 0);
    schema->deferred_topic = required(name_space, "deferred_topic", 0);
    found = *schema;
    found_is_true = !disturbed;
    return true;
}

Entry enter_schema(Schema* schema) {
    Oid sequence = find_sequence();
    if (!OidIsValid(sequence)) return Entry::Absent;
    if (!ConditionalLockRelationOid(sequence, AccessShareLock)) return Entry::Locked;
    // Between the look and the lock it may have been dropped, and created again.
    if (find_sequence() != sequence) return Entry::Locked;
    return find_schema(schema) ? Entry::Entered : Entry::Absent;
}

Oid owner_of(Oid relation) {
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
    if (!HeapTupleIsValid(tuple)) elog(ERROR, "cache lookup failed for relation %u", relation);
    Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    return owner;
}

Oid acting_role(const Schema& schema) {
    Oid relations[kSegments + kProgressTables + 3];
    int count = 0;
    for (Oid segment : schema.segments)
        relations[count++] = segment;
    for (Oid progress : schema.progress)
        relations[count++] = progress;
    relations[count++] = schema.identity;
    relations[count++] = schema.deferred;
    relations[count++] = schema.sequence;
    Oid role = InvalidOid;
    for (int i = 0; i < count; ++i) {
        Oid owner = owner_of(relations[i]);
        if (owner == role) continue;
        if (!OidIsValid(role) || !superuser_arg(owner)) role = owner;
    }
    return role;
}

Oid find_sequence() {
    Oid name_space = get_namespace_oid(kSchemaName, true);
    return OidIsValid(name_space) ? relation_in(name_space, "message_position", 0) : InvalidOid;
}

Oid find_emit_grant(Oid* index) {
    Oid name_space = get_namespace_oid(kSchemaName, false);
    *index = relation_in(name_space, "emit_grant_pkey", 0);
    return required(name_space, "emit_grant", 0);
}

Oid find_topic_pattern() {
    Oid name_space = get_namespace_oid(kSchemaName, false);
    Oid type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("topic_pattern"),
                               ObjectIdGetDatum(name_space));
    if (OidIsValid(type)) return type;
    ereport(ERROR,
            (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("type outbox.topic_pattern is missing"),
             errhint("Drop the extension outbox and create it again.")));
}

Oid find_attached() {
    return function_named("attached", nullptr, 0);
}

Oid find_emit() {
    const Oid types[] = {TEXTOID, BYTEAOID, BYTEAOID, JSONBOID, INT4OID};
    Oid function = function_named("emit", types, lengthof(types));
    if (OidIsValid(function)) return function;
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
                    errmsg("function outbox.emit(text, bytea, bytea, jsonb, integer) is missing"),
                    errhint("Drop the extension outbox and create it again.")));
}

}  // namespace outbox
