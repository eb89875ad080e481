// Writes an attachment down: its declaration, its trigger, and what can be checked beforehand.
// Session's backend.
//
// attach() runs as its caller, who has to own the table, and writes the declaration as a superuser:
// a trigger that calls outbox.attached() says whose rights an expression has, so nobody else may
// make one. The server's own commands do the work, so that its checks, locks and dependencies hold.
#include "attach/declare.hpp"

#include "attach/as_declared.hpp"
#include "attach/declaration.hpp"
#include "attach/evaluation.hpp"
#include "attach/parts.hpp"
#include "session/emit_rights.hpp"
#include "session/message_rules.hpp"
#include "session/value_bytes.hpp"
#include "storage/schema.hpp"
#include "storage/spi.hpp"

extern "C" {
#include "parser/analyze.h"
#include "parser/parser.h"
#include "utils/ruleutils.h"
}

namespace outbox {

namespace {

// The server's commands, as a superuser, and with a search_path of its own: whatever an event
// trigger looks up is not what the caller has planted.
class AsSuperuser {
  public:
    AsSuperuser() {
        GetUserIdAndSecContext(&user_, &context_);
        SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context_ | SECURITY_LOCAL_USERID_CHANGE |
                                                          SECURITY_RESTRICTED_OPERATION);
        settings_level_ = pin_search_path();
        spi_begin();
    }
    // At the end by hand, not by a destructor: an error resets all this with the transaction.
    void end() {
        spi_end();
        AtEOXact_GUC(true, settings_level_);
        SetUserIdAndSecContext(user_, context_);
    }
    void run(const char* command) { spi_execute(command, SPI_OK_UTILITY); }

  private:
    Oid user_;
    int context_;
    int settings_level_;
};

const char* qualified_name(Relation table) {
    return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(table)),
                                      RelationGetRelationName(table));
}

void check_name_is_free(const AttachRequest& request) {
    if (!OidIsValid(get_trigger_oid(RelationGetRelid(request.table), request.name, true))) return;
    ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
                    errmsg("table \"%s\" already has a trigger \"%s\"",
                           RelationGetRelationName(request.table), request.name),
                    errhint("Call outbox.detach() first, or give this attachment another name.")));
}

// -- the declaration
// ---------------------------------------------------------------------------------

// One that is free: the schema's and table's names are there for people only.
const char* free_declaration_name(const AttachRequest& request) {
    const char* base = psprintf("%s.%s.%s", get_namespace_name(RelationGetNamespace(request.table)),
                                RelationGetRelationName(request.table), request.name);
    for (int number = 1;; ++number) {
        const char* suffix = number == 1 ? "" : psprintf(" %d", number);
        int room = NAMEDATALEN - 1 - static_cast<int>(strlen(suffix));
        int length = pg_mbcliplen(base, static_cast<int>(strlen(base)), room);
        const char* name = psprintf("%.*s%s", length, base, suffix);
        if (!OidIsValid(find_declaration(name))) return name;
    }
}

// A part's columns are NEW's, OLD's and TG_OP; that it is one expression has been seen to.
const char* select_of(const AttachRequest& request, const char* columns) {
    const char* table = qualified_name(request.table);
    return psprintf(
        "SELECT %s FROM ONLY %s AS new, ONLY %s AS old, (VALUES (''::text)) AS event "
        "(tg_op) WHERE false",
        columns, table, table);
}

// Says which part the server's complaint is about, and where in it.
struct PartContext {
    const char* name;
    const char* text;
    const char* parsed;  // what is being parsed
};
void say_part(void* argument) {
    const PartContext* part = static_cast<const PartContext*>(argument);
    // A place in the part is none in the caller's statement.
    if (int place = geterrposition(); place > 0) {
        errposition(0);
        internalerrposition(place);
        internalerrquery(part->parsed);
    }
    if (part->name) errcontext("part \"%s\" of the attachment: %s", part->name, part->text);
}

