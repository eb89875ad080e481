-- emit(): its sixteen overloads and every way to call them. Nothing is sent: the relay is switched off.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

-- What emit() has buffered, readable. Bytes that are not ASCII show as octal numbers.
CREATE FUNCTION buffered(OUT topic text, OUT key text, OUT payload text, OUT headers jsonb, OUT partition integer)
    RETURNS SETOF record LANGUAGE sql AS $$
    SELECT topic, encode(key, 'escape'), encode(payload, 'escape'), headers, partition
    FROM outbox.uncommitted() ORDER BY ordinal
$$;

-- Every combination of types, with five arguments.
BEGIN;
DO $$
DECLARE
    key_type text;
    payload_type text;
    keys constant jsonb := '{"text": "k", "bytea": "\\x6b00ff", "bigint": "-42",
                             "uuid": "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}';
    payloads constant jsonb := '{"text": " t\u00e4xt ", "json": "{\"b\":1,  \"a\":[ ]}",
                                 "jsonb": "{\"b\":1,  \"a\":[ ]}", "bytea": "\\x00ff62"}';
BEGIN
    FOREACH key_type IN ARRAY ARRAY['text', 'bytea', 'bigint', 'uuid'] LOOP
        FOREACH payload_type IN ARRAY ARRAY['text', 'json', 'jsonb', 'bytea'] LOOP
            EXECUTE format('SELECT outbox.emit(%L, CAST(%L AS %s), CAST(%L AS %s), %L, %s)',
                           key_type || '.' || payload_type, keys ->> key_type, key_type,
                           payloads ->> payload_type, payload_type, '{"n": "v"}', 7);
        END LOOP;
    END LOOP;
END
$$;
SELECT * FROM buffered();
ROLLBACK;

