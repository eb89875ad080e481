-- PREPARE TRANSACTION: stored when prepared, visible when, and only when, it is committed as prepared.
-- On a server without prepared transactions there is nothing to test.
SELECT current_setting('max_prepared_transactions')::int = 0 AS none \gset
\if :none
    \quit
\endif
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

CREATE FUNCTION stored(of_topic text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT convert_from(payload, 'UTF8') FROM outbox.messages WHERE topic = of_topic ORDER BY position
$$;

BEGIN;
SELECT outbox.emit('prepared', 'k', 'committed later') IS NOT NULL AS emitted;
PREPARE TRANSACTION 'outbox_regress_1';
SELECT stored('prepared');
-- The session goes on with nothing left over.
SELECT count(*) FROM outbox.uncommitted();
BEGIN;
SELECT outbox.emit('prepared', 'k', 'another transaction') IS NOT NULL AS emitted;
COMMIT;
SELECT stored('prepared');
COMMIT PREPARED 'outbox_regress_1';
SELECT stored('prepared');

BEGIN;
SELECT outbox.emit('prepared-gone', 'k', 'p') IS NOT NULL AS emitted;
PREPARE TRANSACTION 'outbox_regress_2';
ROLLBACK PREPARED 'outbox_regress_2';
SELECT stored('prepared-gone');

-- What a savepoint undid before stays undone.
BEGIN;
SELECT outbox.emit('prepared-savepoint', 'k', 'kept') IS NOT NULL AS emitted;
SAVEPOINT s;
SELECT outbox.emit('prepared-savepoint', 'k', 'gone') IS NOT NULL AS emitted;
ROLLBACK TO s;
PREPARE TRANSACTION 'outbox_regress_3';
COMMIT PREPARED 'outbox_regress_3';
SELECT stored('prepared-savepoint');

-- A PREPARE that fails leaves nothing.
BEGIN;
CREATE TEMPORARY TABLE prevents_prepare (id int);
SELECT outbox.emit('prepared-failed', 'k', 'p') IS NOT NULL AS emitted;
PREPARE TRANSACTION 'outbox_regress_4';
SELECT stored('prepared-failed');
SELECT count(*) FROM outbox.uncommitted();

-- Many messages, and a read of the whole log while they are prepared.
BEGIN;
SELECT count(outbox.emit('prepared-many', n, n::text)) FROM generate_series(1, 5000) AS n;
PREPARE TRANSACTION 'outbox_regress_5';
SELECT count(*) FROM outbox.messages WHERE topic = 'prepared-many';
COMMIT PREPARED 'outbox_regress_5';
SELECT count(*) FROM outbox.messages WHERE topic = 'prepared-many';
DROP FUNCTION stored(text);
