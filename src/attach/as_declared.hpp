// Whose rights an attachment's expressions run with, and what names mean in the functions that they
// call. Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Names are the server's own until AtEOXact_GUC(true, what this returns).
inline int pin_search_path() {
    int level = NewGUCNestLevel();
    (void)set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
                            GUC_ACTION_SAVE, true, 0, false);
    return level;
}

class AsDeclared {
  public:
    // `sets_path`: functions are called whose names are not all the server's own.
    explicit AsDeclared(Oid owner, bool sets_path = true) : sets_path_(sets_path) {
        GetUserIdAndSecContext(&user_, &context_);
        SetUserIdAndSecContext(
            owner, context_ | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
        if (sets_path) settings_level_ = pin_search_path();
    }
    // At the end by hand, not by a destructor: an error resets all this with the transaction.
    void end() {
        if (sets_path_) AtEOXact_GUC(true, settings_level_);
        SetUserIdAndSecContext(user_, context_);
    }

  private:
    bool sets_path_;
    Oid user_;
    int context_;
    int settings_level_ = 0;
};

}  // namespace outbox
