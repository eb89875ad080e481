// Which keys may have parked messages, in memory: most messages need not ask the table. Relay
// process.
#include "worker/parked_keys.hpp"

namespace outbox {

namespace {

uint64 hash_of(const Row& row) {
    uint64 topic = hash_bytes_extended(reinterpret_cast<const unsigned char*>(row.topic),
                                       static_cast<int>(row.topic_length), 0);
    return hash_bytes_extended(reinterpret_cast<const unsigned char*>(row.key),
                               static_cast<int>(row.key_length), topic);
}

}  // namespace

void ParkedKeys::init() {
    context_ =
        AllocSetContextCreate(CurrentMemoryContext, "outbox parked keys", ALLOCSET_DEFAULT_SIZES);
    clear();
}

void ParkedKeys::clear() {
    MemoryContextReset(context_);
    all_ = false;
    HASHCTL control = {};
    control.keysize = control.entrysize = sizeof(uint64);
    control.hcxt = context_;
    hashes_ =
        hash_create("outbox parked keys", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void ParkedKeys::add(const Row& row) {
    if (!row.key || all_) return;
    uint64 hash = hash_of(row);
    (void)hash_search(hashes_, &hash, HASH_ENTER, nullptr);
    if (hash_get_num_entries(hashes_) > kMost) all_ = true;
}

bool ParkedKeys::may_contain(const Row& row) const {
    if (!row.key) return false;
    if (all_) return true;
    uint64 hash = hash_of(row);
    return hash_search(hashes_, &hash, HASH_FIND, nullptr) != nullptr;
}

}  // namespace outbox
