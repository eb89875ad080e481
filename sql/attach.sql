-- attach(), detach(), preview(): rows as messages. Nothing is sent: the relay is switched off.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox CASCADE;
CREATE EXTENSION outbox;
RESET client_min_messages;
\set VERBOSITY default
\set SHOW_CONTEXT errors

-- What was emitted since the last look, readable.
CREATE FUNCTION buffered(OUT topic text, OUT key text, OUT payload text, OUT headers jsonb, OUT partition integer)
    RETURNS SETOF record LANGUAGE sql AS $$
    SELECT topic, encode(key, 'escape'), encode(payload, 'escape'), headers, partition
    FROM outbox.uncommitted() ORDER BY ordinal
$$;

-- A topic is enough: the primary key is the key, the row the payload.
CREATE TABLE orders (id bigint PRIMARY KEY, customer text, total numeric(10, 2), at timestamptz, note varchar(20));
SELECT outbox.attach('orders', 'shop.orders');
BEGIN;
INSERT INTO orders VALUES (1, 'Ann', 12.50, '2026-01-02 03:04:05+00', 'n'), (2, NULL, NULL, NULL, NULL);
SELECT * FROM buffered();
ROLLBACK;
SELECT "table", name, events, enabled, owner = current_user::regrole AS owner FROM outbox.attachments;
SELECT declaration FROM outbox.attachments;
SELECT outbox.detach('orders');
SELECT count(*) FROM outbox.attachments;
SELECT count(*) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relname LIKE '%orders%';
BEGIN;
INSERT INTO orders VALUES (1);
SELECT * FROM buffered();
ROLLBACK;

-- Every part a column, every part an expression, and what a part may be of.
CREATE TABLE box (topic text, key uuid, payload bytea, headers jsonb, partition integer, wanted boolean, extra text);
SELECT outbox.attach('box', topic => 'topic', key => 'key', payload => 'payload', headers => 'headers', partition => 'partition',
                     "when" => 'wanted');
BEGIN;
INSERT INTO box VALUES ('a', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '\x00ff', '{"h": 1}', 3, true),
                       ('b', NULL, NULL, NULL, NULL, true), ('c', NULL, 'x', NULL, NULL, false), ('d', NULL, 'x', NULL, NULL, NULL);
SELECT * FROM buffered();
ROLLBACK;
SELECT outbox.detach('box', 'outbox');
SELECT outbox.attach('box', topic => $$'t.' || lower(NEW.topic)$$, key => 'left(NEW.key::text, 8)',
                     payload => 'jsonb_build_object(''event'', TG_OP, ''extra'', NEW.extra)',
                     headers => $$jsonb_build_object('type', NEW.extra)$$, partition => 'NEW.partition % 2', "when" => 'NEW.extra IS NOT NULL');
