-- A message is stored if, and only if, the transaction that emitted it commits.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

-- What is in the log under a topic, in its order.
CREATE FUNCTION stored(of_topic text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT convert_from(payload, 'UTF8') FROM outbox.messages WHERE topic = of_topic ORDER BY position
$$;
-- What this transaction has buffered.
CREATE FUNCTION buffered() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT convert_from(payload, 'UTF8') FROM outbox.uncommitted() ORDER BY ordinal
$$;
-- Emits, without a result to look at.
CREATE PROCEDURE say(topic text, payload text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.emit(topic, 'k', payload);
END
$$;

-- One statement, one transaction.
CALL say('autocommit', '1');
CALL say('autocommit', '2');
SELECT stored('autocommit');

-- A rollback leaves nothing: no row, no position taken, and the next transaction begins with nothing.
SELECT last_value AS last_position FROM outbox.message_position \gset
BEGIN;
CALL say('rolled-back', '1');
SELECT count(*) FROM buffered();
ROLLBACK;
SELECT count(*) FROM buffered();
BEGIN;
CALL say('rolled-back', '2');
SELECT 1 / 0;
COMMIT;
SELECT stored('rolled-back');
SELECT last_value = :last_position AS no_position_taken FROM outbox.message_position;

-- A transaction's messages stand together, in the order in which it emitted them.
BEGIN;
SELECT count(outbox.emit('order', n, n::text)) FROM generate_series(1, 500) AS n;
COMMIT;
SELECT count(*), bool_and(payload_number = n) AS in_order, max(position) - min(position) AS positions_between
FROM (SELECT position, convert_from(payload, 'UTF8')::int AS payload_number, row_number() OVER (ORDER BY position) AS n
      FROM outbox.messages WHERE topic = 'order') AS s;
-- Its time is the time of the commit, not of the call.
BEGIN;
CALL say('time', 'p');
SELECT pg_sleep(0.05);
SELECT clock_timestamp() AS before_commit \gset
COMMIT;
SELECT time >= :'before_commit' AS after_sleep FROM outbox.messages WHERE topic = 'time';

-- The session's last value of a sequence is that of the application's own.
CREATE SEQUENCE of_the_application START 4711;
SELECT nextval('of_the_application');
CALL say('sequences', 'p');
SELECT lastval();
DROP SEQUENCE of_the_application;

-- Savepoints.
BEGIN;
CALL say('savepoints', '1 kept');
SAVEPOINT a;
CALL say('savepoints', '2 gone');
SAVEPOINT b;
CALL say('savepoints', '3 gone');
RELEASE b;
CALL say('savepoints', '4 gone');
SELECT buffered();
ROLLBACK TO a;
SELECT buffered();
CALL say('savepoints', '5 kept');
SAVEPOINT c;
CALL say('savepoints', '6 kept');
SAVEPOINT d;
CALL say('savepoints', '7 gone');
ROLLBACK TO d;
CALL say('savepoints', '8 kept');
RELEASE c;
SAVEPOINT e;
ROLLBACK TO e;
SAVEPOINT e;
CALL say('savepoints', '9 gone');
ROLLBACK TO e;
ROLLBACK TO e;
CALL say('savepoints', '10 kept');
SELECT buffered();
COMMIT;
SELECT stored('savepoints');
-- Everything emitted was in a subtransaction that was undone.
BEGIN;
SAVEPOINT a;
CALL say('all-undone', '1');
ROLLBACK TO a;
COMMIT;
SELECT stored('all-undone');
-- The first message of all is emitted deep down, and its savepoints are released upwards.
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
CALL say('deep', '1');
RELEASE c;
RELEASE b;
CALL say('deep', '2');
ROLLBACK TO a;
CALL say('deep', '3');
RELEASE a;
COMMIT;
SELECT stored('deep');
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
CALL say('deep-released', '1');
RELEASE b;
RELEASE a;
COMMIT;
SELECT stored('deep-released');

-- Exception blocks.
BEGIN;
DO $$
BEGIN
    CALL say('exceptions', '1 kept');
    BEGIN
        CALL say('exceptions', '2 gone');
        BEGIN
            CALL say('exceptions', '3 gone');
        END;
        RAISE EXCEPTION 'undo';
    EXCEPTION WHEN raise_exception THEN
        CALL say('exceptions', '4 kept');
    END;
    BEGIN
        CALL say('exceptions', '5 kept');
        BEGIN
            CALL say('exceptions', '6 gone');
            PERFORM 1 / 0;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    CALL say('exceptions', '7 kept');
END
$$;
COMMIT;
SELECT stored('exceptions');

-- 10,000 subtransactions, every second one undone, and messages outside of them in between.
DO $$
BEGIN
    FOR n IN 1 .. 10000 LOOP
        BEGIN
            CALL say('subtransactions', n::text);
            IF n % 2 = 0 THEN
                RAISE EXCEPTION 'undo';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
        IF n % 1000 = 0 THEN
            CALL say('subtransactions', n::text);
        END IF;
    END LOOP;
END
$$;
SELECT count(*), count(*) FILTER (WHERE number % 2 = 0) AS outside, bool_and(number > previous) AS in_order
FROM (SELECT number, lag(number, 1, 0) OVER (ORDER BY position) AS previous
      FROM (SELECT position, convert_from(payload, 'UTF8')::int AS number
            FROM outbox.messages WHERE topic = 'subtransactions') AS m) AS s;
-- 300 nested ones, undone up to the middle.
DO $$
BEGIN
    CREATE FUNCTION nest(depth int) RETURNS void LANGUAGE plpgsql AS $f$
    BEGIN
        BEGIN
            CALL say('nested', depth::text);
            IF depth < 300 THEN
                PERFORM nest(depth + 1);
            ELSE
                RAISE EXCEPTION 'undo';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            IF depth > 150 THEN
                RAISE;
            END IF;
        END;
    END
    $f$;
    PERFORM nest(1);
END
$$;
SELECT count(*), max(stored::int) FROM stored('nested') AS stored;
DROP FUNCTION nest(int);

-- Triggers: before, after, of a statement, and constraint triggers deferred to the commit.
CREATE TABLE line (id int PRIMARY KEY, amount int);
CREATE FUNCTION line_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.emit('triggers', NULL, concat_ws(' ', TG_WHEN, TG_LEVEL, TG_OP, NEW.id, TG_ARGV[0]));
    RETURN NEW;
END
$$;
CREATE TRIGGER a BEFORE INSERT ON line FOR EACH ROW EXECUTE FUNCTION line_changed();
CREATE TRIGGER b AFTER INSERT ON line FOR EACH ROW EXECUTE FUNCTION line_changed();
CREATE TRIGGER c AFTER INSERT ON line FOR EACH STATEMENT EXECUTE FUNCTION line_changed();
CREATE CONSTRAINT TRIGGER d AFTER INSERT ON line DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION line_changed('deferred');
BEGIN;
INSERT INTO line VALUES (1, 10), (2, 20);
CALL say('triggers', 'last statement');
SELECT buffered();
COMMIT;
SELECT stored('triggers');
-- A deferred trigger that fails takes everything with it.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.emit('refused-by-trigger', NULL, 'in the trigger');
    RAISE EXCEPTION 'refused at commit';
END
$$;
CREATE CONSTRAINT TRIGGER e AFTER UPDATE ON line DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse();
BEGIN;
CALL say('refused-by-trigger', 'before');
UPDATE line SET amount = 11 WHERE id = 1;
COMMIT;
SELECT stored('refused-by-trigger');
-- The only message of the transaction comes from a deferred trigger, of a chain of them.
CREATE FUNCTION next_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.emit('chain', NEW.id, NEW.id::text);
    IF NEW.id < 103 THEN
        INSERT INTO line VALUES (NEW.id + 1, 0);
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER f AFTER INSERT ON line DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.id > 100) EXECUTE FUNCTION next_line();
INSERT INTO line VALUES (101, 0);
SELECT stored('chain');
-- COPY fires triggers too.
COPY line FROM stdin;
201	1
202	2
\.
SELECT stored FROM stored('triggers') AS stored WHERE stored LIKE '% 20_%' ORDER BY stored COLLATE "C";
DROP TABLE line;
DROP FUNCTION line_changed(), refuse(), next_line();

-- A cursor WITH HOLD is run to its end at the commit. (Without NO SCROLL the server would run it from its
-- beginning, as it does with every volatile function.)
BEGIN;
DECLARE held NO SCROLL CURSOR WITH HOLD FOR
    SELECT n, outbox.emit('held', n, n::text) IS NOT NULL AS emitted FROM generate_series(1, 3) AS n;
FETCH 1 FROM held;
SELECT buffered();
COMMIT;
SELECT stored('held');
FETCH ALL FROM held;
CLOSE held;
SELECT stored('held');

-- A procedure with transactions of its own.
CREATE PROCEDURE batches() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. 6 LOOP
        CALL say('batches', n::text);
        IF n % 3 = 0 THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
    END LOOP;
END
$$;
CALL batches();
SELECT stored('batches');
DROP PROCEDURE batches();

-- COMMIT AND CHAIN, and transactions of every isolation level.
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL say('chained', 'repeatable read');
COMMIT AND CHAIN;
CALL say('chained', 'repeatable read again');
ROLLBACK AND CHAIN;
CALL say('chained', 'third');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL say('chained', 'serializable');
COMMIT;
SELECT stored('chained');

-- A statement that emits from a big table; more than memory takes spills to disk.
SET work_mem = '64kB';
CREATE TABLE big_table AS
    SELECT n AS id, md5(n::text) || repeat('x', 200) AS body FROM generate_series(1, 30000) AS n;
CREATE TABLE copied (id int, message uuid);
BEGIN;
INSERT INTO copied SELECT id, outbox.emit('big-table', id, body) FROM big_table ORDER BY id;
SELECT count(*), bool_and(b.body = convert_from(u.payload, 'UTF8')) AS intact
FROM outbox.uncommitted() AS u JOIN copied AS c ON c.message = u.id JOIN big_table AS b ON b.id = c.id
WHERE u.ordinal = c.id;
-- Undone and done again on top of what had been spilled.
SAVEPOINT s;
SELECT count(outbox.emit('big-table', id, 'gone ' || body)) FROM big_table;
ROLLBACK TO s;
SELECT outbox.emit('big-table', 0, 'the last one') IS NOT NULL AS emitted;
SELECT count(*) FROM outbox.uncommitted();
COMMIT;
SELECT count(*), bool_and(b.body = convert_from(m.payload, 'UTF8')) AS intact,
       bool_and(m.number = c.id) AS in_order
FROM (SELECT *, row_number() OVER (ORDER BY position) AS number FROM outbox.messages WHERE topic = 'big-table') AS m
     JOIN copied AS c ON c.message = m.id JOIN big_table AS b ON b.id = c.id;
SELECT stored('big-table') OFFSET 30000;
DROP TABLE big_table, copied;
-- One message larger than the memory, between small ones.
BEGIN;
CALL say('one-big', 'small');
SELECT outbox.emit('one-big', NULL, repeat('x', 1000000)) IS NOT NULL AS emitted;
CALL say('one-big', 'small');
COMMIT;
SELECT length(stored) FROM stored('one-big') AS stored;
RESET work_mem;

-- Values that are compressed or out of line in the table they come from.
CREATE TABLE toasted (n int, body text, raw bytea);
ALTER TABLE toasted ALTER raw SET STORAGE EXTERNAL;
INSERT INTO toasted VALUES (1, repeat('compressible ', 20000), decode(repeat('00ff', 50000), 'hex'));
BEGIN;
SELECT count(outbox.emit('toasted', n, body)) FROM toasted;
SELECT count(outbox.emit('toasted', raw, raw)) FROM toasted;
COMMIT;
SELECT m.payload = convert_to(t.body, 'UTF8') OR m.payload = t.raw AS payload_intact, length(m.key) AS key_length
FROM outbox.messages AS m, toasted AS t WHERE m.topic = 'toasted' ORDER BY m.position;
DROP TABLE toasted;

-- A transaction with other work to do at its commit.
BEGIN;
CREATE TEMPORARY TABLE passing (id int) ON COMMIT DROP;
CALL say('passing', 'kept');
COMMIT;
SELECT stored('passing');
DROP PROCEDURE say(text, text);
DROP FUNCTION stored(text), buffered();
