// Which topics a user may emit to. Session's backend.
//
// The answer is kept for each pair of user and function until the server says that a function, a
// role, a membership, the mark or a grant has changed: then every session looks again, as early as
// it would notice a GRANT on a function. A call that finds its answer compares a few numbers, and
// for a user who is bound to topics the topic with the last one; none reads a catalogue.
#include "session/emit_rights.hpp"

#include "storage/schema.hpp"

namespace outbox {

namespace {

enum : AttrNumber { kGrantee = 1, kTopicPattern };

// As long as Kafka's longest topic.
constexpr size_t kLongestTopic = 249;

struct Pattern {
    const char* text;
    size_t length;
};

// What one user may do with one function.
struct Right {
    Oid user;  // InvalidOid: nothing is known
    Oid function;
    uint64 generation;
    bool any_topic;
    int pattern_count;
    Pattern* patterns;
    MemoryContext context;  // of the patterns
    size_t last_length;     // of the last topic that was allowed
    char last_topic[kLongestTopic];
};

// A session rarely has more: one user, or a few SECURITY DEFINER functions' owners.
constexpr int kRights = 16;
Right rights[kRights];
Right* latest = &rights[0];
int replaced = 0;

// Counts what may have changed rights.
uint64 generation = 1;
Oid grants_table = InvalidOid;

void on_catalogue_change(Datum, int, uint32) {
    ++generation;
}

// InvalidOid: all of them may have changed.
void on_relation_change(Datum, Oid relation) {
    if (relation == grants_table || !OidIsValid(relation)) ++generation;
}

void watch_catalogues() {
    static bool watching = false;
    if (watching) return;
    // What a role may do by membership can also change with the database's owner.
    const int caches[] = {PROCOID, TYPEOID, AUTHOID, AUTHMEMROLEMEM, DATABASEOID};
    for (int cache : caches)
        CacheRegisterSyscacheCallback(cache, on_catalogue_change, static_cast<Datum>(0));
    CacheRegisterRelcacheCallback(on_relation_change, static_cast<Datum>(0));
    watching = true;
}

// Whether `topic` is one of those that `pattern` means: "*" is any run of characters, none too.
bool matches(const Pattern& pattern, const char* topic, size_t length) {
    size_t p = 0;
    size_t t = 0;
    size_t after_star = 0;  // of the pattern; 0: no star yet
    size_t tried_from = 0;  // of the topic: what the last star has not taken
    while (t < length) {
        if (p < pattern.length && pattern.text[p] == '*') {
            after_star = ++p;
            tried_from = t;
        } else if (p < pattern.length && pattern.text[p] == topic[t]) {
            ++p;
            ++t;
        } else if (after_star > 0) {
            p = after_star;
            t = ++tried_from;
        } else {
            return false;
        }
    }
    while (p < pattern.length && pattern.text[p] == '*')
        ++p;
    return p == pattern.length;
}

// The access list of a function or a type (the default one if it has none of its own), and its
// owner.
struct AccessList {
    Acl* acl;
    Oid owner;
};

AccessList access_list(int cache, Oid object, AttrNumber list, AttrNumber owner, ObjectType kind) {
    HeapTuple tuple = SearchSysCache1(cache, ObjectIdGetDatum(object));
    if (!HeapTupleIsValid(tuple)) elog(ERROR, "cache lookup failed for object %u", object);
    AccessList found;
    bool null;
    found.owner = DatumGetObjectId(SysCacheGetAttr(cache, tuple, owner, &null));
    Datum value = SysCacheGetAttr(cache, tuple, list, &null);
    found.acl = null ? acldefault(kind, found.owner) : DatumGetAclPCopy(value);
    ReleaseSysCache(tuple);
    return found;
}

bool gives(const Acl* acl, Oid grantee, AclMode privilege) {
    const AclItem* items = ACL_DAT(acl);
    for (int i = 0; i < ACL_NUM(acl); ++i) {
        if (items[i].ai_grantee == grantee && (ACLITEM_GET_PRIVS(items[i]) & privilege))
            return true;
    }
    return false;
}

void add_pattern(Right* right, Datum value) {
    MemoryContext caller = MemoryContextSwitchTo(right->context);
    size_t bytes = sizeof(Pattern) * static_cast<size_t>(right->pattern_count + 1);
    right->patterns =
        static_cast<Pattern*>(right->patterns ? repalloc(right->patterns, bytes) : palloc(bytes));
    char* pattern = TextDatumGetCString(value);
    right->patterns[right->pattern_count++] = Pattern{pattern, strlen(pattern)};
    MemoryContextSwitchTo(caller);
}

// Reads as the server reads its catalogues: what is committed now, whatever this transaction's
// snapshot shows, and what it did itself; no trigger, rule or policy of the table has a part in it.
void add_patterns_of(Right* right, Oid grantee) {
    Oid index;
    Relation table = table_open(find_emit_grant(&index), AccessShareLock);
    grants_table = RelationGetRelid(table);
    ScanKeyData key;
    ScanKeyInit(&key, kGrantee, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(grantee));
    SysScanDesc scan = systable_beginscan(table, index, OidIsValid(index), nullptr, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    for (; HeapTupleIsValid(tuple); tuple = systable_getnext(scan)) {
        bool null;
        Datum value = heap_getattr(tuple, kTopicPattern, RelationGetDescr(table), &null);
        if (!null) add_pattern(right, value);
    }
    systable_endscan(scan);
    table_close(table, AccessShareLock);
}

void add_what_is_granted(Right* right, Oid user, Oid function) {
    AccessList callers =
        access_list(PROCOID, function, Anum_pg_proc_proacl, Anum_pg_proc_proowner, OBJECT_FUNCTION);
    AccessList bound = access_list(TYPEOID, find_topic_pattern(), Anum_pg_type_typacl,
                                   Anum_pg_type_typowner, OBJECT_TYPE);
    const AclItem* items = ACL_DAT(callers.acl);
    for (int i = 0; i < ACL_NUM(callers.acl) && !right->any_topic; ++i) {
        Oid grantee = items[i].ai_grantee;
        if (!(ACLITEM_GET_PRIVS(items[i]) & ACL_EXECUTE)) continue;
        if (grantee != ACL_ID_PUBLIC && !has_privs_of_role(user, grantee)) continue;
        // The owner of the domain has its privileges without having been bound.
        if (grantee != callers.owner && gives(bound.acl, grantee, ACL_USAGE)) {
            add_patterns_of(right, grantee);
        } else {
            right->any_topic = true;
        }
    }
    pfree(callers.acl);
    pfree(bound.acl);
}

// Looks the right up in the catalogues.
void find_out(Right* right, Oid user, Oid function) {
    watch_catalogues();
    right->user = InvalidOid;
    if (!right->context) {
        right->context =
            AllocSetContextCreate(TopMemoryContext, "outbox emit rights", ALLOCSET_SMALL_SIZES);
    }
    MemoryContextReset(right->context);
    right->patterns = nullptr;
    right->pattern_count = 0;
    right->last_length = 0;
    right->function = function;
    // What changes while this looks is looked at again by the next call.
    right->generation = generation;
    right->any_topic = superuser_arg(user);
    if (!right->any_topic) add_what_is_granted(right, user, function);
    right->user = user;
}

bool is_known(const Right& right, Oid user, Oid function) {
    return right.user == user && right.function == function && right.generation == generation;
}

Right* right_of(Oid user, Oid function) {
    for (Right& right : rights) {
        if (is_known(right, user, function)) return &right;
    }
    Right* right = &rights[replaced];
    replaced = (replaced + 1) % kRights;
    find_out(right, user, function);
    return right;
}

bool is_last_topic(const Right& right, const char* topic, size_t length) {
    return right.last_length == length && memcmp(right.last_topic, topic, length) == 0;
}

bool any_matches(const Right& right, const char* topic, size_t length) {
    for (int i = 0; i < right.pattern_count; ++i) {
        if (matches(right.patterns[i], topic, length)) return true;
    }
    return false;
}

}  // namespace

void check_may_emit(Oid user, Oid function, const char* topic, size_t length) {
    if (!is_known(*latest, user, function)) latest = right_of(user, function);
    Right& right = *latest;
    if (right.any_topic || is_last_topic(right, topic, length)) return;
    if (any_matches(right, topic, length)) {
        Assert(length <= kLongestTopic);
        memcpy(right.last_topic, topic, length);
        right.last_length = length;
        return;
    }
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
             errmsg("permission denied to emit to topic \"%.*s\"", static_cast<int>(length), topic),
             errdetail("Role \"%s\" may emit to certain topics only, and this is none of them.",
                       GetUserNameFromId(user, false)),
             errhint("outbox.grant_emit(role, topic_pattern) grants topics.")));
}

}  // namespace outbox
