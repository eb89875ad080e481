// Writes an attachment down: its declaration, its trigger, and what can be checked beforehand.
// Session's backend.
#pragma once

#include "attach/attachment.hpp"
#include "attach/parts.hpp"

namespace outbox {

// A part of a message as SQL, and as the user has it.
struct PartText {
    const char* name;
    const char* expression;
    const char* given;
};

struct AttachRequest {
    Relation table;  // locked
    const char* name;
    Events events;
    List* parts;         // PartText*
    const char* router;  // the outbox router's configuration as JSON; nullptr: not that kind
    bool removes_rows;   // as soon as they have become a message; with a router
};

// Raises 42809 for what is no table, 42501 for who does not own it.
void check_may_attach(Relation table);

void add_part_text(AttachRequest* request, const char* name, const char* expression,
                   const char* given);

// Makes the attachment. Raises 42710 where its name is taken, and whatever is wrong with its parts.
void declare_attachment(const AttachRequest& request);

// Removes the attachment of that name, or all (nullptr). Raises 42704 where there is none.
void remove_attachments(Relation table, const char* name);

}  // namespace outbox
