// Debezium's outbox event router: what record it makes of a row. Session's backend, and the apply
// workers of logical replication.
#pragma once

#include "attach/attachment.hpp"
#include "debezium/configuration.hpp"
#include "session/transaction_buffer.hpp"

namespace outbox::debezium {

// From a configuration as read_configuration() kept it. Memory is the current context's. Raises
// what reading it raises, and what compile_route() raises.
Router* make_router(const char* json);

// The columns that its declaration has.
const PartSpec* router_parts(const Router* router, int* count);

// Looks at the columns: their types, whether they can be NULL, their defaults. Raises 0A000 for a
// type that no record can have, 42804 for one that cannot stand where it does.
void bind_router(Router* router, Relation relation, const Part* parts);

// Fills in `message` (with its id, if the row has one that is a UUID) and `*headers_bytes` from an
// inserted row; they live as long as the slot and the current memory context. Raises 22004 and
// 22023 for what Debezium's task would stop at.
bool make_record(const Router* router, const Part* parts, TupleTableSlot* row,
                 MessageParts* message, size_t* headers_bytes);

// A row was updated: says so, or raises 55000, as table.op.invalid.behavior has it.
void note_update(const Router* router, Relation relation);

}  // namespace outbox::debezium
