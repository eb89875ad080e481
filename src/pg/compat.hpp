// Everything that differs between PostgreSQL 15 and 18, and nothing else: the only file that looks
// at PG_VERSION_NUM. Each shim has the newest server's shape and names what changed.
#pragma once

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "outbox builds against PostgreSQL 15 to 18"
#endif

extern "C" {
#if PG_VERSION_NUM >= 170000
#include "storage/procnumber.h"
#else
#include "storage/backendid.h"
#endif
}

namespace outbox::compat {

// 16 renamed relfilenode to relfilenumber.
inline void set_new_storage(Relation relation) {
#if PG_VERSION_NUM >= 160000
    RelationSetNewRelfilenumber(relation, relation->rd_rel->relpersistence);
#else
    RelationSetNewRelfilenode(relation, relation->rd_rel->relpersistence);
#endif
}

// 16 renamed RelFileNode to RelFileLocator.
inline xl_seq_rec sequence_record(Relation sequence) {
#if PG_VERSION_NUM >= 160000
    return xl_seq_rec{sequence->rd_locator};
#else
    return xl_seq_rec{sequence->rd_node};
#endif
}

// 17 gave reindex_relation the statement that asked for it.
inline void rebuild_indexes(Oid relation) {
    ReindexParams params = {};
#if PG_VERSION_NUM >= 170000
    reindex_relation(nullptr, relation, REINDEX_REL_PROCESS_TOAST, &params);
#else
    reindex_relation(relation, REINDEX_REL_PROCESS_TOAST, &params);
#endif
}

// 16 added onlySummarizing to ExecInsertIndexTuples.
inline void insert_index_entries(ResultRelInfo* target, TupleTableSlot* slot, EState* estate) {
#if PG_VERSION_NUM >= 160000
    list_free(ExecInsertIndexTuples(target, slot, estate, false, false, nullptr, NIL, false));
#else
    list_free(ExecInsertIndexTuples(target, slot, estate, false, false, nullptr, NIL));
#endif
}

// 16 let the actions of JSON's parser return errors; 17 gave the lexer's maker one to fill in.
#if PG_VERSION_NUM >= 160000
inline JsonParseErrorType json_action_done() {
    return JSON_SUCCESS;
}
#else
inline void json_action_done() {}
#endif
inline JsonLexContext* json_lexer(char* text, int length) {
#if PG_VERSION_NUM >= 170000
    return makeJsonLexContextCstringLen(nullptr, text, static_cast<size_t>(length), PG_UTF8, true);
#else
    return makeJsonLexContextCstringLen(text, length, PG_UTF8, true);
#endif
}

// 16 gave the callbacks of tree walkers their arguments; before, any function would do.
inline Node* mutate_expression(Node* node, Node* (*mutator)(Node*, void*), void* context) {
#if PG_VERSION_NUM >= 160000
    return expression_tree_mutator(node, mutator, context);
#else
    return expression_tree_mutator(
        node, reinterpret_cast<Node* (*)()>(reinterpret_cast<void*>(mutator)), context);
#endif
}
inline bool walk_expression(Node* node, bool (*walker)(Node*, void*), void* context) {
#if PG_VERSION_NUM >= 160000
    return expression_tree_walker(node, walker, context);
#else
    return expression_tree_walker(
        node, reinterpret_cast<bool (*)()>(reinterpret_cast<void*>(walker)), context);
#endif
}

inline bool walk_raw_expression(Node* node, bool (*walker)(Node*, void*), void* context) {
#if PG_VERSION_NUM >= 160000
    return raw_expression_tree_walker(node, walker, context);
#else
    return raw_expression_tree_walker(
        node, reinterpret_cast<bool (*)()>(reinterpret_cast<void*>(walker)), context);
#endif
}

// 17 split VirtualTransactionId's backendId into procNumber.
inline int vxid_backend(const VirtualTransactionId& vxid) {
#if PG_VERSION_NUM >= 170000
    return vxid.procNumber;
#else
    return vxid.backendId;
#endif
}

// 18 added instrumentation to index_beginscan.
inline IndexScanDesc begin_index_scan(Relation heap, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
    return index_beginscan(heap, index, snapshot, nullptr, keys, 0);
#else
    return index_beginscan(heap, index, snapshot, keys, 0);
#endif
}

// 16 replaced the ownership checks by object kind with one function.
inline bool owns_database(Oid database, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(DatabaseRelationId, database, role);
#else
    return pg_database_ownercheck(database, role);
#endif
}

// 16 added BufFileReadExact.
inline void read_exactly(BufFile* file, void* target, size_t size) {
#if PG_VERSION_NUM >= 160000
    BufFileReadExact(file, target, size);
#else
    if (BufFileRead(file, target, size) != size) {
        ereport(ERROR,
                (errcode_for_file_access(), errmsg("could not read from temporary file: %m")));
    }
#endif
}

// 16 renamed SetSingleFuncCall to InitMaterializedSRF.
inline void init_materialized_result(FunctionCallInfo fcinfo) {
#if PG_VERSION_NUM >= 160000
    InitMaterializedSRF(fcinfo, 0);
#else
    SetSingleFuncCall(fcinfo, 0);
#endif
}

// A database whose DROP was interrupted can't be connected to. Minor releases of 2023 brought the
// mark.
inline bool is_half_dropped(Form_pg_database database) {
    return database_is_invalid_form(database);
}

// 17 moved lxid into a struct of PGPROC.
inline LocalTransactionId my_local_transaction() {
#if PG_VERSION_NUM >= 170000
    return MyProc->vxid.lxid;
#else
    return MyProc->lxid;
#endif
}

// 17 ties wait event sets to a resource owner; a process-long one has none.
inline WaitEventSet* create_wait_event_set(MemoryContext context, int events) {
#if PG_VERSION_NUM >= 170000
    (void)context;
    return CreateWaitEventSet(nullptr, events);
#else
    return CreateWaitEventSet(context, events);
#endif
}

inline bool owns_relation(Oid relation, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(RelationRelationId, relation, role);
#else
    return pg_class_ownercheck(relation, role);
#endif
}

// 16 replaced the privilege checks by object kind with one function.
inline bool may_execute(Oid function, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK;
#else
    return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

// 17 gave wait events of extensions names of their own; before, they share one.
inline uint32 wait_event(const char* name) {
#if PG_VERSION_NUM >= 170000
    return WaitEventExtensionNew(name);
#else
    (void)name;
    return PG_WAIT_EXTENSION;
#endif
}

// 14 has the extra read-only flag in ProcessUtility, and so has every later server: one shape since
// then.
#define OUTBOX_PROCESS_UTILITY_PARAMETERS                                                          \
    PlannedStmt *statement, const char *query, bool read_only_tree, ProcessUtilityContext context, \
        ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *destination,        \
        QueryCompletion *completion
#define OUTBOX_PROCESS_UTILITY_ARGUMENTS \
    statement, query, read_only_tree, context, parameters, environment, destination, completion

}  // namespace outbox::compat
