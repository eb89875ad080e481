// Which transactions may own positions that nobody can see yet. Relay process.
//
// Every writer locks its segment before it takes an xid and positions, and keeps the lock to its
// end, as a prepared transaction does. So the owners of a position that was seen to be missing are
// among those that hold the lock then; once none of them is left, a later snapshot that does not
// show the row proves that it never will be there.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"

namespace outbox {

// A set of transactions, in memory of the context it was made in.
struct Holders {
    VirtualTransactionId* list;
    int count;

    bool contains(const VirtualTransactionId& transaction) const;
    // Keeps those that `current` has too.
    void intersect(const Holders& current);
    // Adds those of `more` that are not in yet.
    void join(const Holders& more);
};

// The transactions that hold a writer's lock on any segment now. Memory from the current context.
Holders current_holders(const Schema& schema);

}  // namespace outbox
