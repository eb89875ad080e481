-- The extension as an object: comments, CREATE and DROP, and both inside of transactions.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

-- Everything is described. Nothing may show here.
SELECT pg_describe_object(d.classid, d.objid, 0) AS undescribed
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'outbox' AND d.deptype = 'e' AND d.classid <> 'pg_type'::regclass
  AND coalesce(obj_description(d.objid, d.classid::regclass::name), '') = ''
UNION ALL
SELECT pg_describe_object('pg_class'::regclass, c.oid, a.attnum)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind = 'v' AND coalesce(col_description(c.oid, a.attnum), '') = ''
UNION ALL
SELECT 'schema outbox' WHERE obj_description('outbox'::regnamespace, 'pg_namespace') IS NULL
UNION ALL
SELECT 'extension outbox' FROM pg_extension WHERE extname = 'outbox' AND obj_description(oid, 'pg_extension') IS NULL;
-- Everything in the schema belongs to the extension, and nothing of it is elsewhere.
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'v', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e');
-- Storage never needs vacuum, and is logged.
SELECT relname, relpersistence, reloptions FROM pg_class
WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r' ORDER BY relname;

-- It cannot be moved, nor installed twice.
ALTER EXTENSION outbox SET SCHEMA public;
CREATE EXTENSION outbox;

-- DROP and CREATE.
DROP EXTENSION outbox;
SELECT outbox.emit('t', 'k', 'p');
SELECT to_regnamespace('outbox') AS left_over;
CREATE EXTENSION outbox;
SELECT outbox.emit('again', 'k', 'p') IS NOT NULL AS emitted;
SELECT count(*) FROM outbox.messages;

-- In transactions, rolled back and not.
BEGIN;
DROP EXTENSION outbox;
ROLLBACK;
SELECT outbox.emit('again', 'k', 'p') IS NOT NULL AS emitted;
SELECT count(*) FROM outbox.messages;
BEGIN;
DROP EXTENSION outbox;
CREATE EXTENSION outbox;
SELECT outbox.emit('new', 'k', 'p') IS NOT NULL AS emitted;
SELECT count(*) FROM outbox.uncommitted();
COMMIT;
SELECT topic FROM outbox.messages ORDER BY position;
BEGIN;
DROP EXTENSION outbox;
CREATE EXTENSION outbox;
SELECT outbox.emit('never', 'k', 'p') IS NOT NULL AS emitted;
ROLLBACK;
SELECT topic FROM outbox.messages ORDER BY position;
DROP EXTENSION outbox;
BEGIN;
CREATE EXTENSION outbox;
SELECT outbox.emit('never', 'k', 'p') IS NOT NULL AS emitted;
ROLLBACK;
SELECT count(*) FROM pg_extension WHERE extname = 'outbox';
BEGIN;
CREATE EXTENSION outbox;
SELECT outbox.emit('first', 'k', 'p') IS NOT NULL AS emitted;
COMMIT;
SELECT topic FROM outbox.messages ORDER BY position;

-- A message that was emitted has nowhere to go once its transaction drops the extension: an error, and the
-- transaction is undone as a whole.
BEGIN;
SELECT outbox.emit('homeless', 'k', 'p') IS NOT NULL AS emitted;
DROP EXTENSION outbox;
COMMIT;
SELECT topic FROM outbox.messages ORDER BY position;
-- ... unless there is a new one by then.
BEGIN;
SELECT outbox.emit('moved', 'k', 'p') IS NOT NULL AS emitted;
DROP EXTENSION outbox;
CREATE EXTENSION outbox;
COMMIT;
SELECT topic FROM outbox.messages ORDER BY position;
-- What a savepoint undoes does not matter.
BEGIN;
SELECT outbox.emit('kept', 'k', 'p') IS NOT NULL AS emitted;
SAVEPOINT s;
DROP EXTENSION outbox;
ROLLBACK TO s;
COMMIT;
SELECT topic FROM outbox.messages ORDER BY position;
-- A session that used the functions before finds the new ones.
PREPARE again AS SELECT outbox.emit('prepared', 'k', 'p') IS NOT NULL AS emitted;
EXECUTE again;
DROP EXTENSION outbox;
EXECUTE again;
CREATE EXTENSION outbox;
EXECUTE again;
SELECT topic FROM outbox.messages ORDER BY position;
DEALLOCATE again;
