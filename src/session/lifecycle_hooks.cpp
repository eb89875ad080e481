// Tells launcher and relays about what happens to databases and to the extension. Session's
// backend.
//
//   event                                     what is done                                     when
//   CREATE, DROP EXTENSION (however reached)  the launcher looks into this database;           end
//   of transaction
//                                             its relay looks whether the extension is there
//   CREATE TRIGGER that calls attached()      its dependencies are recorded
//   at once
//   CREATE DATABASE                           the launcher looks into the new database         end
//   of transaction COMMIT / ROLLBACK PREPARED                relay and launcher are woken end of
//   the command DROP EXTENSION, DROP SCHEMA outbox        waits for transactions that have emitted
//   before the command CREATE DATABASE ... TEMPLATE x            the relay of x leaves, is kept
//   out, comes back   around the command DROP, RENAME, SET TABLESPACE of x         the same (after
//   DROP there is nothing to come back to)
#include "session/lifecycle_hooks.hpp"

#include "attach/dependencies.hpp"
#include "session/commit.hpp"
#include "shared/shared_state.hpp"
#include "shared/timer.hpp"
#include "storage/schema.hpp"

namespace outbox {

namespace {

object_access_hook_type previous_object_access_hook = nullptr;
ProcessUtility_hook_type previous_process_utility_hook = nullptr;

// The relay closes its sink and its session before it leaves; a sink that has just been killed by
// the relay's own exit costs nothing. A relay that takes longer than this is left alone, and the
// command then says itself that the database is being accessed.
constexpr int kLeaveTimeoutMs = 10000;

void on_object_access(ObjectAccessType access, Oid class_id, Oid object, int sub, void* argument) {
    if (previous_object_access_hook)
        previous_object_access_hook(access, class_id, object, sub, argument);
    if (access != OAT_POST_CREATE && access != OAT_DROP) return;
    if (class_id == TriggerRelationId && access == OAT_POST_CREATE) note_trigger(object);
    if (class_id == ExtensionRelationId) {
        wake_relay_at_end();
        request_relay_at_end(MyDatabaseId);
    } else if (class_id == DatabaseRelationId && access == OAT_POST_CREATE) {
        request_relay_at_end(object);
    }
}

// The database that a command wants for itself; InvalidOid if there is none, or if the caller may
// not do that anyway and will be told so by the command.
Oid wanted_database(Node* command) {
    const char* name = nullptr;
    bool copying = false;
    switch (nodeTag(command)) {
        case T_CreatedbStmt: {
            ListCell* cell;
            name = "template1";
            foreach (cell, reinterpret_cast<CreatedbStmt*>(command)->options) {
                DefElem* option = lfirst_node(DefElem, cell);
                if (strcmp(option->defname, "template") == 0 && option->arg)
                    name = defGetString(option);
            }
            copying = true;
            break;
        }
        case T_DropdbStmt:
            name = reinterpret_cast<DropdbStmt*>(command)->dbname;
            break;
        case T_RenameStmt: {
            RenameStmt* rename = reinterpret_cast<RenameStmt*>(command);
            if (rename->renameType == OBJECT_DATABASE) name = rename->subname;
            break;
        }
        case T_AlterDatabaseStmt: {
            AlterDatabaseStmt* alter = reinterpret_cast<AlterDatabaseStmt*>(command);
            ListCell* cell;
            foreach (cell, alter->options) {
                if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0)
                    name = alter->dbname;
            }
            break;
        }
        default:
            break;
    }
    if (!name) return InvalidOid;
    Oid database = get_database_oid(name, true);
    if (!OidIsValid(database) || (database == MyDatabaseId && !copying)) return InvalidOid;
    if (!copying && !compat::owns_database(database, GetUserId())) return InvalidOid;
    return database;
}

bool put_hold(Oid database) {
    bool put = false;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (Hold& hold : shared->holds) {
        if (put || OidIsValid(hold.database)) continue;
        hold = Hold{database, MyProcPid};
        put = true;
    }
    LWLockRelease(shared->lock);
    return put;
}

void end_holds() {
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (Hold& hold : shared->holds) {
        if (hold.holder == MyProcPid) hold = Hold{InvalidOid, 0};
    }
    Latch* launcher = shared->launcher_latch;
    LWLockRelease(shared->lock);
    if (launcher) SetLatch(launcher);
}

bool holding = false;

// Whatever ends the command, error and FATAL included, ends its transaction.
void on_transaction_event(XactEvent event, void*) {
    if (!holding || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)) return;
    holding = false;
    end_holds();
}

