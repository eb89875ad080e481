// Names and shapes of the extension's own relations, and how to find them. Any process with a
// database.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

constexpr int kSegments = 4;
constexpr int kProgressTables = 2;

// Columns of a segment, as the install script declares them.
namespace segment_column {
enum : AttrNumber {
    kPosition = 1,
    kTime,
    kId,
    kPartition,
    kTopic,
    kKey,
    kPayload,
    kHeaders,
    kCount = kHeaders
};
}

// The object ids of the extension's relations. Asked for in each transaction that needs them, and
// remembered as long as the catalogue caches are: dropping and creating the extension needs no
// notice.
struct Schema {
    Oid extension;
    Oid segments[kSegments];
    Oid segment_indexes[kSegments];
    Oid progress[kProgressTables];
    Oid progress_indexes[kProgressTables];
    Oid sequence;
    Oid identity;
    Oid deferred;
    Oid deferred_topic;  // index of those that wait
};

// Fills `schema`; false if the extension is not installed in this database. Raises if it is
// installed but some relation is missing.
bool find_schema(Schema* schema);

// As find_schema, for the relay: also keeps the extension from being dropped until the transaction
// ends, but does not wait if somebody is dropping it. Every transaction of the relay begins with
// this: DROP EXTENSION locks the sequence first (session/lifecycle_hooks.cpp), so the two never
// wait for each other in a circle.
enum class Entry : uint8_t { Entered, Absent, Locked };
Entry enter_schema(Schema* schema);

// Whose rights are enough for statements on these relations: their owner's. Where they have several
// owners it is one who is no superuser, if there is such a one: what an owner may attach to a table
// (an index's expression, a trigger that fires always) must not run with more rights than that
// owner has. The statement that then lacks a right says so.
Oid acting_role(const Schema& schema);
Oid owner_of(Oid relation);

// The sequence of positions; InvalidOid if absent.
Oid find_sequence();

// The table of the topics that roles were granted, its index (InvalidOid if that is gone), and the
// domain of their patterns. Raise if table or domain is missing.
Oid find_emit_grant(Oid* index);
Oid find_topic_pattern();

// The overload of emit() that stands for all of them where no call names one: text, bytea, bytea.
Oid find_emit();

// The trigger function of attached tables; InvalidOid if the extension is not installed.
Oid find_attached();

}  // namespace outbox
