-- Whose rights an attachment has. Nothing is sent: the relay is switched off.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox CASCADE;
CREATE EXTENSION outbox;
DROP ROLE IF EXISTS attach_owner, attach_writer, attach_other, attach_member, attach_super;
RESET client_min_messages;
CREATE ROLE attach_owner;
CREATE ROLE attach_member IN ROLE attach_owner;
CREATE ROLE attach_writer;
CREATE ROLE attach_other;
CREATE ROLE attach_super SUPERUSER;
CREATE SCHEMA owned AUTHORIZATION attach_owner;
GRANT USAGE ON SCHEMA owned TO PUBLIC;
CREATE FUNCTION buffered(OUT topic text, OUT key text, OUT payload text) RETURNS SETOF record LANGUAGE sql
    SECURITY DEFINER AS $$
    SELECT topic, encode(key, 'escape'), encode(payload, 'escape') FROM outbox.uncommitted() ORDER BY ordinal
$$;

-- The owner has to be able to emit.
CREATE TABLE owned.thing (id integer, v text);
ALTER TABLE owned.thing OWNER TO attach_owner;
GRANT INSERT ON owned.thing TO attach_writer;
SELECT outbox.attach('owned.thing', 'things.one');
SET ROLE attach_owner;
SELECT outbox.attach('owned.thing', 'things.one');
RESET ROLE;
SELECT outbox.grant_emit('attach_owner', 'things.*');
SELECT outbox.attach('owned.thing', 'other.topic');
SELECT outbox.attach('owned.thing', 'things.one');
SELECT outbox.detach('owned.thing');

-- Only who owns the table may attach it; nobody can make the trigger by hand.
GRANT ALL ON owned.thing TO attach_other;
SELECT outbox.grant_emit('attach_other');
SET ROLE attach_other;
SELECT outbox.attach('owned.thing', 'things.one');
CREATE TRIGGER mine AFTER INSERT ON owned.thing FOR EACH ROW EXECUTE FUNCTION outbox.attached('x', 'superuser');
SET ROLE attach_member;
SELECT outbox.attach('owned.thing', $$'things.' || NEW.v$$, payload => 'current_user || NEW.id');
SELECT owner FROM outbox.attachments;
RESET ROLE;
SELECT owner FROM outbox.attachments;
SET ROLE attach_other;
SELECT outbox.detach('owned.thing');
SELECT * FROM outbox.preview(ROW (1, 'x')::owned.thing);

-- Who writes rows needs no right but that; expressions run as the owner, and may reach the owner's topics.
SET ROLE attach_writer;
BEGIN;
INSERT INTO owned.thing VALUES (1, 'one');
SELECT * FROM buffered();
SELECT current_user;
ROLLBACK;
INSERT INTO owned.thing VALUES (1, 'bad topic');
SELECT current_user;
RESET ROLE;
SELECT outbox.revoke_emit('attach_owner');
SET ROLE attach_writer;
INSERT INTO owned.thing VALUES (1, 'one');
RESET ROLE;
SELECT outbox.grant_emit('attach_owner', 'things.one');
SET ROLE attach_writer;
BEGIN;
INSERT INTO owned.thing VALUES (1, 'one');
SELECT * FROM buffered();
ROLLBACK;
INSERT INTO owned.thing VALUES (1, 'two');
RESET ROLE;
SELECT outbox.detach('owned.thing');

-- Who makes a partition of an attached table needs no right but to the table; his partition's rows are messages, too.
CREATE TABLE owned.parts (id integer, v text) PARTITION BY LIST (id);
ALTER TABLE owned.parts OWNER TO attach_owner;
SET ROLE attach_owner;
SELECT outbox.attach('owned.parts', 'things.one', payload => 'upper(NEW.v)');
CREATE TABLE owned.part_1 PARTITION OF owned.parts FOR VALUES IN (1);
CREATE TRIGGER mine AFTER INSERT ON owned.thing FOR EACH ROW EXECUTE FUNCTION outbox.attached('owned.parts.outbox', 'role');
RESET ROLE;
BEGIN;
INSERT INTO owned.parts VALUES (1, 'part');
SELECT * FROM buffered();
ROLLBACK;
DROP TABLE owned.parts;

