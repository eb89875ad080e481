// The parts of a message as attach() is given them, and the SQL that they mean. Session's backend.
#include "attach/parts.hpp"

#include "session/message_rules.hpp"

extern "C" {
#include "nodes/parsenodes.h"
#include "parser/parser.h"
}

namespace outbox {

namespace {

// `format` has a %s for the row that an event has.
const char* of_row(Events events, const char* format) {
    const char* present = psprintf(format, "new");
    if (!events.has(RowEvent::Delete)) return present;
    const char* deleted = psprintf(format, "old");
    if (!events.has(RowEvent::Insert) && !events.has(RowEvent::Update)) return deleted;
    return psprintf("CASE tg_op WHEN 'DELETE' THEN %s ELSE %s END", deleted, present);
}

// A format for psprintf().
const char* escaped(const char* text) {
    StringInfoData out;
    initStringInfo(&out);
    for (; *text; ++text) {
        if (*text == '%') appendStringInfoChar(&out, '%');
        appendStringInfoChar(&out, *text);
    }
    return out.data;
}

const char* column_format(const char* column) {
    return psprintf("%%s.%s", escaped(quote_identifier(column)));
}

bool is_column(Relation table, const char* name) {
    TupleDesc descriptor = RelationGetDescr(table);
    for (int i = 0; i < descriptor->natts; ++i) {
        const FormData_pg_attribute* column = TupleDescAttr(descriptor, i);
        if (!column->attisdropped && strcmp(NameStr(column->attname), name) == 0) return true;
    }
    return false;
}

const char* primary_key(Relation table, Events events) {
    (void)RelationGetIndexList(table);
    if (!OidIsValid(table->rd_pkindex)) return nullptr;
    Relation index = index_open(table->rd_pkindex, AccessShareLock);
    StringInfoData object;
    initStringInfo(&object);
    appendStringInfoString(&object, "pg_catalog.jsonb_build_object(");
    const char* only = nullptr;
    int count = IndexRelationGetNumberOfKeyAttributes(index);
    for (int i = 0; i < count; ++i) {
        AttrNumber number = index->rd_index->indkey.values[i];
        const char* name = NameStr(TupleDescAttr(RelationGetDescr(table), number - 1)->attname);
        only = column_format(name);
        appendStringInfo(&object, "%s%s, %s", i ? ", " : "", escaped(quote_literal_cstr(name)),
                         only);
    }
    appendStringInfoChar(&object, ')');
    index_close(index, AccessShareLock);
    // A format with a single place cannot stand for several.
    if (count == 1) return of_row(events, only);
    StringInfoData row;
    initStringInfo(&row);
    for (const char* c = object.data; *c; ++c) {
        bool place = c[0] == '%' && c[1] == 's';
        if (c[0] == '%') {
            // Or a percent sign of a name, which is two here.
            appendStringInfoString(&row, place ? "%1$s" : "%%");
            ++c;
        } else {
            appendStringInfoChar(&row, *c);
        }
    }
    return of_row(events, row.data);
}

bool begins_with_row(const char* text) {
    return pg_strncasecmp(text, "new.", 4) == 0 || pg_strncasecmp(text, "old.", 4) == 0;
}

// NEW.* and the like, which stand for several columns.
bool is_star(Node* node) {
    if (!IsA(node, ColumnRef)) return false;
    return IsA(llast(reinterpret_cast<ColumnRef*>(node)->fields), A_Star);
}

// The server would say that there is no table called "new".
bool check_columns(Node* node, void* table) {
    if (!node) return false;
    if (!IsA(node, ColumnRef)) return compat::walk_raw_expression(node, check_columns, table);
    const ColumnRef* reference = reinterpret_cast<const ColumnRef*>(node);
    if (list_length(reference->fields) < 2 || !IsA(lsecond(reference->fields), String))
        return false;
    const char* row = strVal(linitial(reference->fields));
    const char* column = strVal(lsecond(reference->fields));
    bool is_row = strcmp(row, "new") == 0 || strcmp(row, "old") == 0;
    Relation of = static_cast<Relation>(table);
    if (!is_row || is_column(of, column)) return false;
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                    errmsg("column \"%s\" of table \"%s\" does not exist", column,
                           RelationGetRelationName(of))));
}

}  // namespace

const char* part_expression(Relation table, PartName part, const char* given, Events events) {
    if (!given) {
        if (part == PartName::Key) return primary_key(table, events);
        if (part == PartName::Payload) return of_row(events, "pg_catalog.to_jsonb(%s)");
        return nullptr;
    }
    if (is_column(table, given)) return of_row(events, column_format(given));
    if (part == PartName::Topic && !begins_with_row(given) && is_topic(given, strlen(given)))
        return quote_literal_cstr(given);
    return given;
}

void check_is_expression(const char* text, Relation table) {
    List* parsed = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
    SelectStmt* select = reinterpret_cast<SelectStmt*>(linitial_node(RawStmt, parsed)->stmt);
    bool single = IsA(select, SelectStmt) && list_length(select->targetList) == 1 &&
                  !select->fromClause && !select->whereClause && !select->groupClause &&
                  !select->havingClause && !select->windowClause && !select->valuesLists &&
                  !select->sortClause && !select->limitOffset && !select->limitCount &&
                  !select->lockingClause && !select->withClause && !select->distinctClause &&
                  select->op == SETOP_NONE;
    const ResTarget* target =
        single ? static_cast<const ResTarget*>(linitial(select->targetList)) : nullptr;
    if (!target || !IsA(target, ResTarget) || target->name || is_star(target->val)) {
        ereport(ERROR,
                (errcode(ERRCODE_SYNTAX_ERROR), errmsg("not a single SQL expression"),
                 errhint("Give a column's name, or an expression over NEW, OLD and TG_OP.")));
    }
    (void)check_columns(target->val, table);
}

}  // namespace outbox
