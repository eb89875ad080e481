// Whose messages these are: the server and database that may publish them. Relay and operators'
// functions.
#include "storage/identity.hpp"

#include "storage/spi.hpp"

namespace outbox {

namespace {

enum : AttrNumber { kSystemIdentifier = 1, kDatabaseOid, kPaused };

}  // namespace

Standing read_standing(const Schema& schema, Snapshot snapshot, bool* clone) {
    Standing standing = Standing::Unknown;
    bool same_server = true;
    Relation relation = table_open(schema.identity, AccessShareLock);
    TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
    TupleTableSlot* slot = table_slot_create(relation, nullptr);
    int64 ours = static_cast<int64>(GetSystemIdentifier());
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        bool null;
        int64 server = DatumGetInt64(slot_getattr(slot, kSystemIdentifier, &null));
        Oid database = DatumGetObjectId(slot_getattr(slot, kDatabaseOid, &null));
        bool paused = DatumGetBool(slot_getattr(slot, kPaused, &null));
        same_server = same_server && server == ours;
        if (server != ours || database != MyDatabaseId) {
            standing = Standing::Foreign;
        } else if (standing != Standing::Foreign) {
            standing = paused ? Standing::Paused : Standing::Ours;
        }
    }
    ExecDropSingleTupleTableSlot(slot);
    table_endscan(scan);
    table_close(relation, NoLock);
    if (clone) *clone = standing == Standing::Foreign && same_server;
    return standing;
}

void adopt(bool paused) {
    Oid types[] = {INT8OID, OIDOID, BOOLOID};
    Datum values[] = {Int64GetDatum(static_cast<int64>(GetSystemIdentifier())),
                      ObjectIdGetDatum(MyDatabaseId), BoolGetDatum(paused)};
    spi_begin();
    spi_execute("LOCK TABLE outbox.identity IN SHARE ROW EXCLUSIVE MODE", SPI_OK_UTILITY);
    spi_execute("DELETE FROM outbox.identity", SPI_OK_DELETE);
    spi_execute(
        "INSERT INTO outbox.identity (system_identifier, database_oid, paused) VALUES ($1, $2, $3)",
        SPI_OK_INSERT, 3, types, values);
    spi_end();
}

void mark_foreign() {
    spi_begin();
    spi_execute(
        "INSERT INTO outbox.identity (system_identifier, database_oid, paused) SELECT 0, 0, false "
        "WHERE NOT EXISTS (SELECT FROM outbox.identity WHERE system_identifier = 0)",
        SPI_OK_INSERT);
    spi_end();
}

}  // namespace outbox
