// What keeps an attachment together: its trigger needs its declaration, which goes with the table.
// Session's backend.
//
// The server itself makes the declaration, a view, depend on the table and on the columns that it
// uses: it takes one of them away only with CASCADE. That is right for a column. A table goes with
// its triggers without further ado, so the declaration is told to go with it too. And nobody can
// drop the declaration while the trigger is there.
//
// A dump knows nothing of this; restoring it makes the trigger again, after the view.
//
// The trigger's arguments say whose rights it has, so attach() makes it, as a superuser. The server
// copies it for a partition, with the rights of whoever makes the partition: so everybody has to be
// allowed to execute outbox.attached(), and it is here that triggers made by hand are refused.
#include "attach/dependencies.hpp"

#include "attach/declaration.hpp"
#include "storage/schema.hpp"

extern "C" {
#include "catalog/indexing.h"
}

namespace outbox {

namespace {

// The first argument of the trigger; nullptr: it has none.
const char* first_argument(HeapTuple tuple, Relation catalogue) {
    if (reinterpret_cast<Form_pg_trigger>(GETSTRUCT(tuple))->tgnargs == 0) return nullptr;
    bool null;
    Datum arguments =
        heap_getattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(catalogue), &null);
    // Each argument ends with a zero.
    return null ? nullptr : VARDATA_ANY(PG_DETOAST_DATUM_PACKED(arguments));
}

void record(const FormData_pg_trigger& trigger, Oid declaration) {
    ObjectAddress table = {RelationRelationId, trigger.tgrelid, 0};
    ObjectAddress view = {RelationRelationId, declaration, 0};
    ObjectAddress itself = {TriggerRelationId, trigger.oid, 0};
    recordDependencyOn(&itself, &view, DEPENDENCY_NORMAL);
    recordDependencyOn(&view, &table, DEPENDENCY_AUTO);
}

[[noreturn]] void raise_by_hand() {
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                    errmsg("triggers that call outbox.attached() are made by outbox.attach()"),
                    errdetail("Their arguments say whose rights they have."),
                    errhint("Call outbox.attach() as the table's owner.")));
}

}  // namespace

void note_trigger(Oid trigger) {
    Oid attached = find_attached();
    if (!OidIsValid(attached)) return;
    Relation catalogue = table_open(TriggerRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(trigger));
    // The command that made it has not ended yet.
    SysScanDesc scan =
        systable_beginscan(catalogue, TriggerOidIndexId, true, SnapshotSelf, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    if (HeapTupleIsValid(tuple)) {
        const FormData_pg_trigger& form = *reinterpret_cast<Form_pg_trigger>(GETSTRUCT(tuple));
        // A partition's trigger goes with its parent's.
        bool ours = form.tgfoid == attached && !OidIsValid(form.tgparentid);
        if (ours && !superuser()) raise_by_hand();
        const char* name = ours ? first_argument(tuple, catalogue) : nullptr;
        Oid declaration = name ? find_declaration(name) : InvalidOid;
        if (OidIsValid(declaration)) record(form, declaration);
    }
    systable_endscan(scan);
    table_close(catalogue, AccessShareLock);
}

}  // namespace outbox
