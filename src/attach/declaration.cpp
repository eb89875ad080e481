// Reads an attachment's declaration, a view, and plans its expressions. Session's backend.
#include "attach/declaration.hpp"

#include "attach/as_declared.hpp"

#include "session/value_bytes.hpp"
#include "storage/schema.hpp"

extern "C" {
#include "catalog/partition.h"
#include "catalog/pg_collation.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "rewrite/prs2lock.h"
}

namespace outbox {

namespace {

// A row of the event is found in a slot, as the executor's expressions know them.
constexpr int kNewRow = OUTER_VAR;
constexpr int kOldRow = INNER_VAR;

[[noreturn]] void raise_damaged(Relation view) {
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("view %s does not declare an attachment",
                           quote_qualified_identifier("outbox", RelationGetRelationName(view))),
                    errdetail("It was not made by outbox.attach(), or has been replaced."),
                    errhint("Call outbox.detach(), then outbox.attach() again.")));
}

// What the view selects.
Query* query_of(Relation view) {
    const RuleLock* rules = view->rd_rules;
    for (int i = 0; rules && i < rules->numLocks; ++i) {
        if (rules->rules[i]->event != CMD_SELECT) continue;
        return static_cast<Query*>(copyObjectImpl(linitial_node(Query, rules->rules[i]->actions)));
    }
    raise_damaged(view);
}

// What stands behind a number in the view's FROM. Names are no help: a dump may have changed them,
// as before PostgreSQL 16 every view's rows are called old and new, too.
enum class Meaning : uint8_t { None, New, Old, Event };

struct From {
    Index rows[2];  // numbers of New and Old; 0: missing
    Oid table;
};

From from_of(const Query* query, Relation view) {
    From from = {};
    int found = 0;
    for (Index i = 1; i <= static_cast<Index>(list_length(query->rtable)); ++i) {
        const RangeTblEntry* entry = rt_fetch(i, query->rtable);
        if (entry->rtekind != RTE_RELATION || entry->relid == RelationGetRelid(view)) continue;
        if (found == 2 || (found == 1 && entry->relid != from.table)) raise_damaged(view);
        from.rows[found++] = i;
        from.table = entry->relid;
    }
    if (found != 2) raise_damaged(view);
    return from;
}

struct Substitution {
    const Query* query;
    From from;
    RowEvent event;
};

Meaning meaning_of(const Substitution& with, const Var* var) {
    Index number = static_cast<Index>(var->varno);
    if (number == with.from.rows[0]) return Meaning::New;
    if (number == with.from.rows[1]) return Meaning::Old;
    RTEKind kind = rt_fetch(number, with.query->rtable)->rtekind;
    return kind == RTE_VALUES || kind == RTE_SUBQUERY ? Meaning::Event : Meaning::None;
}

[[noreturn]] void raise_no_row() {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("an attachment can use nothing but NEW, OLD and TG_OP")));
}

Node* node(void* made) {
    return static_cast<Node*>(made);
}

// Columns of the view's FROM become what the executor finds without a query: columns of slots, NULL
// for the row that an event does not have, and the event's name.
Node* substitute(Node* expression, void* context) {
    if (!expression) return nullptr;
    if (!IsA(expression, Var)) return compat::mutate_expression(expression, substitute, context);
    const Substitution& with = *static_cast<const Substitution*>(context);
    const Var* var = reinterpret_cast<const Var*>(expression);
    bool absent = false;
    Meaning meaning = meaning_of(with, var);
    switch (meaning) {
        case Meaning::Event:
            if (var->varattno != 1 || var->vartype != TEXTOID) raise_no_row();
            return node(makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
                                  CStringGetTextDatum(name_of(with.event)), false, false));
        case Meaning::New:
            absent = with.event == RowEvent::Delete;
            break;
        case Meaning::Old:
            absent = with.event == RowEvent::Insert;
            break;
        case Meaning::None:
            raise_no_row();
    }
    if (absent) return node(makeNullConst(var->vartype, var->vartypmod, var->varcollid));
    return node(makeVar(meaning == Meaning::New ? kNewRow : kOldRow, var->varattno, var->vartype,
                        var->vartypmod, var->varcollid, 0));
}