// What names mean is what they mean to the caller; nothing is run.
Query* analyzed(const char* select) {
    List* parsed = raw_parser(select, RAW_PARSE_DEFAULT);
    return parse_analyze_fixedparams(linitial_node(RawStmt, parsed), select, nullptr, 0, nullptr);
}

// The same with every name qualified, so that it means the same to everybody.
const char* qualified(Query* query) {
    int level = pin_search_path();
    const char* text = pg_get_querydef(query, false);
    AtEOXact_GUC(true, level);
    return text;
}

// Each part alone first, so that a complaint is about one; then all of them.
const char* declaration_of(const AttachRequest& request) {
    StringInfoData all;
    initStringInfo(&all);
    PartContext context = {};
    ErrorContextCallback callback = {error_context_stack, say_part, &context};
    error_context_stack = &callback;
    ListCell* cell;
    foreach (cell, request.parts) {
        const PartText& part = *static_cast<const PartText*>(lfirst(cell));
        context = PartContext{part.name, part.given, part.expression};
        check_is_expression(part.expression, request.table);
        // On a line of its own, which a comment in it cannot leave.
        const char* column = psprintf("(%s\n) AS %s", part.expression, quote_identifier(part.name));
        context.parsed = select_of(request, column);
        check_evaluates_alone(analyzed(context.parsed));
        appendStringInfo(&all, "%s%s", all.len > 0 ? ", " : "", column);
    }
    context = PartContext{nullptr, nullptr, select_of(request, all.data)};
    const char* declaration = qualified(analyzed(context.parsed));
    error_context_stack = callback.previous;
    return declaration;
}

void give_to_owner(AsSuperuser* superuser, const AttachRequest& request, const char* name) {
    const char* view = quote_qualified_identifier("outbox", name);
    const char* owner = quote_identifier(GetUserNameFromId(request.table->rd_rel->relowner, false));
    superuser->run(psprintf("REVOKE ALL ON %s FROM PUBLIC", view));
    superuser->run(psprintf("ALTER VIEW %s OWNER TO %s", view, owner));
    superuser->run(
        psprintf("COMMENT ON VIEW %s IS %s", view,
                 quote_literal_cstr(psprintf("What attachment \"%s\" makes of a row: read by "
                                             "outbox.attached(). It has no rows.",
                                             request.name))));
}

void make_trigger(AsSuperuser* superuser, const AttachRequest& request, const char* name) {
    StringInfoData command;
    initStringInfo(&command);
    appendStringInfo(&command, "CREATE TRIGGER %s AFTER ", quote_identifier(request.name));
    const char* separator = "";
    for (RowEvent event : kRowEvents) {
        if (!request.events.has(event)) continue;
        appendStringInfo(&command, "%s%s", separator, name_of(event));
        separator = " OR ";
    }
    appendStringInfo(&command, " ON %s FOR EACH ROW EXECUTE FUNCTION outbox.attached(%s, %s",
                     qualified_name(request.table), quote_literal_cstr(name),
                     quote_literal_cstr(declared_by(request.table->rd_rel->relowner)));
    if (request.router) appendStringInfo(&command, ", %s", quote_literal_cstr(request.router));
    if (request.removes_rows) appendStringInfo(&command, ", '%s'", kRemovesRows);
    appendStringInfoChar(&command, ')');
    superuser->run(command.data);
}

// -- what can be known now
// ---------------------------------------------------------------------------

const Trigger* trigger_of(Relation table, const char* name) {
    const TriggerDesc* triggers = table->trigdesc;
    for (int i = 0; triggers && i < triggers->numtriggers; ++i) {
        if (strcmp(triggers->triggers[i].tgname, name) == 0) return &triggers->triggers[i];
    }
    elog(ERROR, "trigger \"%s\" is not there", name);
}

void check_owner_may_emit(const Attachment* attachment) {
    const Part& topic = attachment->part(PartName::Topic);
    if (topic.source == Part::Source::Constant) {
        if (topic.constant_is_null) check_topic_is_there(nullptr);
        size_t length;
        const char* name = varlena_bytes(topic.constant, &length);
        check_topic(name, length);
        check_may_emit(attachment->owner, attachment->emit, name, length);
    }
    if (compat::may_execute(attachment->emit, attachment->owner)) return;
    const char* owner = GetUserNameFromId(attachment->owner, false);
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("role \"%s\" may not emit", owner),
             errdetail("Messages of an attached table are emitted as the table's owner."),
             errhint("Grant it: SELECT outbox.grant_emit(%s);", quote_literal_cstr(owner))));
}

