// The index on positions of a segment, which leads to the first row of each run only. Sessions.
#include "storage/segment_index.hpp"

#include "storage/schema.hpp"

namespace outbox {

namespace {

bool is_call(Node* node, Oid function) {
    return IsA(node, OpExpr) && reinterpret_cast<OpExpr*>(node)->opfuncid == function;
}

Node* argument(Node* call, int number) {
    return static_cast<Node*>(list_nth(reinterpret_cast<OpExpr*>(call)->args, number));
}

bool is_constant(Node* node, Oid type, int64 value) {
    if (!IsA(node, Const)) return false;
    Const* constant = reinterpret_cast<Const*>(node);
    if (constant->consttype != type || constant->constisnull) return false;
    return value == (type == INT8OID ? DatumGetInt64(constant->constvalue)
                                     : DatumGetInt32(constant->constvalue));
}

// position % 1 = 0
bool is_true_of_every_row(List* predicate) {
    if (list_length(predicate) != 1) return false;
    Node* equal = static_cast<Node*>(linitial(predicate));
    if (!is_call(equal, F_INT84EQ) || !is_constant(argument(equal, 1), INT4OID, 0)) return false;
    Node* modulo = argument(equal, 0);
    if (!is_call(modulo, F_INT8MOD) || !is_constant(argument(modulo, 1), INT8OID, 1)) return false;
    Node* column = argument(modulo, 0);
    return IsA(column, Var) &&
           reinterpret_cast<Var*>(column)->varattno == segment_column::kPosition;
}

bool has_entry(Relation segment, Relation index, ItemPointer place, int64 position) {
    IndexScanDesc scan = compat::begin_index_scan(segment, index, SnapshotAny, 1);
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(position));
    index_rescan(scan, &key, 1, nullptr, 0);
    bool found = false;
    while (ItemPointer entry = found ? nullptr : index_getnext_tid(scan, ForwardScanDirection))
        found = ItemPointerEquals(entry, place);
    index_endscan(scan);
    return found;
}

}  // namespace

bool is_of_runs(Relation index) {
    Form_pg_index form = index->rd_index;
    if (form->indnatts != 1 || form->indkey.values[0] != segment_column::kPosition ||
        !form->indisready || form->indisunique || form->indisexclusion) {
        return false;
    }
    // What the cache has, instead of a copy; the first call puts it there.
    if (!index->rd_indpred) (void)RelationGetIndexPredicate(index);
    return is_true_of_every_row(index->rd_indpred);
}

void insert_entry(Relation segment, Relation index, IndexInfo* info, ItemPointer place,
                  int64 position) {
    Datum value = Int64GetDatum(position);
    bool null = false;
    (void)index_insert(index, &value, &null, place, segment, UNIQUE_CHECK_NO, false, info);
}

void keep_next_findable(Relation segment, Relation index, HeapTuple row) {
    bool null;
    TupleDesc descriptor = RelationGetDescr(segment);
    int64 position =
        DatumGetInt64(heap_getattr(row, segment_column::kPosition, descriptor, &null)) + 1;
    ItemPointerData place = row->t_self;
    place.ip_posid = static_cast<OffsetNumber>(place.ip_posid + 1);

    TupleTableSlot* slot = table_slot_create(segment, nullptr);
    IndexFetchTableData* fetch = table_index_fetch_begin(segment);
    ItemPointerData version = place;
    bool again = false;
    bool there = table_index_fetch_tuple(fetch, &version, SnapshotAny, slot, &again, nullptr) &&
                 DatumGetInt64(slot_getattr(slot, segment_column::kPosition, &null)) == position;
    table_index_fetch_end(fetch);
    ExecDropSingleTupleTableSlot(slot);
    if (there && !has_entry(segment, index, &place, position))
        insert_entry(segment, index, BuildDummyIndexInfo(index), &place, position);
}

}  // namespace outbox