-- Expressions belong to the row that uses them: neither an error, a savepoint nor another table's attachment gets hold of them.
CREATE TABLE owned.other (id integer, v text);
ALTER TABLE owned.other OWNER TO attach_other;
SELECT outbox.attach('owned.thing', 'things.one', payload => 'upper(NEW.v) || current_user');
SELECT outbox.attach('owned.other', 'other', payload => 'lower(NEW.v) || current_user');
BEGIN;
SAVEPOINT s;
INSERT INTO owned.thing VALUES (1, 'one ');
ROLLBACK TO s;
INSERT INTO owned.other VALUES (1, 'OTHER ');
INSERT INTO owned.thing VALUES (1, 'two ');
SAVEPOINT t;
INSERT INTO owned.other VALUES (1, 'OTHER AGAIN ');
RELEASE t;
INSERT INTO owned.other VALUES (1, 'OTHER THIRD ');
SELECT payload FROM buffered();
ROLLBACK;
-- Not even a million savepoints, or failures, or rows that write rows, keep memory.
CREATE FUNCTION owned.again(id integer, v text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF id > 0 THEN
        INSERT INTO owned.thing VALUES (id - 1, v);
    END IF;
    RETURN v;
END
$$;
ALTER FUNCTION owned.again(integer, text) OWNER TO attach_owner;
SELECT outbox.detach('owned.thing');
SELECT outbox.attach('owned.thing', 'things.one', payload => 'owned.again(NEW.id, NEW.v) || 1 / (NEW.id - 3)');
DO $$
DECLARE
    before bigint;
    kept   bigint;
    failed integer := 0;
BEGIN
    FOR i IN 1..2000 LOOP
        IF i = 1000 THEN
            SELECT sum(total_bytes) INTO before FROM pg_backend_memory_contexts WHERE name LIKE 'outbox expressions%';
        END IF;
        BEGIN
            INSERT INTO owned.other VALUES (i, 'x');
            INSERT INTO owned.thing VALUES (2, 'x');
        EXCEPTION WHEN division_by_zero THEN
            failed := failed + 1;
        END;
        BEGIN
            INSERT INTO owned.other VALUES (i, 'y');
            INSERT INTO owned.thing VALUES (3, 'y');
        EXCEPTION WHEN division_by_zero THEN
            failed := failed + 1;
        END;
    END LOOP;
    SELECT sum(total_bytes) INTO kept FROM pg_backend_memory_contexts WHERE name LIKE 'outbox expressions%';
    RAISE NOTICE '% failed, memory grew: %', failed, kept > before;
    RAISE EXCEPTION 'enough';
END
$$;
SELECT outbox.detach('owned.thing');
-- A declaration counts for its own table, whatever either of them is called later.
SELECT outbox.attach('owned.thing', 'things.one', payload => 'upper(NEW.v)');
GRANT CREATE ON SCHEMA owned TO attach_other;
SET ROLE attach_other;
SELECT outbox.detach('owned.other');
SELECT outbox.attach('owned.other', 'other', payload => 'lower(NEW.v)');
ALTER VIEW outbox."owned.other.outbox" SET SCHEMA owned;
ALTER TABLE owned.other RENAME TO mine;
RESET ROLE;
CREATE TABLE owned.other (id integer, v text);
SELECT outbox.attach('owned.other', 'secret', payload => $$'secret' || NEW.v$$);
INSERT INTO owned.mine VALUES (1, 'x');
DROP TABLE owned.other;
INSERT INTO owned.mine VALUES (1, 'x');
SELECT outbox.detach('owned.mine');
DROP TABLE owned.mine CASCADE;
-- Whoever owns a declaration can change it: it is a message's all the same, or nothing.
SELECT outbox.detach('owned.thing');
SELECT outbox.attach('owned.thing', 'things.one', payload => 'row_to_json(event)');
SET ROLE attach_owner;
SELECT outbox.attach('owned.thing', 'things.one', payload => 'upper(NEW.v)');
CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO outbox."owned.thing.outbox" DO INSTEAD
    SELECT 'things.one'::text AS topic, event.j AS payload FROM ONLY owned.thing n, ONLY owned.thing o, (SELECT '{}'::text AS t, 'x'::text AS j) AS event WHERE false;
RESET ROLE;
INSERT INTO owned.thing VALUES (1, 'x');
SELECT outbox.detach('owned.thing');
-- A cast of the owner's runs with the owner's names, too.
CREATE TYPE owned.mood AS ENUM ('good');
ALTER TYPE owned.mood OWNER TO attach_owner;
ALTER TABLE owned.thing ADD COLUMN m owned.mood;
CREATE FUNCTION owned.mood_json(owned.mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN to_json(current_setting('search_path') || ' ' || current_user);
END
$$;
CREATE CAST (owned.mood AS json) WITH FUNCTION owned.mood_json(owned.mood);
SELECT outbox.attach('owned.thing', 'things.one');
SET search_path = owned, public;
BEGIN;
INSERT INTO thing VALUES (1, 'x', 'good');
SELECT payload FROM buffered();
ROLLBACK;
RESET search_path;
SELECT outbox.detach('owned.thing');
DROP CAST (owned.mood AS json);
DROP FUNCTION owned.mood_json(owned.mood);
ALTER TABLE owned.thing DROP COLUMN m;

-- A superuser who writes the row lends nobody anything; names mean what they mean everywhere.
SET ROLE attach_owner;
CREATE FUNCTION owned.spy(v text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN format('%s %s %s', current_user, current_setting('search_path'), v);
END
$$;
SELECT outbox.attach('owned.thing', 'things.one', payload => 'owned.spy(NEW.v)');
RESET ROLE;
SET search_path = owned, public;
BEGIN;
INSERT INTO owned.thing VALUES (1, 'one');
SELECT * FROM buffered();
SHOW search_path;
ROLLBACK;
RESET search_path;
-- Not even the way out that a role could be set in the function.
CREATE OR REPLACE FUNCTION owned.spy(v text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET ROLE attach_super;
    RETURN v;
END
$$;
INSERT INTO owned.thing VALUES (1, 'one');
SELECT current_user = session_user AS same;
-- Event triggers, which run as the superuser that attach() is for its commands, find nothing that the caller has planted.
CREATE FUNCTION public.looking() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% finds %', tg_tag, current_setting('search_path');
END
$$;
CREATE EVENT TRIGGER attach_looking ON ddl_command_end WHEN TAG IN ('CREATE VIEW', 'CREATE TRIGGER') EXECUTE FUNCTION public.looking();
SET ROLE attach_owner;
SET search_path = owned, public;
SELECT outbox.attach('thing', 'things.one', payload => 'spy(NEW.v)', name => 'third');
SELECT declaration FROM (SELECT pg_get_viewdef('outbox."owned.thing.third"'::regclass) AS declaration) AS d;
SELECT outbox.detach('thing', 'third');
RESET search_path;
RESET ROLE;
DROP EVENT TRIGGER attach_looking;
DROP FUNCTION public.looking();
-- What the owner may not call is known at once.
CREATE FUNCTION public.secret(v text) RETURNS text LANGUAGE sql AS 'SELECT v';
REVOKE ALL ON FUNCTION public.secret(text) FROM PUBLIC;
SELECT outbox.attach('owned.thing', 'things.one', payload => 'public.secret(NEW.v)', name => 'second');
SELECT outbox.detach('owned.thing');

-- A table that comes to belong to another role does not take the attachment along, least of all to a superuser.
SET ROLE attach_owner;
CREATE OR REPLACE FUNCTION owned.spy(v text) RETURNS text LANGUAGE sql AS 'SELECT current_user || v';
RESET ROLE;
SELECT outbox.attach('owned.thing', 'things.one', payload => 'owned.spy(NEW.v)');
BEGIN;
ALTER TABLE owned.thing OWNER TO attach_super;
INSERT INTO owned.thing VALUES (1, ' still');
ROLLBACK;
BEGIN;
GRANT CREATE ON SCHEMA outbox TO attach_super;
REASSIGN OWNED BY attach_owner TO attach_super;
INSERT INTO owned.thing VALUES (1, 'no');
ROLLBACK;
BEGIN;
INSERT INTO owned.thing VALUES (1, ' first');
ALTER VIEW outbox."owned.thing.outbox" OWNER TO attach_super;
INSERT INTO owned.thing VALUES (1, 'no');
ROLLBACK;
BEGIN;
ALTER ROLE attach_owner SUPERUSER;
INSERT INTO owned.thing VALUES (1, 'no');
ROLLBACK;
SELECT outbox.detach('owned.thing');
-- One that a superuser's table was given is meant.
BEGIN;
ALTER TABLE owned.thing OWNER TO attach_super;
SELECT outbox.attach('owned.thing', 'things.one', payload => 'current_user || NEW.v');
SET LOCAL ROLE attach_writer;
INSERT INTO owned.thing VALUES (1, ' meant');
SELECT payload FROM buffered();
ROLLBACK;

-- A default of the owner's is not computed with the rights of who attaches.
CREATE FUNCTION owned.planned() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE NOTICE 'planned as %', current_user;
    RETURN current_user;
END
$$;
ALTER FUNCTION owned.planned() OWNER TO attach_owner;
CREATE TABLE owned.event (id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text, type text DEFAULT owned.planned(), payload text);
ALTER TABLE owned.event OWNER TO attach_owner;
SELECT outbox.attach_debezium('owned.event', '{"table.fields.additional.placement": "type:header"}');
DROP TABLE owned.event;

-- Bound to topics and attached by columns only: the owner's topics count just the same.
SELECT outbox.attach('owned.thing', topic => 'v', payload => 'id');
SET ROLE attach_writer;
INSERT INTO owned.thing VALUES (1, 'elsewhere');
RESET ROLE;

DROP SCHEMA owned CASCADE;
DROP FUNCTION public.secret(text);
DROP FUNCTION buffered();
SELECT outbox.revoke_emit('attach_owner', 'things.one');
SELECT outbox.revoke_emit('attach_other');
DROP EXTENSION outbox;
DROP ROLE attach_owner, attach_member, attach_writer, attach_other, attach_super;