bool is_function_of_users(Oid function, void*) {
    return function >= FirstNormalObjectId;
}

bool has_columns_of_users(Oid row_type) {
    TupleDesc columns = lookup_rowtype_tupdesc(row_type, -1);
    bool found = false;
    for (int i = 0; i < columns->natts && !found; ++i)
        found = TupleDescAttr(columns, i)->atttypid >= FirstNormalObjectId;
    ReleaseTupleDesc(columns);
    return found;
}

// Casts, comparisons and checks of such a type are functions of its owner's.
bool is_type_of_users(Oid type) {
    if (type < FirstNormalObjectId) return false;
    return get_typtype(type) != TYPTYPE_COMPOSITE || has_columns_of_users(type);
}

bool calls_functions_of_users(Node* node, void* context) {
    if (!node) return false;
    if (check_functions_in_node(node, is_function_of_users, context)) return true;
    if (!IsA(node, List) && is_type_of_users(exprType(node))) return true;
    return compat::walk_expression(node, calls_functions_of_users, context);
}

Node* coerced(Node* expression, const PartSpec& spec) {
    Oid found = exprType(expression);
    if (!OidIsValid(spec.type) || found == spec.type) return expression;
    Node* cast = coerce_to_target_type(nullptr, expression, found, spec.type, -1,
                                       COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
    if (cast) return cast;
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("part \"%s\" of an attachment must be of type %s, not %s", spec.name,
                           format_type_be(spec.type), format_type_be(found)),
                    errhint("Cast it, if that is what is meant.")));
}

// Casts that change nothing about the bytes hide a column.
const Node* without_relabels(const Node* expression) {
    while (IsA(expression, RelabelType))
        expression =
            reinterpret_cast<const Node*>(reinterpret_cast<const RelabelType*>(expression)->arg);
    return expression;
}

Part planned(Expr* expression) {
    Part part = {};
    expression = expression_planner(expression);
    part.type = getBaseType(exprType(reinterpret_cast<Node*>(expression)));
    const Node* bare = without_relabels(reinterpret_cast<const Node*>(expression));
    if (IsA(bare, Var) && reinterpret_cast<const Var*>(bare)->varattno > 0) {
        const Var* column = reinterpret_cast<const Var*>(bare);
        part.source = column->varno == kNewRow ? Part::Source::New : Part::Source::Old;
        part.column = column->varattno;
    } else if (IsA(bare, Const)) {
        const Const* constant = reinterpret_cast<const Const*>(bare);
        part.source = Part::Source::Constant;
        part.constant = constant->constvalue;
        part.constant_is_null = constant->constisnull;
    } else {
        part.source = Part::Source::Expression;
        part.expression = expression;
    }
    part.output = output_of(part.type);
    return part;
}

// The columns of a partition may stand in another order than its parent's.
Node* seen_by(Node* expression, Relation relation, Oid root) {
    if (RelationGetRelid(relation) == root) return expression;
    Relation parent = table_open(root, AccessShareLock);
    List* list = list_make1(expression);
    list = map_partition_varattnos(list, kNewRow, relation, parent);
    list = map_partition_varattnos(list, kOldRow, relation, parent);
    table_close(parent, NoLock);
    return static_cast<Node*>(linitial(list));
}

// The declaration is one of this table, or of what it is a partition of. Names do not prove that:
// tables and views can be renamed.
void check_is_of(Relation relation, Oid table, Relation view) {
    Oid found = RelationGetRelid(relation);
    if (found == table) return;
    if (!relation->rd_rel->relispartition ||
        !list_member_oid(get_partition_ancestors(found), table))
        raise_damaged(view);
}

