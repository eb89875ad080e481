-- emit() as the test-suite of an application would test it: call the code, look at uncommitted(), roll back.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS outbox;
SELECT plan(29);

CREATE SCHEMA shop;
CREATE TABLE shop.purchase_order (id bigint PRIMARY KEY, customer text NOT NULL);
CREATE FUNCTION shop.text_of(bytes bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    -- Of the default collation, which the literals to compare with have too.
    RETURN convert_from(bytes, 'UTF8');
END
$$;
CREATE FUNCTION shop.place_order(order_id bigint, customer text) RETURNS uuid LANGUAGE sql AS $$
    INSERT INTO shop.purchase_order VALUES (order_id, customer);
    SELECT outbox.emit('orders', order_id, jsonb_build_object('customer', customer), '{"type": "OrderPlaced"}');
$$;

SELECT is_empty('SELECT * FROM outbox.uncommitted()', 'a transaction begins with nothing');
SELECT isnt(shop.place_order(17, 'Ada'), NULL, 'placing an order returns the id of its message');
SELECT results_eq(
    $$SELECT topic, shop.text_of(key), shop.text_of(payload)::jsonb, headers, partition
      FROM outbox.uncommitted()$$,
    $$VALUES ('orders', '17', '{"customer": "Ada"}'::jsonb, '{"type": "OrderPlaced"}'::jsonb, NULL::integer)$$,
    'and it emits one message');
SELECT results_eq(
    $$SELECT outbox.emit('orders', 17, NULL)$$, $$SELECT id FROM outbox.uncommitted() WHERE ordinal = 2$$,
    'a tombstone, under the id that emit() returned');
SELECT results_eq(
    'SELECT ordinal, payload IS NULL FROM outbox.uncommitted()', 'VALUES (1::bigint, false), (2, true)',
    'messages come in the order in which they were emitted');
SELECT is_empty($$SELECT * FROM outbox.messages WHERE topic = 'orders'$$, 'nothing is in the log before the commit');

SAVEPOINT before_more;
SELECT lives_ok($$SELECT outbox.emit('orders', 18, 'p')$$, 'emitted after a savepoint');
SELECT is((SELECT count(*)::int FROM outbox.uncommitted()), 3, 'and listed');
ROLLBACK TO before_more;
SELECT is((SELECT count(*)::int FROM outbox.uncommitted()), 2, 'and gone with ROLLBACK TO');

SELECT throws_ok($$SELECT shop.place_order(17, 'again')$$, '23505', NULL, 'a duplicate order fails');
SELECT throws_ok($$DO 'BEGIN PERFORM outbox.emit(''orders'', 1, NULL); RAISE EXCEPTION ''no''; END'$$, 'P0001', 'no',
    'a message before an error');
SELECT is((SELECT count(*)::int FROM outbox.uncommitted()), 2, 'leaves nothing behind');

-- Refusals.
SELECT throws_ok($$SELECT outbox.emit(NULL, 'k', 'p')$$, '22004', NULL, 'no topic');
SELECT throws_ok($$SELECT outbox.emit('', 'k', 'p')$$, '22023', NULL, 'empty topic');
SELECT throws_ok($$SELECT outbox.emit('a topic', 'k', 'p')$$, '22023', NULL, 'illegal topic');
SELECT throws_ok($$SELECT outbox.emit('..', 'k', 'p')$$, '22023', NULL, 'reserved topic');
SELECT throws_ok($$SELECT outbox.emit(repeat('x', 250), 'k', 'p')$$, '22023', NULL, 'over-long topic');
SELECT throws_ok($$SELECT outbox.emit('t', 'k', 'p', '[1]')$$, '22023', NULL, 'headers that are a list');
SELECT throws_ok($$SELECT outbox.emit('t', 'k', 'p', '{"id": "x"}')$$, '22023', NULL, 'a header called id');
SELECT throws_ok($$SELECT outbox.emit('t', 'k', 'p', NULL, -1)$$, '22023', NULL, 'negative partition');
SELECT throws_ok($$SELECT outbox.emit('t', 'k', repeat('x', 1100000))$$, '54000', NULL, 'too large a message');
SELECT is((SELECT count(*)::int FROM outbox.uncommitted()), 2, 'a refused message is not in the transaction');

-- What comes back is what went in.
CREATE TEMPORARY TABLE every_byte AS
    SELECT decode(string_agg(lpad(to_hex(n), 2, '0'), '' ORDER BY n), 'hex') AS bytes FROM generate_series(0, 255) AS n;
SELECT outbox.emit('bytes', bytes, bytes) FROM every_byte;
SELECT results_eq(
    $$SELECT key, payload FROM outbox.uncommitted() WHERE topic = 'bytes'$$, 'SELECT bytes, bytes FROM every_byte',
    'all 256 byte values in key and payload');
SELECT outbox.emit('empty', '', '');
SELECT results_eq(
    $$SELECT key, payload FROM outbox.uncommitted() WHERE topic = 'empty'$$, $$VALUES ('\x'::bytea, '\x'::bytea)$$,
    'empty is not NULL');
SELECT outbox.emit('null', NULL, NULL);
SELECT results_eq(
    $$SELECT key, payload, headers FROM outbox.uncommitted() WHERE topic = 'null'$$,
    'VALUES (NULL::bytea, NULL::bytea, NULL::jsonb)', 'NULL is NULL');
SELECT outbox.emit('types', key => '{00000000-0000-4000-8000-00000000ABCD}'::uuid, payload => '{"b":1, "a":"x"}'::json);
SELECT results_eq(
    $$SELECT shop.text_of(key), shop.text_of(payload) FROM outbox.uncommitted() WHERE topic = 'types'$$,
    $$VALUES ('00000000-0000-4000-8000-00000000abcd', '{"b":1, "a":"x"}')$$,
    'a uuid is its canonical text, json stays as it was written');
SELECT outbox.emit('types-jsonb', key => (-5)::bigint, payload => '{"b":1, "a":"x"}'::jsonb);
SELECT results_eq(
    $$SELECT shop.text_of(key), shop.text_of(payload) FROM outbox.uncommitted() WHERE topic = 'types-jsonb'$$,
    $$VALUES ('-5', '{"a": "x", "b": 1}')$$, 'a bigint is its decimal text, jsonb as the server prints it');
SELECT is((SELECT array_agg(ordinal) FROM outbox.uncommitted()), '{1,2,3,4,5,6,7}', 'ordinals count from one without gaps');
SELECT is((SELECT count(DISTINCT id)::int FROM outbox.uncommitted()), 7, 'ids are distinct');

SELECT * FROM finish();
ROLLBACK;
