// Reads an attachment's declaration, a view, and plans its expressions. Session's backend.
#pragma once

#include "attach/attachment.hpp"

namespace outbox {

// The view in the schema outbox that has this name; InvalidOid if there is none.
Oid find_declaration(const char* name);

// Raises 0A000 for what cannot be evaluated for a row alone.
void check_evaluates_alone(const Query* query);

// Fills in owner and parts of `attachment` from the view, as seen by rows of `relation`, which is
// the attached table or a partition of it: a part for each of `specs`, absent where the view has no
// such column. Memory is the current context's. `by_superuser`: whether a superuser's table was
// attached. Raises 42804 for a part of the wrong type, 0A000 for what cannot be evaluated for a row
// alone, 55000 for a view that attach() did not write, 42501 where an expression would run as a
// superuser who has not declared it.
void read_declaration(Attachment* attachment, Oid view, Relation relation, bool by_superuser,
                      const PartSpec* specs, int count);

}  // namespace outbox
