// What a table's attachment makes of a row: its declaration, planned once and kept. Session's
// backend, and the apply workers of logical replication.
#include "attach/attachment.hpp"

#include "attach/as_declared.hpp"
#include "attach/declaration.hpp"
#include "debezium/router.hpp"
#include "storage/schema.hpp"

namespace outbox {

namespace {

// Arguments of the trigger.
enum Argument { kDeclaration, kDeclaredBy, kRouter, kRemoval };
const char* const kBySuperuser = "superuser";

// Counts what may have changed a declaration, its functions, its owner's rights.
uint64 generation = 1;

struct Kept {
    uint64 key;
    Attachment* attachment;
};
HTAB* attachments = nullptr;
Attachment* latest = nullptr;

// What is stale, for as long as somebody up the stack may be using it.
MemoryContext stale = nullptr;

const PartSpec kMessageParts[kParts] = {
    {"topic", TEXTOID},    {"key", InvalidOid},    {"payload", InvalidOid},
    {"headers", JSONBOID}, {"partition", INT4OID}, {"when", BOOLOID},
};

uint64 key_of(Oid trigger, RowEvent event) {
    return static_cast<uint64>(trigger) << 8 | static_cast<uint64>(event);
}

void on_catalogue_change(Datum, int, uint32) {
    ++generation;
}

void on_relation_change(Datum, Oid relation) {
    if (!OidIsValid(relation)) {
        ++generation;
        return;
    }
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, attachments);
    while (const Kept* entry = static_cast<const Kept*>(hash_seq_search(&scan))) {
        Attachment* attachment = entry->attachment;
        if (attachment && (attachment->relation == relation || attachment->view == relation))
            attachment->generation = 0;
    }
}

void on_transaction_event(XactEvent event, void*) {
    if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
        return;
    if (stale) MemoryContextDelete(stale);
    stale = nullptr;
}

void begin() {
    HASHCTL control = {};
    control.keysize = sizeof(uint64);
    control.entrysize = sizeof(Kept);
    control.hcxt = TopMemoryContext;
    attachments =
        hash_create("outbox attachments", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    const int caches[] = {PROCOID, TYPEOID, AUTHOID};
    for (int cache : caches)
        CacheRegisterSyscacheCallback(cache, on_catalogue_change, static_cast<Datum>(0));
    CacheRegisterRelcacheCallback(on_relation_change, static_cast<Datum>(0));
    RegisterXactCallback(on_transaction_event, nullptr);
}

void retire(Attachment* attachment) {
    if (!stale)
        stale = AllocSetContextCreate(TopMemoryContext, "outbox stale attachments",
                                      ALLOCSET_SMALL_SIZES);
    MemoryContextSetParent(attachment->context, stale);
}

Attachment* load(Relation relation, const Trigger* trigger, RowEvent event) {
    Oid view = trigger->tgnargs > kDeclaredBy ? find_declaration(trigger->tgargs[kDeclaration])
                                              : InvalidOid;
    if (!OidIsValid(view)) {
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("the declaration of attachment \"%s\" of table \"%s\" is gone",
                               trigger->tgname, RelationGetRelationName(relation)),
                        errhint("Drop the trigger, then call outbox.attach() again.")));
    }
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "outbox attachment", ALLOCSET_SMALL_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    Attachment* made = static_cast<Attachment*>(palloc0(sizeof(Attachment)));
    made->context = context;
    made->trigger = trigger->tgoid;
    made->event = event;
    made->relation = RelationGetRelid(relation);
    made->view = view;
    // What changes while this reads is read again by the next row.
    made->generation = generation;
    made->emit = find_emit();
    bool by_superuser = strcmp(trigger->tgargs[kDeclaredBy], kBySuperuser) == 0;
    made->removes_rows =
        trigger->tgnargs > kRemoval && strcmp(trigger->tgargs[kRemoval], kRemovesRows) == 0;
    if (trigger->tgnargs > kRouter) {
        made->router = debezium::make_router(trigger->tgargs[kRouter]);
        int count;
        const PartSpec* specs = debezium::router_parts(made->router, &count);
        read_declaration(made, view, relation, by_superuser, specs, count);
        // Columns' defaults are planned, and planning runs functions.
        AsDeclared as_declared(made->owner);
        debezium::bind_router(made->router, relation, made->parts);
        as_declared.end();
    } else {
        read_declaration(made, view, relation, by_superuser, kMessageParts, kParts);
    }
    MemoryContextSwitchTo(caller);
    return made;
}

bool is_current(const Attachment* attachment) {
    return attachment->generation == generation;
}

}  // namespace

const char* name_of(RowEvent event) {
    switch (event) {
        case RowEvent::Insert:
            return "INSERT";
        case RowEvent::Update:
            return "UPDATE";
        case RowEvent::Delete:
            break;
    }
    return "DELETE";
}

const char* name_of(PartName part) {
    return kMessageParts[static_cast<int>(part)].name;
}

const char* declared_by(Oid owner) {
    return superuser_arg(owner) ? kBySuperuser : "role";
}

Attachment* find_attachment(Relation relation, const Trigger* trigger, RowEvent event) {
    if (latest && latest->trigger == trigger->tgoid && latest->event == event && is_current(latest))
        return latest;
    if (!attachments) begin();
    uint64 key = key_of(trigger->tgoid, event);
    Kept* entry = static_cast<Kept*>(hash_search(attachments, &key, HASH_FIND, nullptr));
    if (entry && entry->attachment && is_current(entry->attachment))
        return latest = entry->attachment;
    Attachment* made = load(relation, trigger, event);
    bool found;
    entry = static_cast<Kept*>(hash_search(attachments, &key, HASH_ENTER, &found));
    if (found && entry->attachment) retire(entry->attachment);
    MemoryContextSetParent(made->context, TopMemoryContext);
    entry->attachment = made;
    return latest = made;
}

}  // namespace outbox
