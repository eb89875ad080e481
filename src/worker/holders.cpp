// Which transactions may own positions that nobody can see yet. Relay process.
#include "worker/holders.hpp"

namespace outbox {

namespace {

// ShareLock conflicts with the RowExclusiveLock of writers. Others that hold a conflicting lock (a
// vacuum, a LOCK TABLE) come along; that only makes the relay wait for them too.
constexpr LOCKMODE kConflictsWithWriters = ShareLock;

bool same(const VirtualTransactionId& a, const VirtualTransactionId& b) {
    return compat::vxid_backend(a) == compat::vxid_backend(b) &&
           a.localTransactionId == b.localTransactionId;
}

}  // namespace

bool Holders::contains(const VirtualTransactionId& transaction) const {
    for (int i = 0; i < count; ++i) {
        if (same(list[i], transaction)) return true;
    }
    return false;
}

void Holders::intersect(const Holders& current) {
    int kept = 0;
    for (int i = 0; i < count; ++i) {
        if (current.contains(list[i])) list[kept++] = list[i];
    }
    count = kept;
}

void Holders::join(const Holders& more) {
    if (more.count == 0) return;
    size_t room = sizeof(VirtualTransactionId) * static_cast<size_t>(count + more.count);
    list = static_cast<VirtualTransactionId*>(list ? repalloc(list, room) : palloc(room));
    for (int i = 0; i < more.count; ++i) {
        if (!contains(more.list[i])) list[count++] = more.list[i];
    }
}

Holders current_holders(const Schema& schema) {
    Holders holders = {};
    for (Oid segment : schema.segments) {
        LOCKTAG tag;
        SET_LOCKTAG_RELATION(tag, MyDatabaseId, segment);
        int count = 0;
        VirtualTransactionId* conflicts = GetLockConflicts(&tag, kConflictsWithWriters, &count);
        Holders found = {conflicts, count};
        holders.join(found);
        pfree(conflicts);
    }
    return holders;
}

}  // namespace outbox