BEGIN;
INSERT INTO box VALUES ('A', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', NULL, NULL, 3, NULL, 'x'), ('B', NULL, NULL, NULL, NULL, NULL, NULL);
SELECT * FROM buffered();
ROLLBACK;
SELECT declaration FROM outbox.attachments;
SELECT outbox.detach('box');

-- Types of keys.
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE types (i2 smallint, i4 integer, i8 bigint, n numeric, f8 float8, b boolean, t text, v varchar, c char(3), nm name, e mood, d positive,
                    j json, jb jsonb, dt date, ts timestamp, tz timestamptz, a integer[], nt inet);
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT attname FROM pg_attribute WHERE attrelid = 'types'::regclass AND attnum > 0 ORDER BY attnum LOOP
        PERFORM outbox.attach('types', 'topic.' || name, key => name, payload => name, name => name);
    END LOOP;
END
$$;
SET DateStyle = 'German, DMY';
SET TimeZone = 'Asia/Tokyo';
BEGIN;
INSERT INTO types VALUES (-1, 2, 3, 4.50, 0.1, true, 't', 'v', 'c', 'n', 'sad', 7, '{"a" :1}', '{"a" :1}', '2026-01-02', '2026-01-02 03:04:05.678',
                          '2026-01-02 03:04:05.678+00', '{1,2}', '10.0.0.1');
SELECT topic, key, key = payload AS same FROM buffered() ORDER BY topic;
ROLLBACK;
RESET DateStyle;
RESET TimeZone;
SELECT outbox.detach('types');

-- Events. The row of a column, of the primary key and of the payload is the one that there is.
CREATE TABLE item (a integer, b text, c integer, "Mixed 100%s" text, PRIMARY KEY (a, b));
SELECT outbox.attach('item', 'item', events => '{insert, UPDATE, delete}',
                     headers => $$jsonb_build_object('op', TG_OP, 'was', OLD.c, 'is', NEW.c)$$);
SELECT outbox.attach('item', 'item.gone', key => 'Mixed 100%s', payload => 'OLD.c', events => '{delete}', name => 'gone',
                     "when" => 'OLD.c > 1');
SELECT name, events FROM outbox.attachments ORDER BY name;
BEGIN;
INSERT INTO item VALUES (1, 'x', 1, 'm'), (2, 'y', 2, 'm');
UPDATE item SET c = c + 1 WHERE a = 1;
DELETE FROM item;
SELECT * FROM buffered();
ROLLBACK;
SELECT outbox.detach('item', 'gone');
SELECT name FROM outbox.attachments;
SELECT outbox.detach('item');
-- Whatever its columns are called.
CREATE TABLE percent ("50%s" integer, "%%s" integer, "%1$s" integer, PRIMARY KEY ("50%s", "%%s", "%1$s"));
SELECT outbox.attach('percent', 'percent', payload => $$'x'$$, events => '{insert,delete}');
BEGIN;
INSERT INTO percent VALUES (1, 2, 3);
DELETE FROM percent;
SELECT key FROM buffered();
ROLLBACK;
DROP TABLE percent;

-- However rows come.
CREATE TABLE plain (id integer PRIMARY KEY, v text);
SELECT outbox.attach('plain', 'plain', payload => $$TG_OP || ' ' || NEW.v$$, events => '{insert,update}');
BEGIN;
INSERT INTO plain SELECT n, 'select' FROM generate_series(1, 2) AS n;
COPY plain FROM stdin;
3	copy
\.
INSERT INTO plain VALUES (3, 'upsert'), (4, 'upsert') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO plain VALUES (4, 'nothing') ON CONFLICT DO NOTHING;
MERGE INTO plain AS p USING (VALUES (4), (5)) AS s (id) ON p.id = s.id
    WHEN MATCHED THEN UPDATE SET v = 'merge' WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merge');
WITH w AS (INSERT INTO plain VALUES (6, 'with') RETURNING id) SELECT * FROM w;
SELECT key, payload FROM buffered();
ROLLBACK;
-- Not while a trigger does not fire.
BEGIN;
SET LOCAL session_replication_role = replica;
INSERT INTO plain VALUES (1, 'replica');
SET LOCAL session_replication_role = origin;
ALTER TABLE plain DISABLE TRIGGER outbox;
INSERT INTO plain VALUES (2, 'disabled');
SELECT enabled FROM outbox.attachments;
ALTER TABLE plain ENABLE ALWAYS TRIGGER outbox;
SET LOCAL session_replication_role = replica;
INSERT INTO plain VALUES (3, 'always');
SELECT enabled FROM outbox.attachments;
SELECT key, payload FROM buffered();
ROLLBACK;
-- Savepoints, and exceptions, between two rows of one attachment.
BEGIN;
INSERT INTO plain VALUES (1, 'kept');
SAVEPOINT s;
INSERT INTO plain VALUES (2, 'undone');
ROLLBACK TO s;
INSERT INTO plain VALUES (3, 'kept');
DO $$
BEGIN
    FOR i IN 4..7 LOOP
        BEGIN
            INSERT INTO plain VALUES (i, 'loop');
            IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
END
$$;
SELECT key, payload FROM buffered();
ROLLBACK;

-- Partitions whose columns stand in another order; rows that move.
CREATE TABLE log (id integer NOT NULL, region text NOT NULL, v text) PARTITION BY LIST (region);
CREATE TABLE log_eu (v text, gone integer, region text NOT NULL, id integer NOT NULL);
ALTER TABLE log_eu DROP COLUMN gone;
ALTER TABLE log ATTACH PARTITION log_eu FOR VALUES IN ('eu');
SELECT outbox.attach('log', $$'log.' || NEW.region$$, key => 'id', payload => 'NEW.v', headers => $$to_jsonb(NEW) - 'id'$$, events => '{insert,update}');
SELECT outbox.attach('log', 'log.deleted', key => 'id', events => '{delete}', name => 'deleted');
CREATE TABLE log_us (v text, id integer NOT NULL, region text NOT NULL);
ALTER TABLE log ATTACH PARTITION log_us FOR VALUES IN ('us');
SELECT "table", name FROM outbox.attachments ORDER BY name;
BEGIN;
INSERT INTO log VALUES (1, 'eu', 'one'), (2, 'us', 'two');
INSERT INTO log_us (id, region, v) VALUES (3, 'us', 'three');
UPDATE log SET v = 'uno' WHERE id = 1;
UPDATE log SET region = 'us' WHERE id = 1;
SELECT * FROM buffered();
ROLLBACK;
SELECT outbox.detach('log_us');
SELECT outbox.detach('log');

-- Names change, columns come; what is used cannot go.
CREATE SCHEMA "My Schema";
CREATE TABLE "My Schema"."It's" (id integer PRIMARY KEY, "Größe" text, unused text);
SELECT outbox.attach('"My Schema"."It''s"', 'quoted', payload => 'Größe', headers => $$jsonb_build_object('id', NEW.id) - 'id'$$);
BEGIN;
INSERT INTO "My Schema"."It's" VALUES (1, 'L', 'u');
ALTER TABLE "My Schema"."It's" RENAME COLUMN "Größe" TO size;
ALTER TABLE "My Schema"."It's" DROP COLUMN unused, ADD COLUMN more text DEFAULT 'm', ADD COLUMN serial uuid DEFAULT gen_random_uuid(),
    ALTER COLUMN id SET DEFAULT 7, ADD CHECK (id > 0);
ALTER TABLE "My Schema"."It's" RENAME TO its;
ALTER SCHEMA "My Schema" RENAME TO ours;
INSERT INTO ours.its VALUES (2, 'XL');
SELECT * FROM buffered();
SELECT "table", declaration FROM outbox.attachments WHERE "table" = 'ours.its'::regclass;
SAVEPOINT s;
ALTER TABLE ours.its DROP COLUMN size;
ROLLBACK TO s;
ALTER TABLE ours.its ALTER COLUMN size TYPE varchar(10);
ROLLBACK TO s;
DROP VIEW outbox."My Schema.It's.outbox";
ROLLBACK TO s;
-- A table of the old name can be attached, too.
CREATE SCHEMA "My Schema";
CREATE TABLE "My Schema"."It's" (id integer);
SELECT outbox.attach('"My Schema"."It''s"', 'again');
SELECT relname FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relname LIKE 'My%' ORDER BY 1;
-- The table goes as any other, and takes the declaration along.
DROP TABLE ours.its;
SELECT relname FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relname LIKE 'My%' ORDER BY 1;
ROLLBACK;
-- DROP TRIGGER leaves the declaration behind, which is in nobody's way.
BEGIN;
DROP TRIGGER outbox ON "My Schema"."It's";
SELECT outbox.attach('"My Schema"."It''s"', 'again');
INSERT INTO "My Schema"."It's" VALUES (1);
SELECT topic FROM buffered();
ROLLBACK;

-- A function that an expression calls changes; one that writes to the same table.
CREATE FUNCTION greeting(who text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'hello ' || who $$;
CREATE TABLE greeted (id integer PRIMARY KEY, who text);
SELECT outbox.attach('greeted', 'greeted', payload => 'greeting(NEW.who)');
BEGIN;
INSERT INTO greeted VALUES (1, 'a');
CREATE OR REPLACE FUNCTION greeting(who text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'bye ' || who $$;
INSERT INTO greeted VALUES (2, 'b');
CREATE OR REPLACE FUNCTION greeting(who text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF length(who) < 3 THEN
        INSERT INTO public.greeted VALUES (10 * length(who) + 3, who || '+');
    END IF;
    RETURN 'again ' || who;
END
$$;
INSERT INTO greeted VALUES (3, 'c'), (4, 'long');
SELECT key, payload FROM buffered();
ROLLBACK;

-- What is not valid is refused when it is declared, and leaves nothing behind.
CREATE TABLE bad (id integer, t text, j json, h text, ok boolean, big bigint);
CREATE VIEW seen AS SELECT * FROM bad;
SELECT outbox.attach(NULL, 't');
SELECT outbox.attach('bad', NULL);
SELECT outbox.attach('bad', 't', events => NULL);
SELECT outbox.attach('bad', 't', events => '{}');
SELECT outbox.attach('bad', 't', events => '{insert, truncate}');
SELECT outbox.attach('bad', 't', name => NULL);
SELECT outbox.attach('seen', 't');
CREATE TEMPORARY TABLE passing (id integer);
SELECT outbox.attach('passing', 't');
DROP TABLE passing;
SELECT outbox.attach('outbox.segment_1', 't');
SELECT outbox.attach('bad', '');
SELECT outbox.attach('bad', 'no topic');
SELECT outbox.attach('bad', '''no topic''');
SELECT outbox.attach('bad', 't', key => 'nosuch');
SELECT outbox.attach('bad', 't', key => 'NEW.nosuch');
SELECT outbox.attach('bad', 't', key => 'nosuch(NEW.id)');
SELECT outbox.attach('bad', 't', key => 'NEW.id +');
SELECT outbox.attach('bad', 't', key => 'NEW.id, NEW.t');
SELECT outbox.attach('bad', 't', key => 'NEW.id AS topic');
SELECT outbox.attach('bad', 't', key => 'NEW.id FROM bad');
SELECT outbox.attach('bad', 't', key => 'NEW.id); DROP TABLE bad; SELECT (1');
SELECT outbox.attach('bad', 't', key => 'NEW.id /*');
SELECT outbox.attach('bad', 't', key => '(SELECT max(id) FROM bad)');
SELECT outbox.attach('bad', 't', key => 'max(NEW.id)');
SELECT outbox.attach('bad', 't', key => 'row_number() OVER ()');
SELECT outbox.attach('bad', 't', key => 'generate_series(1, NEW.id)');
SELECT outbox.attach('bad', 't', key => '$1.id');
SELECT outbox.attach('bad', 't', key => 'NEW.*');
SELECT outbox.attach('bad', 't', key => 'OLD.id || TG_OP || NEW.ctid::text');
SELECT outbox.attach('bad', 't', key => 'id || t');
SELECT outbox.attach('bad', 't', partition => 'NEW.t');
SELECT outbox.attach('bad', 't', "when" => 'NEW.id');
SELECT outbox.attach('bad', 't', headers => 'h');
SELECT outbox.attach('bad', 't', key => 'NEW.id -- a comment ends with its line');
SELECT outbox.attach('bad', 't');
SELECT outbox.detach('bad');
SELECT outbox.detach('bad');
SELECT outbox.detach('greeted', 'nosuch');
SELECT count(*) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relname LIKE '%.bad.%';

-- What only a row shows fails the statement that writes it.
SELECT outbox.attach('bad', topic => 't', headers => 'NEW.h::jsonb', partition => 'big');
INSERT INTO bad (t) VALUES (NULL);
INSERT INTO bad (t) VALUES ('no topic');
INSERT INTO bad (t, h) VALUES ('t', '[]');
INSERT INTO bad (t, h) VALUES ('t', 'no json');
INSERT INTO bad (t, big) VALUES ('t', -1);
INSERT INTO bad (t, big) VALUES ('t', 3000000000);
SELECT count(*) FROM bad;
SELECT outbox.detach('bad');

-- A look at what would be.
SELECT outbox.attach('bad', topic => 't', key => 'id', payload => 'j', "when" => 'NEW.ok', events => '{insert,update}');
SELECT outbox.attach('bad', 'gone', key => 'id', payload => 'NULL', events => '{delete}', name => 'gone');
INSERT INTO bad VALUES (1, 'shown', '{"a": 1}', NULL, false);
SELECT p.* FROM bad AS b, outbox.preview(b, partitions => 6) AS p;
UPDATE bad SET ok = true;
SELECT attachment, topic, partition, encode(key, 'escape') AS key, encode(payload, 'escape') AS payload, size FROM bad AS b, outbox.preview(b, partitions => 6);
SELECT attachment, topic FROM bad AS b, outbox.preview(b, b);
SELECT attachment, topic, payload FROM bad AS b, outbox.preview(NULL::bad, b);
SELECT count(*) FROM outbox.preview(NULL::bad);
SELECT topic, encode(key, 'escape') AS key FROM outbox.preview(ROW (7, 'made', NULL, NULL, true, NULL)::bad);
SELECT * FROM outbox.preview(ROW (7, 'no topic', NULL, NULL, true, NULL)::bad);
SELECT * FROM outbox.preview(ROW (7, 'made'));
SELECT * FROM bad AS b, outbox.preview(b, partitions => 0);
SELECT * FROM buffered();
-- Where Java puts these keys among a hundred partitions.
CREATE TABLE keyed (k text);
SELECT outbox.attach('keyed', 'keyed', key => 'k');
SELECT k, p.partition FROM unnest(ARRAY['', 'a', 'ab', 'abc', 'abcd', 'abcde', 'kafka', 'äöü', NULL]) WITH ORDINALITY AS u (k, n),
    LATERAL outbox.preview(ROW (k)::keyed, partitions => 100) AS p ORDER BY n;
DROP VIEW seen;
DROP TABLE orders, box, types, item, plain, log, "My Schema"."It's", greeted, bad, keyed;
DROP SCHEMA "My Schema";
SELECT count(*) FROM outbox.attachments;
SELECT relname FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'v' ORDER BY 1;

DROP FUNCTION greeting(text);
DROP FUNCTION buffered();
DROP TYPE mood;
DROP DOMAIN positive;
DROP EXTENSION outbox;