void check_attachment(const AttachRequest& request) {
    for (RowEvent event : kRowEvents) {
        if (!request.events.has(event)) continue;
        Attachment* attachment =
            find_attachment(request.table, trigger_of(request.table, request.name), event);
        check_owner_may_emit(attachment);
        check_can_run(attachment);
    }
}

// -- detaching
// ---------------------------------------------------------------------------------------

struct Attached {
    const char* name;
    const char* declaration;
};

List* attached_to(Relation table, const char* name) {
    Oid function = find_attached();
    List* found = NIL;
    const TriggerDesc* triggers = table->trigdesc;
    for (int i = 0; triggers && i < triggers->numtriggers; ++i) {
        const Trigger& trigger = triggers->triggers[i];
        if (trigger.tgfoid != function || (name && strcmp(trigger.tgname, name) != 0)) continue;
        Attached* attached = static_cast<Attached*>(palloc(sizeof(Attached)));
        attached->name = pstrdup(trigger.tgname);
        attached->declaration = trigger.tgnargs > 0 ? pstrdup(trigger.tgargs[0]) : nullptr;
        found = lappend(found, attached);
    }
    if (found != NIL) return found;
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                    name ? errmsg("table \"%s\" has no attachment \"%s\"",
                                  RelationGetRelationName(table), name)
                         : errmsg("table \"%s\" has no attachment", RelationGetRelationName(table)),
                    errhint("The view outbox.attachments lists them.")));
}

}  // namespace

void check_may_attach(Relation table) {
    const char* name = RelationGetRelationName(table);
    char kind = table->rd_rel->relkind;
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
        kind != RELKIND_FOREIGN_TABLE) {
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a table", name),
                        errhint("Attach the table that the rows are written to.")));
    }
    if (table->rd_rel->relpersistence == RELPERSISTENCE_TEMP) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("temporary table \"%s\" cannot be attached", name),
                        errhint("Call outbox.emit() for its rows.")));
    }
    if (!compat::owns_relation(RelationGetRelid(table), GetUserId()))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
    if (getExtensionOfObject(RelationRelationId, RelationGetRelid(table)) ==
        get_extension_oid("outbox", false)) {
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                        errmsg("\"%s\" belongs to the extension outbox itself", name)));
    }
}

void add_part_text(AttachRequest* request, const char* name, const char* expression,
                   const char* given) {
    PartText* part = static_cast<PartText*>(palloc(sizeof(PartText)));
    *part = PartText{name, expression, given ? given : expression};
    request->parts = lappend(request->parts, part);
}

void declare_attachment(const AttachRequest& request) {
    check_name_is_free(request);
    const char* declaration = declaration_of(request);
    const char* name = free_declaration_name(request);
    AsSuperuser superuser;
    superuser.run(
        psprintf("CREATE VIEW %s AS %s", quote_qualified_identifier("outbox", name), declaration));
    give_to_owner(&superuser, request, name);
    make_trigger(&superuser, request, name);
    superuser.end();
    CommandCounterIncrement();
    check_attachment(request);
}

void remove_attachments(Relation table, const char* name) {
    List* attached = attached_to(table, name);
    AsSuperuser superuser;
    ListCell* cell;
    foreach (cell, attached) {
        const Attached* one = static_cast<const Attached*>(lfirst(cell));
        superuser.run(
            psprintf("DROP TRIGGER %s ON %s", quote_identifier(one->name), qualified_name(table)));
        if (one->declaration && OidIsValid(find_declaration(one->declaration)))
            superuser.run(
                psprintf("DROP VIEW %s", quote_qualified_identifier("outbox", one->declaration)));
    }
    superuser.end();
}

}  // namespace outbox
