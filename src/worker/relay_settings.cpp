// Settings as a relay sees them: its own session's are pinned, and those it works by are watched.
// Relay process.
#include "worker/relay_settings.hpp"

#include <sys/stat.h>

#include "settings.hpp"

namespace outbox {

namespace {

// A file's contents may change under the same name: a new password, a new certificate. Its inode
// and time of change tell; what is in it is the sink's business.
void add_file_to_signature(StringInfo text, const char* path) {
    struct stat file;
    if (stat(path, &file) != 0) return;
    appendStringInfo(text, "%llu %lld.%09ld\n", static_cast<unsigned long long>(file.st_ino),
                     static_cast<long long>(file.st_mtim.tv_sec),
                     static_cast<long>(file.st_mtim.tv_nsec));
}

// The properties file names others, of certificates and keys for example, that are renewed while
// it stays as it is. A value that looks like a path is taken for one; the values themselves, some
// of them secret, are kept nowhere.
void add_files_named_in(StringInfo text, const char* path) {
    FILE* file = AllocateFile(path, "r");
    if (!file) return;
    char line[MAXPGPATH + 256];
    while (fgets(line, sizeof(line), file)) {
        char* value = strchr(line, '=');
        if (!value) continue;
        value += 1 + strspn(value + 1, " \t");
        size_t length = strlen(value);
        while (length > 0 && isspace(static_cast<unsigned char>(value[length - 1])))
            value[--length] = '\0';
        if (value[0] == '/') add_file_to_signature(text, value);
    }
    explicit_bzero(line, sizeof(line));
    FreeFile(file);
}

void add_to_signature(void* context, const char* name, const char* value) {
    StringInfo text = static_cast<StringInfo>(context);
    appendStringInfo(text, "%s=%s\n", name, value);
    if (strcmp(name, "config_file") != 0) return;
    add_file_to_signature(text, value);
    add_files_named_in(text, value);
}

}  // namespace

char* current_sink_signature() {
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfo(&text, "%s\n", settings.sink);
    each_sink_setting(settings.sink, add_to_signature, &text);
    return text.data;
}

// What ALTER DATABASE and ALTER ROLE have set for this process: it takes effect when a session
// begins, so a change means to begin anew.
char* read_database_settings() {
    StringInfoData text;
    initStringInfo(&text);
    Relation relation = table_open(DbRoleSettingRelationId, AccessShareLock);
    SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, nullptr, 0, nullptr);
    while (HeapTuple tuple = systable_getnext(scan)) {
        Form_pg_db_role_setting row = reinterpret_cast<Form_pg_db_role_setting>(GETSTRUCT(tuple));
        bool ours = (row->setdatabase == MyDatabaseId || row->setdatabase == InvalidOid) &&
                    (row->setrole == GetUserId() || row->setrole == InvalidOid);
        bool null;
        Datum value = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
                                   RelationGetDescr(relation), &null);
        if (!ours || null) continue;
        appendStringInfo(&text, "%u %u %s\n", row->setdatabase, row->setrole,
                         OidOutputFunctionCall(F_ARRAY_OUT, value));
    }
    systable_endscan(scan);
    table_close(relation, NoLock);
    return text.data;
}

// This process runs the extension's own statements only; what roles and databases set for their
// sessions must not change what they mean.
void pin_session_settings() {
    const char* const pinned[][2] = {
        {"search_path", "pg_catalog, pg_temp"},
        {"synchronous_commit", "off"},  // progress that is lost is work that is done again
        {"statement_timeout", "0"},
        {"lock_timeout",
         "2s"},  // an operator's lock: give up and begin anew, rather than not hear SIGTERM
        {"idle_in_transaction_session_timeout", "0"},
        {"default_transaction_isolation", "read committed"},
        {"default_transaction_read_only", "off"},
        {"default_transaction_deferrable", "off"},
        {"row_security", "off"},
        // A trigger or foreign key that somebody put on a table of ours neither runs nor refuses
        // anything here; the guards are ENABLE ALWAYS.
        {"session_replication_role", "replica"},
        {"jit", "off"},
        {"enable_seqscan", "off"},
        {"log_statement", "none"},
        {"log_min_duration_statement", "-1"},
        {"plan_cache_mode", "auto"},
    };
    for (const auto& setting : pinned)
        SetConfigOption(setting[0], setting[1], PGC_SUSET, PGC_S_OVERRIDE);
}

}  // namespace outbox
