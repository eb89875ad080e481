// What a table's attachment makes of a row: its declaration, planned once and kept. Session's
// backend, and the apply workers of logical replication.
//
// An attachment is a row trigger that calls outbox.attached(), and a view in the schema outbox of
// the name that is the trigger's first argument. Nobody ever selects from the view (it is empty):
// what it selects is the declaration, a column for each part of the message, over the rows NEW and
// OLD of the table and TG_OP. The server keeps it as it keeps any view: it follows renames, depends
// on the columns that it uses, and is dumped and restored. Its owner is whose rights the
// expressions run with. (A function would do the same, but one with a body in SQL and a parameter
// of the table's row type keeps the table from getting a column with a default.)
//
//   absent -> planned (first row) -> stale (something it rests on has changed) -> planned again
//
// What is stale may be in use further up the stack; its memory goes when the transaction ends.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

namespace debezium {
struct Router;
}

enum class RowEvent : uint8_t { Insert, Update, Delete };
constexpr RowEvent kRowEvents[] = {RowEvent::Insert, RowEvent::Update, RowEvent::Delete};

// As PL/pgSQL's TG_OP has it.
const char* name_of(RowEvent event);

// The parts of a message that attach() declares; the columns of its view have these names.
enum class PartName : uint8_t { Topic, Key, Payload, Headers, Partition, When };
constexpr int kParts = 6;
const char* name_of(PartName part);

// A column that a declaration can have.
struct PartSpec {
    const char* name;
    Oid type;  // what it has to be; InvalidOid: anything
};

// Where one part comes from.
struct Part {
    enum class Source : uint8_t { Absent, Constant, New, Old, Expression };
    Source source;
    bool constant_is_null;
    AttrNumber column;  // of the trigger's own table: New, Old
    Oid type;           // of the value, domains resolved
    Datum constant;
    Expr* expression;  // planned
    FmgrInfo* output;  // nullptr: value_bytes() needs none
};

struct Attachment {
    Oid trigger;
    RowEvent event;
    uint64 generation;  // as of which it was planned
    Oid relation;       // the trigger's table; of a partition's trigger, the partition
    Oid view;           // the declaration
    Oid owner;          // whose rights it has
    Oid emit;           // the overload of emit() whose access list counts
    bool has_expressions;
    bool calls_functions_of_users;
    int part_count;
    Part* parts;
    bool removes_rows;         // inserted ones, as soon as they have become a message
    debezium::Router* router;  // what makes a record of the parts; nullptr: they are a message's
    MemoryContext context;

    struct ReadyExpressions* ready;  // nobody is using them; nullptr: there are none
    LocalTransactionId ready_in;     // the transaction that they belong to

    const Part& part(PartName name) const { return parts[static_cast<int>(name)]; }
};

// What a trigger of a table of this owner's has as its second argument. The third one is the
// router's configuration, if it has one; the fourth one can be kRemovesRows.
const char* declared_by(Oid owner);
constexpr char kRemovesRows[] = "remove";

// The attachment of a trigger for one kind of event, planned if need be. Raises 55000 where the
// declaration is gone or was changed by hand, 42501 where it would run as a superuser who has not
// declared it.
Attachment* find_attachment(Relation relation, const Trigger* trigger, RowEvent event);

}  // namespace outbox
