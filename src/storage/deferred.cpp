// The messages that were taken out of the log because their topic, or the broker, does not take
// them.
#include "storage/deferred.hpp"

#include "storage/spi.hpp"

namespace outbox {

namespace {

Datum bytes_datum(const char* data, uint32 length) {
    return PointerGetDatum(cstring_to_text_with_len(data ? data : "", static_cast<int>(length)));
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

// Calls `found` for each row of the result, which has the columns topic and key.
void report_keys(void (*found)(void* context, const Row& row), void* context) {
    for (uint64 i = 0; i < SPI_processed; ++i) {
        Row row;
        bool null;
        memset(static_cast<void*>(&row), 0, sizeof(row));
        Datum value = spi_value(i, 1, &null);
        bytes_of(value, null, &row.topic, &row.topic_length);
        value = spi_value(i, 2, &null);
        bytes_of(value, null, &row.key, &row.key_length);
        found(context, row);
    }
}

// One statement for every way in: `head` and `state` say which.
void insert(const Row& row, const char* state, const Refusal& refusal, int attempts, int64 head) {
    Oid types[] = {INT8OID,  TIMESTAMPTZOID, UUIDOID, INT4OID, TEXTOID, BYTEAOID, BYTEAOID,
                   JSONBOID, TEXTOID,        INT4OID, TEXTOID, INT4OID, INT8OID};
    Datum values[] = {Int64GetDatum(row.position),
                      TimestampTzGetDatum(row.time),
                      PointerGetDatum(row.id),
                      Int32GetDatum(row.partition),
                      bytes_datum(row.topic, row.topic_length),
                      bytes_datum(row.key, row.key_length),
                      bytes_datum(row.payload, row.payload_length),
                      PointerGetDatum(row.headers),
                      CStringGetTextDatum(state),
                      Int32GetDatum(refusal.code),
                      CStringGetTextDatum(refusal.text),
                      Int32GetDatum(attempts),
                      Int64GetDatum(head)};
    char nulls[] = "             ";
    if (!row.has_partition) nulls[3] = 'n';
    if (!row.key) nulls[5] = 'n';
    if (!row.payload) nulls[6] = 'n';
    if (!row.headers) nulls[7] = 'n';
    if (refusal.code == 0) nulls[9] = 'n';
    if (refusal.text[0] == '\0') nulls[10] = 'n';
    if (head == 0) nulls[12] = 'n';
    spi_begin();
    spi_execute(
        "INSERT INTO outbox.deferred (position, time, id, partition, topic, key, payload, headers, "
        "state, error_code, error, attempts, behind, deferred_at, parked_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, "
        "pg_catalog.clock_timestamp(), "
        "CASE WHEN $9 = 'parked' THEN pg_catalog.clock_timestamp() END) "
        "ON CONFLICT (position) DO NOTHING",
        SPI_OK_INSERT, lengthof(values), types, values, nulls);
    spi_end();
}

// Parks what is to be tried again behind the parked ones of its key. SPI is connected.
int64 park_behind(const char* topic) {
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(topic)};
    spi_execute(
        "UPDATE outbox.deferred AS d SET state = 'parked', behind = p.position, "
        "parked_at = pg_catalog.clock_timestamp(), error_code = NULL, error = NULL "
        "FROM (SELECT key, pg_catalog.min(position) AS position FROM outbox.deferred "
        "      WHERE topic = $1 AND state = 'parked' AND key IS NOT NULL GROUP BY key) AS p "
        "WHERE d.topic = $1 AND d.key = p.key AND d.position > p.position "
        "AND d.state IN ('waiting', 'suspect')",
        SPI_OK_UPDATE, 1, types, values);
    return static_cast<int64>(SPI_processed);
}

}  // namespace

void defer(const Row& row, DeferredState state, const Refusal& refusal) {
    bool suspect = state == DeferredState::Suspect;
    insert(row, suspect ? "suspect" : "waiting", refusal, suspect ? 1 : 0, 0);
}

void defer_behind(const Row& row, int64 head) {
    insert(row, "parked", Refusal{0, ""}, 0, head);
}

void each_deferred(const char* topic, int64 after, int most,
                   bool (*take)(void* context, const Row& row, DeferredState state),
                   void* context) {
    Oid types[] = {TEXTOID, INT8OID, INT8OID};
    Datum values[] = {CStringGetTextDatum(topic), Int64GetDatum(after), Int64GetDatum(most)};
    spi_begin();
    spi_execute(
        "SELECT position, time, id, partition, topic, key, payload, headers, state = 'suspect' "
        "FROM outbox.deferred WHERE topic = $1 AND position > $2 "
        "AND state IN ('waiting', 'suspect') "
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
        "UPDATE outbox.deferred SET state = 'suspect', attempts = attempts + 1 "
        "WHERE position = $1 AND state = 'waiting'",
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

int64 park(int64 position, const Refusal& refusal, void (*found)(void* context, const Row& row),
           void* context) {
    Oid types[] = {INT8OID, INT4OID, TEXTOID};
    Datum values[] = {Int64GetDatum(position), Int32GetDatum(refusal.code),
                      CStringGetTextDatum(refusal.text)};
    spi_begin();
    spi_execute(
        "UPDATE outbox.deferred SET state = 'parked', error_code = $2, error = $3, "
        "attempts = attempts + 1, behind = NULL, parked_at = pg_catalog.clock_timestamp() "
        "WHERE position = $1 RETURNING topic, key",
        SPI_OK_UPDATE_RETURNING, 3, types, values);
    int64 parked = static_cast<int64>(SPI_processed);
    report_keys(found, context);
    spi_execute(
        "UPDATE outbox.deferred AS d SET state = 'parked', behind = p.position, "
        "error_code = NULL, error = NULL, parked_at = pg_catalog.clock_timestamp() "
        "FROM outbox.deferred AS p WHERE p.position = $1 AND d.topic = p.topic AND d.key = p.key "
        "AND d.position > p.position AND d.state IN ('waiting', 'suspect')",
        SPI_OK_UPDATE, 1, types, values);
    parked += static_cast<int64>(SPI_processed);
    spi_end();
    return parked;
}

int64 park_expired(const char* topic, int64 most_s, const Refusal& refusal) {
    Oid types[] = {TEXTOID, INT8OID, INT4OID, TEXTOID};
    Datum values[] = {CStringGetTextDatum(topic), Int64GetDatum(most_s),
                      Int32GetDatum(refusal.code), CStringGetTextDatum(refusal.text)};
    spi_begin();
    spi_execute(
        "UPDATE outbox.deferred SET state = 'parked', error_code = $3, error = $4, "
        "behind = NULL, parked_at = pg_catalog.clock_timestamp() "
        "WHERE topic = $1 AND state IN ('waiting', 'suspect') "
        "AND deferred_at <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2)",
        SPI_OK_UPDATE, lengthof(values), types, values);
    int64 parked = static_cast<int64>(SPI_processed);
    if (parked > 0) parked += park_behind(topic);
    spi_end();
    return parked;
}

int64 parked_head(const Row& row) {
    if (!row.key) return 0;
    Oid types[] = {TEXTOID, BYTEAOID};
    Datum values[] = {bytes_datum(row.topic, row.topic_length),
                      bytes_datum(row.key, row.key_length)};
    spi_begin();
    spi_execute(
        "SELECT position FROM outbox.deferred "
        "WHERE topic = $1 AND pg_catalog.sha256(key) = pg_catalog.sha256($2) AND key = $2 "
        "AND state IN ('parked', 'released') ORDER BY position LIMIT 1",
        SPI_OK_SELECT, lengthof(values), types, values);
    int64 head = SPI_processed > 0 ? spi_int64(0, 1) : 0;
    spi_end();
    return head;
}

void adopt_released() {
    spi_begin();
    spi_execute(
        "UPDATE outbox.deferred SET behind = NULL, "
        "state = CASE WHEN behind IS NULL THEN 'suspect' ELSE 'waiting' END "
        "WHERE state = 'released'",
        SPI_OK_UPDATE);
    // Behind nothing any more: what stood first was released or discarded. What stands behind such
    // a one in turn (it came while that one was locked) takes another round.
    do {
        spi_execute(
            "WITH orphan AS MATERIALIZED ("
            "    SELECT d.position, d.topic, d.key FROM outbox.deferred AS d "
            "    WHERE d.state = 'parked' AND d.behind IS NOT NULL AND NOT EXISTS ("
            "        SELECT FROM outbox.deferred AS h "
            "        WHERE h.position = d.behind AND h.state = 'parked')"
            "), free AS MATERIALIZED ("
            "    SELECT d.position FROM outbox.deferred AS d "
            "    WHERE d.position IN (SELECT position FROM orphan) FOR UPDATE SKIP LOCKED"
            "), locked AS ("
            "    SELECT o.topic, o.key, pg_catalog.min(o.position) AS position FROM orphan AS o "
            "    WHERE o.position NOT IN (SELECT position FROM free) GROUP BY o.topic, o.key"
            ") "
            "UPDATE outbox.deferred AS d SET state = 'waiting', behind = NULL "
            "FROM free AS f WHERE d.position = f.position AND NOT EXISTS ("
            "    SELECT FROM locked AS l "
            "    WHERE l.topic = d.topic AND l.key = d.key AND l.position < d.position)",
            SPI_OK_UPDATE);
    } while (SPI_processed > 0);
    spi_end();
}

int64 each_parked_key(int64 most, void (*found)(void* context, const Row& row), void* context) {
    Oid types[] = {INT8OID};
    Datum values[] = {Int64GetDatum(most)};
    spi_begin();
    spi_execute(
        "SELECT topic, key FROM outbox.deferred "
        "WHERE state IN ('parked', 'released') AND key IS NOT NULL LIMIT $1",
        SPI_OK_SELECT, lengthof(values), types, values);
    report_keys(found, context);
    int64 count = static_cast<int64>(SPI_processed);
    spi_end();
    return count;
}

void each_deferred_topic(void (*found)(void* context, const char* topic, int64 waiting,
                                       int64 parked),
                         void* context) {
    spi_begin();
    spi_execute(
        "SELECT topic, pg_catalog.count(*) FILTER (WHERE state IN ('waiting', 'suspect')), "
        "pg_catalog.count(*) FILTER (WHERE state IN ('parked', 'released')) "
        "FROM outbox.deferred GROUP BY topic",
        SPI_OK_SELECT);
    for (uint64 i = 0; i < SPI_processed; ++i) {
        bool null;
        char* topic = TextDatumGetCString(spi_value(i, 1, &null));
        found(context, topic, spi_int64(i, 2), spi_int64(i, 3));
    }
    spi_end();
}

int64 count_parked() {
    spi_begin();
    spi_execute(
        "SELECT pg_catalog.count(*) FROM outbox.deferred WHERE state IN ('parked', 'released')",
        SPI_OK_SELECT);
    int64 count = spi_int64(0, 1);
    spi_end();
    return count;
}

bool oldest_deferred(int64* position, TimestampTz* time) {
    spi_begin();
    spi_execute(
        "SELECT position, time FROM outbox.deferred WHERE state IN ('waiting', 'suspect') "
        "ORDER BY position "
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
