// Which keys may have parked messages, in memory: most messages need not ask the table. Relay
// process.
//
// It may name a key that has none any more (an operator retried or discarded them), and one whose
// hash is that of another key; it never misses one. Sessions only take keys out of the table; what
// the relay itself parks, it adds here.
#pragma once

#include "storage/log_reader.hpp"

namespace outbox {

class ParkedKeys {
  public:
    // Memory from the current context, for good.
    void init();

    void clear();
    void add(const Row& row);
    // Too many to remember: from now on, until clear(), every key may be one.
    void add_all() { all_ = true; }
    bool may_contain(const Row& row) const;

    // More than this are not remembered one by one.
    static constexpr int64 kMost = 100000;

  private:
    MemoryContext context_ = nullptr;
    HTAB* hashes_ = nullptr;
    bool all_ = false;
};

}  // namespace outbox
