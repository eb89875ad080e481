// Functions that read and write the extension's tables for callers who may call them but have no
// right on the tables: they do it as the owner of the extension. Session's backend.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"

namespace outbox {

// What others have attached to the tables does not run with the owner's rights: where a function
// writes, a trigger or a foreign key of somebody with that privilege is passed over, as in the
// relay.
class AsOwner {
  public:
    enum class Access : uint8_t { Reads, Writes };

    // Where the extension is installed.
    explicit AsOwner(Access access = Access::Writes) {
        Schema schema;
        if (!find_schema(&schema)) elog(ERROR, "the extension outbox is gone");
        GetUserIdAndSecContext(&user_, &context_);
        settings_level_ = NewGUCNestLevel();
        if (access == Access::Writes) {
            (void)set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
                                    GUC_ACTION_SAVE, true, 0, false);
        }
        Oid role = access == Access::Writes ? acting_role(schema) : owner_of(schema.sequence);
        SetUserIdAndSecContext(
            role, context_ | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
    }
    // At the end by hand, not by a destructor: an error resets all this with the transaction.
    void end() {
        SetUserIdAndSecContext(user_, context_);
        AtEOXact_GUC(true, settings_level_);
    }

  private:
    Oid user_;
    int context_;
    int settings_level_;
};

}  // namespace outbox
