-- What emit() refuses, in the caller's transaction, with SQLSTATE, detail and hint.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

-- Runs a statement that should fail, and shows how it does; \x shows one field a line.
CREATE FUNCTION refusal(statement text, OUT state text, OUT message text, OUT detail text, OUT hint text)
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state := RETURNED_SQLSTATE, message := MESSAGE_TEXT,
                            detail := PG_EXCEPTION_DETAIL, hint := PG_EXCEPTION_HINT;
END
$$;
\x on

-- Topics: Kafka's own rule.
SELECT * FROM refusal($$SELECT outbox.emit(NULL, 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit('', 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit('.', 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit('..', 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit('a b', 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit('a/b', 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit(E'a\nb', 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit('größe', 'k', 'p')$$);
SELECT * FROM refusal($$SELECT outbox.emit(repeat('t', 250), 'k', 'p')$$);
-- These are names that Kafka takes.
SELECT message FROM refusal($$SELECT outbox.emit(repeat('t', 249), 'k', 'p')$$);
SELECT message FROM refusal($$SELECT outbox.emit('...', 'k', 'p')$$);
SELECT message FROM refusal($$SELECT outbox.emit('.a', 'k', 'p')$$);
SELECT message FROM refusal($$SELECT outbox.emit('AZaz09._-', 'k', 'p')$$);

-- Headers.
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', '[]')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', '"text"')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', '1')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', 'null')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', 'no JSON')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', '{"a": 1, "id": "mine"}')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', '{"id": null}')$$);
-- Header names are case-sensitive, and only the top level names headers.
SELECT message FROM refusal($$SELECT outbox.emit('t', 'k', 'p', '{"ID": 1, "ids": 2, "a": {"id": 3}}')$$);

-- Partitions.
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', NULL, -1)$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p', partition => -2147483648)$$);
SELECT message FROM refusal($$SELECT outbox.emit('t', 'k', 'p', partition => 2147483647)$$);

-- Size: key, payload and headers count, to the byte, with the framing that each header has in Kafka.
SET outbox.max_message_bytes = 1000;
SELECT message FROM refusal($$SELECT outbox.emit('t', NULL, repeat('p', 1000))$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', NULL, repeat('p', 1001))$$);
SELECT message FROM refusal($$SELECT outbox.emit('t', repeat('k', 400), repeat('p', 600))$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', repeat('k', 401), repeat('p', 600))$$);
SELECT message FROM refusal($$SELECT outbox.emit('t', repeat('k', 400), repeat('p', 590), '{"name": "1234"}')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', repeat('k', 400), repeat('p', 590), '{"name": "12345"}')$$);
SELECT * FROM refusal($$SELECT outbox.emit('t', NULL, NULL, jsonb_build_object('h', array_fill(repeat('v', 90), ARRAY[11])))$$);
SELECT message FROM refusal($$SELECT outbox.emit('t', NULL, NULL, jsonb_build_object('h', array_fill(repeat('v', 90), ARRAY[10])))$$);
-- One below, at and one above the limit: of each part alone, and of a topic's name.
SELECT n, (SELECT state FROM refusal(format($$SELECT outbox.emit('t', NULL, repeat('p', %s))$$, n))) AS payload,
       (SELECT state FROM refusal(format($$SELECT outbox.emit('t', repeat('k', %s), NULL)$$, n))) AS key,
       (SELECT state FROM refusal(format($$SELECT outbox.emit('t', NULL, decode(repeat('00', %s), 'hex'))$$, n))) AS bytes,
       (SELECT state FROM refusal(format($$SELECT outbox.emit('t', NULL, NULL, jsonb_build_object('name', repeat('v', %s)))$$, n - 7))) AS headers,
       (SELECT state FROM refusal(format($$SELECT outbox.emit('t', 'k', 'p', jsonb_build_object(repeat('n', %s), NULL))$$, n - 5))) AS name
FROM generate_series(999, 1001) AS n;
SELECT n, (SELECT state FROM refusal(format($$SELECT outbox.emit(repeat('t', %s), 'k', 'p')$$, n))) AS topic
FROM unnest(ARRAY[0, 1, 248, 249, 250]) AS n;
-- A key and a payload of bytes count as bytes, text as what it is in UTF-8.
SELECT message FROM refusal($$SELECT outbox.emit('t', NULL::text, decode(repeat('00', 1000), 'hex'))$$);
SELECT state FROM refusal($$SELECT outbox.emit('t', NULL::text, decode(repeat('00', 1001), 'hex'))$$);
SELECT message FROM refusal($$SELECT outbox.emit('t', NULL, repeat('ß', 500))$$);
SELECT state FROM refusal($$SELECT outbox.emit('t', NULL, repeat('ß', 501))$$);
RESET outbox.max_message_bytes;
-- The default is just under Kafka's own default of 1048588.
SHOW outbox.max_message_bytes;

-- Read-only transactions.
BEGIN READ ONLY;
SELECT * FROM refusal($$SELECT outbox.emit('t', 'k', 'p')$$);
ROLLBACK;
BEGIN;
SET TRANSACTION READ ONLY;
SELECT state FROM refusal($$SELECT outbox.emit('t', 'k', 'p')$$);
ROLLBACK;
SET default_transaction_read_only = on;
SELECT state FROM refusal($$SELECT outbox.emit('t', 'k', 'p')$$);
RESET default_transaction_read_only;
-- A transaction that becomes read-only afterwards keeps what it had emitted.
BEGIN;
SELECT outbox.emit('read-only-later', 'k', 'p') IS NOT NULL AS emitted;
SET TRANSACTION READ ONLY;
COMMIT;
SELECT count(*) FROM outbox.messages WHERE topic = 'read-only-later';

-- A backlog that has reached its limit: what the transaction has emitted itself counts, and nobody can deliver that.
BEGIN;
SET LOCAL outbox.backlog_limit = '1MB';
SET LOCAL outbox.max_message_bytes = '2MB';
SELECT state, message, regexp_replace(regexp_replace(detail, ' (The|No) relay.*', ''), '^\d+ \w+|(?<=emitted )\d+ \w+', 'N', 'g') AS detail,
       hint
FROM refusal($$SELECT outbox.emit('t', n, repeat('x', 1000)) FROM generate_series(1, 2000) AS n$$);
-- Less than what was refused, and other statements, still pass; a message that is larger than the limit never does.
SELECT message FROM refusal($$SELECT outbox.emit('t', 'k', 'p')$$);
SELECT state, message FROM refusal($$SELECT outbox.emit('t', 'k', repeat('x', 1048000))$$);
SELECT count(*) FROM outbox.uncommitted();
ROLLBACK;

-- A refused emit() fails its transaction; what it had emitted before is gone with it.
\x off
BEGIN;
SELECT outbox.emit('refused', 'k', 'before') IS NOT NULL AS emitted;
SELECT outbox.emit('', 'k', 'p');
SELECT outbox.emit('refused', 'k', 'after');
COMMIT;
SELECT count(*) FROM outbox.messages WHERE topic = 'refused';
-- After ROLLBACK TO the transaction goes on.
BEGIN;
SELECT outbox.emit('refused', 'k', 'kept') IS NOT NULL AS emitted;
SAVEPOINT s;
SELECT outbox.emit('refused', 'k', 'p', '[]');
ROLLBACK TO s;
SELECT outbox.emit('refused', 'k', 'kept too') IS NOT NULL AS emitted;
COMMIT;
SELECT convert_from(payload, 'UTF8') AS payload FROM outbox.messages WHERE topic = 'refused' ORDER BY position;
DROP FUNCTION refusal(text);