bool relay_present(RelaySlot* slot) {
    SpinLockAcquire(&slot->mutex);
    bool present = slot->pid != 0;
    SpinLockRelease(&slot->mutex);
    return present;
}

// Keeps relays out of the database until this transaction ends.
void keep_relay_out(Oid database) {
    static bool registered = false;
    if (!registered) {
        RegisterXactCallback(on_transaction_event, nullptr);
        registered = true;
    }
    holding = true;
    if (!put_hold(database)) return;
    RelaySlot* slot = find_slot(database);
    if (!slot) return;
    SpinLockAcquire(&slot->mutex);
    slot->leave = slot->pid != 0;
    SpinLockRelease(&slot->mutex);
    wake_relay(database);
    TimestampTz deadline = TimestampTzPlusMilliseconds(timer_now(), kLeaveTimeoutMs);
    while (relay_present(slot) && timer_now() < deadline) {
        CHECK_FOR_INTERRUPTS();
        ConditionVariableTimedSleep(&slot->progressed, 50,
                                    compat::wait_event("OutboxRelayLeaving"));
    }
    ConditionVariableCancelSleep();
}

// Emitting transactions hold the sequence from their first message on and lock a segment when they
// commit. Dropping takes its locks in an order of its own, so without this the two could wait for
// each other.
void lock_before_drop(Node* command) {
    if (!IsA(command, DropStmt)) return;
    DropStmt* drop = reinterpret_cast<DropStmt*>(command);
    if (drop->removeType != OBJECT_EXTENSION && drop->removeType != OBJECT_SCHEMA) return;
    ListCell* cell;
    foreach (cell, drop->objects) {
        if (strcmp(strVal(lfirst(cell)), "outbox") != 0) continue;
        Oid sequence = find_sequence();
        if (!OidIsValid(sequence) || !compat::owns_relation(sequence, GetUserId())) continue;
        LockRelationOid(sequence, AccessExclusiveLock);
    }
}

void announce_settings(Node* command) {
    if (IsA(command, AlterDatabaseSetStmt)) {
        const char* name = reinterpret_cast<AlterDatabaseSetStmt*>(command)->dbname;
        announce_settings_at_end(get_database_oid(name, true));
    } else if (IsA(command, AlterRoleSetStmt)) {
        announce_settings_at_end(InvalidOid);
    }
}

bool finishes_prepared(Node* command) {
    if (!IsA(command, TransactionStmt)) return false;
    TransactionStmtKind kind = reinterpret_cast<TransactionStmt*>(command)->kind;
    return kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED;
}

void on_process_utility(OUTBOX_PROCESS_UTILITY_PARAMETERS) {
    Node* command = statement->utilityStmt;
    Oid database = wanted_database(command);
    if (OidIsValid(database)) keep_relay_out(database);
    lock_before_drop(command);
    announce_settings(command);
    // Its rows may be messages, it may have retried parked ones, and CREATE EXTENSION may have been
    // among its commands.
    if (finishes_prepared(command)) {
        announce_parked_changed_at_end();
        request_relay_at_end(MyDatabaseId);
    }
    auto next =
        previous_process_utility_hook ? previous_process_utility_hook : standard_ProcessUtility;
    next(OUTBOX_PROCESS_UTILITY_ARGUMENTS);
}

}  // namespace

void install_lifecycle_hooks() {
    previous_object_access_hook = object_access_hook;
    object_access_hook = on_object_access;
    previous_process_utility_hook = ProcessUtility_hook;
    ProcessUtility_hook = on_process_utility;
}

}  // namespace outbox