-- Literals without a type, NULLs in any place, defaults.
BEGIN;
SELECT outbox.emit('literals', 'k', 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('literals', 'k', '') IS NOT NULL AS emitted;
SELECT outbox.emit('literals', '', 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('literals', NULL, 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('literals', 'k', NULL) IS NOT NULL AS emitted;
SELECT outbox.emit('literals', NULL, NULL) IS NOT NULL AS emitted;
SELECT outbox.emit('literals', NULL, NULL, NULL, NULL) IS NOT NULL AS emitted;
SELECT outbox.emit('literals', 'k', 'p', NULL, 0) IS NOT NULL AS emitted;
SELECT outbox.emit('literals', 'k', 'p', '{}') IS NOT NULL AS emitted;
SELECT outbox.emit('literals', 1, 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('literals', 2::smallint, NULL) IS NOT NULL AS emitted;
SELECT outbox.emit('literals', -9223372036854775808, 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('literals', NULL::bigint, '{"a": 1}'::jsonb) IS NOT NULL AS emitted;
SELECT outbox.emit('literals', NULL::uuid, NULL::bytea) IS NOT NULL AS emitted;
SELECT outbox.emit('literals', NULL::bytea, NULL::json) IS NOT NULL AS emitted;
SELECT key, key IS NULL AS no_key, payload, payload IS NULL AS tombstone, headers, partition FROM buffered();
ROLLBACK;

-- Named arguments, in any order.
BEGIN;
SELECT outbox.emit(topic => 'named', key => 'k', payload => 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('named', payload => 'p', key => 7) IS NOT NULL AS emitted;
SELECT outbox.emit('named', 'k', 'p', partition => 3) IS NOT NULL AS emitted;
SELECT outbox.emit(partition => 4, headers => '{"n": "v"}', payload => '{"a": 1}'::jsonb, key => NULL,
                   topic => 'named') IS NOT NULL AS emitted;
SELECT * FROM buffered();
ROLLBACK;

-- Typed columns, domains, rows as JSON; emit() in every clause that takes an expression.
CREATE DOMAIN sku AS text CHECK (VALUE <> '');
CREATE TABLE purchase (
    id integer PRIMARY KEY, code varchar(10), padded char(4), tag name, item sku, ref uuid, body jsonb, raw bytea
);
INSERT INTO purchase VALUES
    (1, 'c1', 'p1', 'n1', 's1', '00000000-0000-4000-8000-000000000001', '{"z": 1, "a": 2}', '\x01'),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
BEGIN;
SELECT count(outbox.emit('columns', o.id, to_jsonb(o))) FROM purchase AS o;
SELECT count(outbox.emit('columns', o.id, row_to_json(o))) FROM purchase AS o;
SELECT count(outbox.emit('columns', code, body)) FROM purchase;
SELECT count(outbox.emit('columns', padded, raw)) FROM purchase;
SELECT count(outbox.emit('columns', tag, 'p')) FROM purchase;
SELECT count(outbox.emit('columns', item, 'p')) FROM purchase;
SELECT count(outbox.emit('columns', ref, 'p')) FROM purchase;
SELECT count(outbox.emit(code, ref, 'topic from a column')) FROM purchase WHERE code IS NOT NULL;
SELECT * FROM buffered();
ROLLBACK;

BEGIN;
INSERT INTO purchase (id, body) VALUES (3, '[]') RETURNING outbox.emit('clauses', id, body) IS NOT NULL AS emitted;
UPDATE purchase SET code = 'new' WHERE id = 3 RETURNING outbox.emit('clauses', id, code) IS NOT NULL AS emitted;
WITH gone AS (DELETE FROM purchase WHERE id = 3 RETURNING id)
SELECT outbox.emit('clauses', id, NULL) IS NOT NULL AS emitted FROM gone;
SELECT 1 AS one WHERE outbox.emit('clauses', 'where', 'p') IS NOT NULL;
SELECT n FROM generate_series(1, 2) AS n, LATERAL outbox.emit('clauses', n, 'lateral') AS id ORDER BY n;
CREATE TEMPORARY TABLE ids AS SELECT outbox.emit('clauses', n, 'create table as') AS id FROM generate_series(1, 2) AS n;
SELECT count(*) AS ids_match FROM ids JOIN outbox.uncommitted() USING (id);
SELECT * FROM buffered();
ROLLBACK;
DROP TABLE purchase;
DROP DOMAIN sku;

-- Prepared statements: parameters without a type become text, as a driver's do.
BEGIN;
PREPARE untyped AS SELECT outbox.emit($1, $2, $3) IS NOT NULL AS emitted;
EXECUTE untyped ('prepared', 'k', 'p');
EXECUTE untyped ('prepared', NULL, NULL);
PREPARE untyped_all AS SELECT outbox.emit($1, $2, $3, $4, $5) IS NOT NULL AS emitted;
EXECUTE untyped_all ('prepared', 'k', 'p', '{"n": 1}', 2);
PREPARE partly_typed (text, bigint) AS SELECT outbox.emit($1, $2, $3::jsonb) IS NOT NULL AS emitted;
EXECUTE partly_typed ('prepared', 5, '{"a":1}');
PREPARE typed (text, uuid, bytea, jsonb, integer) AS SELECT outbox.emit($1, $2, $3, $4, $5) IS NOT NULL AS emitted;
EXECUTE typed ('prepared', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\x00', NULL, NULL);
SELECT name, parameter_types FROM pg_prepared_statements WHERE name ~ 'typed' ORDER BY name;
DO $$
BEGIN
    EXECUTE 'SELECT outbox.emit($1, $2, $3)' USING 'prepared', 'using', 'p';
END
$$;
-- More executions than it takes to switch to a generic plan.
SELECT outbox.emit('generic', n::text, 'p') IS NOT NULL AS emitted FROM generate_series(1, 2) AS n;
EXECUTE untyped ('generic', '3', 'p');
EXECUTE untyped ('generic', '4', 'p');
EXECUTE untyped ('generic', '5', 'p');
EXECUTE untyped ('generic', '6', 'p');
EXECUTE untyped ('generic', '7', 'p');
EXECUTE untyped ('generic', '8', 'p');
SELECT * FROM buffered();
ROLLBACK;
DEALLOCATE ALL;

-- No overload: an error of the server's, when the statement is parsed.
SELECT outbox.emit('t', 1.5, 'p');
SELECT outbox.emit('t', 'k', 1);
SELECT outbox.emit('t');

-- The id is a version 7 UUID, made now, and distinct for each message.
BEGIN;
CREATE TEMPORARY TABLE ids AS
    SELECT n, outbox.emit('ids', n, 'p') AS id FROM generate_series(1, 1000) AS n;
SELECT count(*) AS messages, count(DISTINCT id) AS distinct_ids,
       bool_and(substr(id::text, 15, 1) = '7' AND substr(id::text, 20, 1) IN ('8', '9', 'a', 'b')) AS version_7,
       bool_and(abs(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint
                    - extract(epoch FROM clock_timestamp()) * 1000) < 60000) AS made_now
FROM ids;
SELECT bool_and(u.id = ids.id AND u.ordinal = ids.n) AS same_order
FROM ids JOIN outbox.uncommitted() AS u ON u.ordinal = ids.n;
COMMIT;
SELECT count(*) AS stored_under_that_id FROM ids JOIN outbox.messages USING (id) WHERE topic = 'ids';
SELECT count(DISTINCT id) = count(*) AS ascending
FROM (SELECT id, lag(id) OVER (ORDER BY n) AS previous FROM ids) AS s WHERE previous IS NULL OR id > previous;

-- uncommitted() shows this transaction's own messages only, and nothing outside of one.
SELECT count(*) FROM outbox.uncommitted();
BEGIN;
SELECT outbox.emit('own', 'k', convert_to('Grüße', 'UTF8')) IS NOT NULL AS emitted;
SELECT ordinal, topic, convert_from(key, 'UTF8') AS key, convert_from(payload, 'UTF8') AS payload, headers, partition
FROM outbox.uncommitted();
SELECT count(*) AS in_the_log FROM outbox.messages WHERE topic = 'own';
COMMIT;
SELECT count(*) FROM outbox.uncommitted();
SELECT count(*) AS in_the_log FROM outbox.messages WHERE topic = 'own';
DROP TABLE ids;
DROP FUNCTION buffered();
