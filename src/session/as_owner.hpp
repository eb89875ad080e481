// Functions that read and write the extension's tables for callers who may call them but have no
// right on the tables: they do it as the owner of the extension. Session's backend.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"

namespace outbox {

class AsOwner {
  public:
    AsOwner() {
        GetUserIdAndSecContext(&user_, &context_);
        SetUserIdAndSecContext(extension_owner(), context_ | SECURITY_LOCAL_USERID_CHANGE);
    }
    // At the end by hand, not by a destructor: an error resets the user with the transaction.
    void end() { SetUserIdAndSecContext(user_, context_); }

  private:
    static Oid extension_owner() {
        HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(find_sequence()));
        if (!HeapTupleIsValid(tuple))
            elog(ERROR, "cache lookup failed for outbox.message_position");
        Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
        ReleaseSysCache(tuple);
        return owner;
    }
    Oid user_;
    int context_;
};

}  // namespace outbox