// Whoever owns the declaration can change it, and it acts with the rights of the table's owner.
void check_owner_is(Oid owner, Oid table, Relation view) {
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
    if (!HeapTupleIsValid(tuple)) raise_damaged(view);
    Oid found = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    if (found == owner) return;
    ereport(
        ERROR,
        (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
         errmsg("table \"%s\" has another owner than its attachment", get_rel_name(table)),
         errdetail("The table belongs to \"%s\", %s to \"%s\".", GetUserNameFromId(found, false),
                   quote_qualified_identifier("outbox", RelationGetRelationName(view)),
                   GetUserNameFromId(owner, false)),
         errhint("Call outbox.detach(), then outbox.attach() again.")));
}

// Whoever may make another role's declaration act with a superuser's rights has to be one: where it
// came to belong to a superuser later, that was not meant.
void check_may_run(const Attachment* attachment, Relation view, bool by_superuser) {
    if (by_superuser || !superuser_arg(attachment->owner)) return;
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
             errmsg("the expressions of %s would run as a superuser",
                    quote_qualified_identifier("outbox", RelationGetRelationName(view))),
             errdetail("They were declared for a role that is none, and now belong to \"%s\".",
                       GetUserNameFromId(attachment->owner, false)),
             errhint("Call outbox.detach(), then outbox.attach() again.")));
}

void fill_part(Attachment* attachment, int number, Node* expression) {
    Part& part = attachment->parts[number];
    part = planned(reinterpret_cast<Expr*>(expression));
    if (part.source != Part::Source::Expression) return;
    attachment->has_expressions = true;
    if (calls_functions_of_users(reinterpret_cast<Node*>(part.expression), nullptr))
        attachment->calls_functions_of_users = true;
}

}  // namespace

Oid find_declaration(const char* name) {
    Oid relation = get_relname_relid(name, get_namespace_oid("outbox", false));
    return OidIsValid(relation) && get_rel_relkind(relation) == RELKIND_VIEW ? relation
                                                                             : InvalidOid;
}

void check_evaluates_alone(const Query* query) {
    const char* what = query->hasSubLinks      ? "a subquery"
                       : query->hasAggs        ? "an aggregate function"
                       : query->hasWindowFuncs ? "a window function"
                       : query->hasTargetSRFs  ? "a set-returning function"
                                               : nullptr;
    if (!what) return;
    ereport(ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("cannot use %s in an attachment", what),
             errdetail("A part of a message is computed from the row alone."),
             errhint("Put it into a function that takes the row's columns, and call that.")));
}

void read_declaration(Attachment* attachment, Oid view_id, Relation relation, bool by_superuser,
                      const PartSpec* specs, int count) {
    Relation view = table_open(view_id, AccessShareLock);
    Query* query = query_of(view);
    check_evaluates_alone(query);
    Substitution with = {query, from_of(query, view), attachment->event};
    attachment->owner = view->rd_rel->relowner;
    check_is_of(relation, with.from.table, view);
    check_owner_is(attachment->owner, with.from.table, view);
    check_may_run(attachment, view, by_superuser);
    attachment->part_count = count;
    attachment->parts = static_cast<Part*>(palloc0(sizeof(Part) * static_cast<size_t>(count)));
    // Planning runs functions, too.
    AsDeclared as_declared(attachment->owner);
    ListCell* cell;
    foreach (cell, query->targetList) {
        const TargetEntry* entry = lfirst_node(TargetEntry, cell);
        for (int i = 0; i < count; ++i) {
            if (!entry->resname || strcmp(entry->resname, specs[i].name) != 0) continue;
            Node* expression = coerced(reinterpret_cast<Node*>(entry->expr), specs[i]);
            expression = substitute(expression, &with);
            fill_part(attachment, i, seen_by(expression, relation, with.from.table));
        }
    }
    as_declared.end();
    table_close(view, AccessShareLock);
}

}  // namespace outbox
