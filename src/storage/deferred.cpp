// The messages that were taken out of the log because their topic, or the broker, does not take
// them.
#include "storage/deferred.hpp"

#include "storage/spi.hpp"

namespace outbox {

namespace {

Datum bytes_datum(const char* data, uint32 length) {
    return PointerGetDatum(cstring_to_text_with_len(data ? data : "", static_cast<int>(length)));
}

const char* state_name(DeferredState state) {
    switch (state) {
        case DeferredState::Waiting:
            return "waiting";
        case DeferredState::Suspect:
            return "suspect";
        case DeferredState::Parked:
            return "parked";
    }
    return "";
}

void bytes_of(Datum value, bool null, const char** data, uint32* length) {
    *data = nullptr;
    *length = 0;
    if (null) return;
    varlena* bytes = PG_DETOAST_DATUM_PACKED(value);
    *data = VARDATA_ANY(bytes);
    *length = static_cast<uint32>(VARSIZE_ANY_EXHDR(bytes));
}

// Row from columns position, time, id, partition, topic, key, payload, headers, in this order.
void read_row(uint64 number, Row* row) {
    bool null;
    memset(static_cast<void*>(row), 0, sizeof(*row));
    row->position = spi_int64(number, 1);
    row->time = DatumGetTimestampTz(spi_value(number, 2, &null));
    row->time_ms = unix_milliseconds(row->time);
    row->id = DatumGetUUIDP(spi_value(number, 3, &null));
    row->partition = DatumGetInt32(spi_value(number, 4, &null));
    row->has_partition = !null;
    Datum value = spi_value(number, 5, &null);
    bytes_of(value, null, &row->topic, &row->topic_length);
    value = spi_value(number, 6, &null);
    bytes_of(value, null, &row->key, &row->key_length);
    value = spi_value(number, 7, &null);
    bytes_of(value, null, &row->payload, &row->payload_length);
    value = spi_value(number, 8, &null);
    row->headers = null ? nullptr : DatumGetJsonbP(value);
}

}  // namespace

void defer(const Row& row, DeferredState state, int32 error_code, const char* error) {
    Oid types[] = {INT8OID,  TIMESTAMPTZOID, UUIDOID, INT4OID, TEXTOID, BYTEAOID,
                   BYTEAOID, JSONBOID,       TEXTOID, INT4OID, TEXTOID};
    Datum values[] = {Int64GetDatum(row.position),
                      TimestampTzGetDatum(row.time),
                      PointerGetDatum(row.id),
                      Int32GetDatum(row.partition),
                      bytes_datum(row.topic, row.topic_length),
                      bytes_datum(row.key, row.key_length),
                      bytes_datum(row.payload, row.payload_length),
                      PointerGetDatum(row.headers),
                      CStringGetTextDatum(state_name(state)),
                      Int32GetDatum(error_code),
                      CStringGetTextDatum(error)};
    char nulls[] = "           ";
    if (!row.has_partition) nulls[3] = 'n';
    if (!row.key) nulls[5] = 'n';
    if (!row.payload) nulls[6] = 'n';
    if (!row.headers) nulls[7] = 'n';
    if (error_code == 0) nulls[9] = 'n';
    if (error[0] == '\0') nulls[10] = 'n';
    spi_begin();
    spi_execute(
        "INSERT INTO outbox.deferred (position, time, id, partition, topic, key, payload, headers, "
        "state, "
        "error_code, error, deferred_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
        "pg_catalog.clock_timestamp()) ON CONFLICT (position) DO NOTHING",
        SPI_OK_INSERT, lengthof(values), types, values, nulls);
    spi_end();
}

void each_deferred(const char* topic, int64 after, int most,
                   bool (*take)(void* context, const Row& row, DeferredState state),
                   void* context) {
    Oid types[] = {TEXTOID, INT8OID, INT8OID};
    Datum values[] = {CStringGetTextDatum(topic), Int64GetDatum(after), Int64GetDatum(most)};
    spi_begin();
    spi_execute(
        "SELECT position, time, id, partition, topic, key, payload, headers, state = 'suspect' "
        "FROM outbox.deferred WHERE topic = $1 AND position > $2 AND state <> 'parked' "
        "ORDER BY position LIMIT $3",
        SPI_OK_SELECT, lengthof(values), types, values);
    for (uint64 i = 0; i < SPI_processed; ++i) {
        Row row;
        bool null;
        read_row(i, &row);
        bool suspect = DatumGetBool(spi_value(i, 9, &null));
        if (!take(context, row, suspect ? DeferredState::Suspect : DeferredState::Waiting)) break;
    }
    spi_end();
}

void suspect_deferred(int64 position) {
    Oid types[] = {INT8OID};
    Datum values[] = {Int64GetDatum(position)};
    spi_begin();
    spi_execute(
        "UPDATE outbox.deferred SET state = 'suspect' WHERE position = $1 AND state = 'waiting'",
        SPI_OK_UPDATE, 1, types, values);
    spi_end();
}

void remove_deferred(const int64* positions, int count) {
    Datum* elements = static_cast<Datum*>(palloc(sizeof(Datum) * static_cast<size_t>(count)));
    for (int i = 0; i < count; ++i)
        elements[i] = Int64GetDatum(positions[i]);
    ArrayType* array =
        construct_array(elements, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
    Oid types[] = {INT8ARRAYOID};
    Datum values[] = {PointerGetDatum(array)};
    spi_begin();
    spi_execute("DELETE FROM outbox.deferred WHERE position = ANY ($1)", SPI_OK_DELETE, 1, types,
                values);
    spi_end();
    pfree(array);
    pfree(elements);
}

int64 park(int64 position, int32 error_code, const char* error) {
    Oid types[] = {INT8OID, INT4OID, TEXTOID};
    Datum values[] = {Int64GetDatum(position), Int32GetDatum(error_code),
                      CStringGetTextDatum(error)};
    spi_begin();
    spi_execute(
        "UPDATE outbox.deferred SET state = 'parked', error_code = $2, error = $3 WHERE position = "
        "$1",
        SPI_OK_UPDATE, 3, types, values);
    int64 parked = static_cast<int64>(SPI_processed);
    spi_execute(
        "UPDATE outbox.deferred AS d SET state = 'parked', "
        "error = pg_catalog.format('behind message %s of the same key', p.id) "
        "FROM outbox.deferred AS p WHERE p.position = $1 AND d.topic = p.topic AND d.key = p.key "
        "AND d.position > p.position AND d.state <> 'parked'",
        SPI_OK_UPDATE, 1, types, values);
    parked += static_cast<int64>(SPI_processed);
    spi_end();
    return parked;
}

bool key_is_parked(const Row& row) {
    if (!row.key) return false;
    Oid types[] = {TEXTOID, BYTEAOID};
    Datum values[] = {bytes_datum(row.topic, row.topic_length),
                      bytes_datum(row.key, row.key_length)};
    spi_begin();
    spi_execute(
        "SELECT FROM outbox.deferred WHERE topic = $1 AND pg_catalog.md5(key) = pg_catalog.md5($2) "
        "AND key = $2 AND state = 'parked' LIMIT 1",
        SPI_OK_SELECT, lengthof(values), types, values);
    bool parked = SPI_processed > 0;
    spi_end();
    return parked;
}

void each_deferred_topic(void (*found)(void* context, const char* topic, int64 waiting,
                                       int64 parked),
                         void* context) {
    spi_begin();
    spi_execute(
        "SELECT topic, pg_catalog.count(*) FILTER (WHERE state <> 'parked'), "
        "pg_catalog.count(*) FILTER (WHERE state = 'parked') FROM outbox.deferred GROUP BY topic",
        SPI_OK_SELECT);
    for (uint64 i = 0; i < SPI_processed; ++i) {
        bool null;
        char* topic = TextDatumGetCString(spi_value(i, 1, &null));
        found(context, topic, spi_int64(i, 2), spi_int64(i, 3));
    }
    spi_end();
}

bool oldest_deferred(int64* position, TimestampTz* time) {
    spi_begin();
    spi_execute(
        "SELECT position, time FROM outbox.deferred WHERE state <> 'parked' ORDER BY position "
        "LIMIT 1",
        SPI_OK_SELECT);
    bool found = SPI_processed > 0;
    if (found) {
        bool null;
        *position = spi_int64(0, 1);
        *time = DatumGetTimestampTz(spi_value(0, 2, &null));
    }
    spi_end();
    return found;
}

}  // namespace outbox
