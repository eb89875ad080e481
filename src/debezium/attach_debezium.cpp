// outbox.attach_debezium(): a table that Debezium's outbox event router has read so far. Session's
// backend.
#include "attach/declare.hpp"
#include "debezium/configuration.hpp"
#include "session/message_rules.hpp"

extern "C" {
#include "commands/trigger.h"
}

namespace outbox::debezium {

namespace {

bool has_column(Relation table, const char* name) {
    AttrNumber number = get_attnum(RelationGetRelid(table), name);
    return number > 0;
}

class Declaration {
  public:
    Declaration(AttachRequest* request, const Configuration& configuration)
        : request_(request), configuration_(configuration) {}

    void write() {
        required("id", "table.field.event.id", configuration_.id);
        required("route", "route.by.field", configuration_.route);
        required("key", "table.field.event.key", configuration_.key);
        required("payload", "table.field.event.payload", configuration_.payload);
        if (configuration_.timestamp)
            required("timestamp", "table.field.event.timestamp", configuration_.timestamp);
        if (configuration_.version)
            required("version", "table.field.event.schema.version", configuration_.version);
        // Without such a column rows have no tracing context.
        if (has_column(request_->table, configuration_.tracing))
            add("tracing", configuration_.tracing);
        for (int i = 0; i < configuration_.placement_count; ++i) {
            const char* column = configuration_.placements[i].column;
            if (configuration_.ignores_missing && !has_column(request_->table, column)) continue;
            required(psprintf("field %d", i + 1), "table.fields.additional.placement", column);
        }
    }

  private:
    void add(const char* part, const char* column) {
        add_part_text(request_, part, psprintf("new.%s", quote_identifier(column)), column);
    }

    void required(const char* part, const char* option, const char* column) {
        if (has_column(request_->table, column)) {
            add(part, column);
            return;
        }
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("column \"%s\" of table \"%s\" does not exist", column,
                               RelationGetRelationName(request_->table)),
                        errdetail("It is the value of option \"%s\".", option),
                        errhint("Give the option the name of a column, as it is spelled.")));
    }

    AttachRequest* request_;
    const Configuration& configuration_;
};

void say_needless(const List* names) {
    if (names == NIL) return;
    StringInfoData list;
    initStringInfo(&list);
    ListCell* cell;
    foreach (cell, names)
        appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
                         static_cast<const char*>(lfirst(cell)));
    ereport(NOTICE, (errmsg("no longer needed: %s", list.data),
                     errdetail("There is no slot, no snapshot and no connection to set up.")));
}

// A worker's own converters stand in none of its connectors.
void say_assumed(const Configuration& configuration) {
    if (configuration.names_key_converter && configuration.names_value_converter) return;
    ereport(NOTICE, (errmsg("JsonConverter with schemas is assumed for %s",
                            configuration.names_value_converter ? "keys"
                            : configuration.names_key_converter ? "values"
                                                                : "keys and values"),
                     errhint("Add key.converter and value.converter if the worker sets others.")));
}

// A row that others refer to cannot go unseen.
void check_may_remove_rows(Relation table) {
    if (table->rd_rel->relkind == RELKIND_FOREIGN_TABLE) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("rows of a foreign table cannot be removed after they were "
                               "inserted")));
    }
    const TriggerDesc* triggers = table->trigdesc;
    for (int i = 0; triggers && i < triggers->numtriggers; ++i) {
        if (RI_FKey_trigger_type(triggers->triggers[i].tgfoid) != RI_TRIGGER_PK) continue;
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("rows of table \"%s\" cannot be removed after they were inserted",
                               RelationGetRelationName(table)),
                        errdetail("A foreign key refers to it.")));
    }
}

}  // namespace

}  // namespace outbox::debezium

using namespace outbox;

// outbox.attach_debezium(table regclass, config jsonb, remove_after_insert boolean, name name)
OUTBOX_SQL_FUNCTION(outbox_attach_debezium) {
    check_session_can_emit();
    for (int i = 0; i < 4; ++i) {
        if (!PG_ARGISNULL(i)) continue;
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("no argument of outbox.attach_debezium() can be NULL")));
    }
    debezium::Reading reading = debezium::read_configuration(PG_GETARG_JSONB_P(1));
    AttachRequest request = {};
    request.table = table_open(PG_GETARG_OID(0), ShareRowExclusiveLock);
    check_may_attach(request.table);
    request.name = NameStr(*PG_GETARG_NAME(3));
    request.events.add(RowEvent::Insert);
    request.events.add(RowEvent::Update);
    request.router = JsonbToCString(nullptr, &reading.kept->root, VARSIZE(reading.kept));
    request.removes_rows = PG_GETARG_BOOL(2);
    if (request.removes_rows) debezium::check_may_remove_rows(request.table);
    debezium::Declaration(&request, reading.configuration).write();
    declare_attachment(request);
    debezium::say_needless(reading.needless);
    debezium::say_assumed(reading.configuration);
    table_close(request.table, NoLock);
    PG_RETURN_VOID();
}
