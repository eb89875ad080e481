-- Who may emit to which topics: EXECUTE on emit(), patterns of topics, and what takes them away.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE ROLE regress_outbox_any;
CREATE ROLE regress_outbox_some;
CREATE ROLE regress_outbox_member IN ROLE regress_outbox_some;
CREATE ROLE regress_outbox_choosing NOINHERIT IN ROLE regress_outbox_some;
CREATE ROLE regress_outbox_none;

-- Whether a role may emit to a topic: yes, or what it is told.
CREATE FUNCTION attempt(role name, topic text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    PERFORM outbox.emit(topic, 'k', 'p');
    RESET ROLE;
    RETURN 'yes';
EXCEPTION WHEN insufficient_privilege THEN
    RETURN SQLERRM;
END
$$;
CREATE FUNCTION attempts(VARIADIC topics text[], OUT role text, OUT topic text, OUT may text) RETURNS SETOF record
    LANGUAGE sql AS $$
    SELECT r.role, t.topic, attempt(('regress_outbox_' || r.role)::name, t.topic)
    FROM unnest(ARRAY['any', 'some', 'member', 'choosing', 'none']) WITH ORDINALITY AS r (role, number),
         unnest(topics) WITH ORDINALITY AS t (topic, number)
    ORDER BY t.number, r.number
$$;

-- Before any grant nobody may, at all.
SELECT * FROM attempts('orders.eu');
SELECT outbox.grant_emit('regress_outbox_any');
SELECT outbox.grant_emit('regress_outbox_some', 'orders.*');
-- Members may what their role may, as with any privilege; one that does not inherit has to become that role.
SELECT * FROM attempts('orders.eu', 'invoices');
BEGIN;
SET LOCAL SESSION AUTHORIZATION regress_outbox_choosing;
SAVEPOINT s;
SELECT outbox.emit('orders.eu', 'k', 'p');
ROLLBACK TO s;
SET LOCAL ROLE regress_outbox_some;
SELECT outbox.emit('orders.eu', 'k', 'p') IS NOT NULL AS emitted;
ROLLBACK;
-- What it is told: SQLSTATE, detail, hint.
SET ROLE regress_outbox_some;
DO $$
DECLARE
    state text; message text; detail text; hint text;
BEGIN
    PERFORM outbox.emit('invoices', 'k', 'p');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state := RETURNED_SQLSTATE, message := MESSAGE_TEXT, detail := PG_EXCEPTION_DETAIL, hint := PG_EXCEPTION_HINT;
    RAISE WARNING '%: % / % / %', state, message, detail, hint;
END
$$;
-- Every overload is bound; the rest of what it may do is what any emitter may, and it reads no grants.
SELECT outbox.emit('orders.1', 1, '{}'::jsonb) IS NOT NULL AS emitted;
SELECT outbox.emit('orders.1', NULL::uuid, '\x'::bytea) IS NOT NULL AS emitted;
SELECT outbox.emit('other', 1, '{}'::jsonb);
SELECT outbox.emit('other', NULL::uuid, '\x'::bytea);
SELECT outbox.emit('other', '\x'::bytea, '{}'::json);
SELECT count(*) FROM outbox.uncommitted();
SELECT count(*) FROM outbox.emit_grant;
INSERT INTO outbox.emit_grant VALUES ('regress_outbox_some', '*');
UPDATE outbox.emit_grant SET topic_pattern = '*';
DELETE FROM outbox.emit_grant;
SELECT outbox.grant_emit('regress_outbox_some', '*');
SELECT outbox.revoke_emit('regress_outbox_any');
CREATE TEMPORARY TABLE shadow (pattern outbox.topic_pattern);
DROP TABLE shadow;
-- A topic that is none is that first.
SELECT outbox.emit('not a topic', 'k', 'p');
RESET ROLE;

-- One transaction: what was allowed is sent, the refusal undone with its savepoint.
BEGIN;
SET LOCAL ROLE regress_outbox_some;
SELECT outbox.emit('orders.one', 'k', 'p') IS NOT NULL AS emitted;
SAVEPOINT s;
SELECT outbox.emit('secrets', 'k', 'p');
ROLLBACK TO s;
SELECT outbox.emit('orders.two', 'k', 'p') IS NOT NULL AS emitted;
COMMIT;
SELECT topic FROM outbox.messages WHERE topic IN ('orders.one', 'orders.two', 'secrets') ORDER BY position;

-- Patterns: "*" is any run of characters, none too; everything else is itself, case too.
SELECT outbox.revoke_emit('regress_outbox_some', 'orders.*');
CREATE FUNCTION matches(pattern text, VARIADIC topics text[], OUT topic text, OUT may boolean) RETURNS SETOF record
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.grant_emit('regress_outbox_some', pattern);
    RETURN QUERY SELECT t, attempt('regress_outbox_some', t) = 'yes' FROM unnest(topics) AS t;
    PERFORM outbox.revoke_emit('regress_outbox_some', pattern);
END
$$;
SELECT * FROM matches('a.b_c-d', 'a.b_c-d', 'axb_c-d', 'a.bxc-d', 'A.b_c-d', 'a.b_c-d.', 'a.b_c-', 'xa.b_c-d');
SELECT * FROM matches('orders.*', 'orders.', 'orders.a', 'orders.a.b', 'orders', 'ordersXa', 'Orders.a', 'my.orders.a');
SELECT * FROM matches('*.dlq', '.dlq', 'a.dlq', 'a.dlq.dlq', 'a.dlq.x', 'dlq', 'a.dlqdlq');
SELECT * FROM matches('a*b*c', 'abc', 'aXbYc', 'aabbcc', 'abcabc', 'acb', 'abcX', 'ab', 'ac');
SELECT * FROM matches('**', 'a', 'whatever');
SELECT * FROM matches('a**', 'a', 'ab', 'b');
SELECT * FROM matches('*a', 'a', 'ba', 'aab', 'aaa');
SELECT * FROM matches(repeat('t', 249), repeat('t', 249), repeat('t', 248)) AS m (topic, may) WHERE may;
SELECT may, count(*) FROM matches(repeat('a*', 124), repeat('a', 249), repeat('a', 123), repeat('a', 248) || 'b', 'b' || repeat('a', 248)) GROUP BY 1 ORDER BY 1;
-- The topic before is remembered as a whole.
SELECT outbox.grant_emit('regress_outbox_some', 'abc');
SELECT attempt('regress_outbox_some', t) FROM unnest(ARRAY['abc', 'abc', 'ab', 'abcd', 'abd', 'abc']) AS t;

-- No patterns.
SELECT outbox.grant_emit('regress_outbox_some', '');
SELECT outbox.grant_emit('regress_outbox_some', NULL);
SELECT outbox.grant_emit('regress_outbox_some', 'a b');
SELECT outbox.grant_emit('regress_outbox_some', 'orders%');
SELECT outbox.grant_emit('regress_outbox_some', E'orders\n');
SELECT outbox.grant_emit('regress_outbox_some', 'größe');
SELECT outbox.grant_emit('regress_outbox_some', repeat('t', 250));
INSERT INTO outbox.emit_grant VALUES ('regress_outbox_some', 'orders%');
-- No roles.
SELECT outbox.grant_emit('regress_outbox_nobody', 'a');
SELECT outbox.grant_emit(NULL, 'a');
SELECT outbox.grant_emit(NULL);
SELECT outbox.grant_emit('-', 'a');
SELECT outbox.grant_emit('-');
SELECT outbox.grant_emit(4294967295::oid::regrole, 'a');
SELECT outbox.revoke_emit(NULL);
SELECT outbox.revoke_emit('-');
SELECT outbox.revoke_emit('-', 'a');

-- Twice is once; several add up; one is taken back; with the last one goes everything.
SELECT outbox.grant_emit('regress_outbox_some', 'abc');
SELECT outbox.grant_emit('regress_outbox_some', 'def');
SELECT * FROM outbox.emit_grant;
SELECT outbox.revoke_emit('regress_outbox_some', 'ab*');
SELECT outbox.revoke_emit('regress_outbox_some', 'abc');
SELECT attempt('regress_outbox_some', t) FROM unnest(ARRAY['abc', 'def']) AS t;
SELECT outbox.revoke_emit('regress_outbox_some', 'def');
SELECT attempt('regress_outbox_some', 'def');
SELECT count(*) FROM outbox.emit_grant;
SELECT outbox.revoke_emit('regress_outbox_some');
SELECT outbox.revoke_emit('regress_outbox_some', 'def');

-- A grant never takes anything away: whom every topic was granted is not bound by accident. The other way round it
-- gets what it was granted, and the topics that have no meaning any more are gone.
SELECT outbox.grant_emit('regress_outbox_any', 'orders.*');
SELECT outbox.revoke_emit('regress_outbox_any', 'orders.*');
SELECT attempt('regress_outbox_any', 'invoices');
SELECT outbox.grant_emit('regress_outbox_some', 'orders.*');
SELECT outbox.grant_emit('regress_outbox_some');
SELECT attempt('regress_outbox_some', 'invoices'), (SELECT count(*) FROM outbox.emit_grant);
SELECT outbox.revoke_emit('regress_outbox_some');
SELECT outbox.revoke_emit('regress_outbox_any');
SELECT * FROM attempts('orders.eu');
-- What they leave behind: nothing.
SELECT count(*) FROM pg_shdepend WHERE refobjid = 'regress_outbox_any'::regrole;
DROP ROLE regress_outbox_any;
CREATE ROLE regress_outbox_any;
-- A plain GRANT is enough, on one overload too.
GRANT USAGE ON SCHEMA outbox TO regress_outbox_any;
GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, jsonb, integer) TO regress_outbox_any;
SELECT attempt('regress_outbox_any', 'invoices');
SELECT outbox.grant_emit('regress_outbox_any', 'orders.*');
-- The mark alone makes the difference.
GRANT USAGE ON TYPE outbox.topic_pattern TO regress_outbox_any;
SELECT attempt('regress_outbox_any', 'invoices');
REVOKE USAGE ON TYPE outbox.topic_pattern FROM regress_outbox_any;
SELECT attempt('regress_outbox_any', 'invoices');
REVOKE EXECUTE ON FUNCTION outbox.emit(text, text, text, jsonb, integer) FROM regress_outbox_any;
SELECT attempt('regress_outbox_any', 'invoices');
-- The schema stays with whom something else in it was granted.
GRANT EXECUTE ON FUNCTION outbox.pause() TO regress_outbox_any;
SELECT outbox.grant_emit('regress_outbox_any', 'orders.*');
SELECT outbox.revoke_emit('regress_outbox_any');
SELECT has_schema_privilege('regress_outbox_any', 'outbox', 'USAGE');
REVOKE EXECUTE ON FUNCTION outbox.pause() FROM regress_outbox_any;
SELECT outbox.revoke_emit('regress_outbox_any');
SELECT has_schema_privilege('regress_outbox_any', 'outbox', 'USAGE');

-- What one may do is what all one's roles may.
SELECT outbox.grant_emit('regress_outbox_some', 'orders.*');
SELECT outbox.grant_emit('regress_outbox_any', 'invoices');
GRANT regress_outbox_any TO regress_outbox_member;
SELECT * FROM attempts('orders.eu', 'invoices', 'secrets');
SELECT outbox.grant_emit('regress_outbox_any');
SELECT * FROM attempts('orders.eu', 'secrets');
REVOKE regress_outbox_any FROM regress_outbox_member;
SELECT * FROM attempts('secrets');
SELECT outbox.revoke_emit('regress_outbox_any');
-- PUBLIC.
GRANT USAGE ON SCHEMA outbox TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO PUBLIC;
SELECT * FROM attempts('secrets');
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC;
REVOKE USAGE ON SCHEMA outbox FROM PUBLIC;
SELECT * FROM attempts('secrets');
-- Each overload is a function of its own.
GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, jsonb, integer) TO PUBLIC;
SET ROLE regress_outbox_some;
SELECT outbox.emit('secrets', 'k', 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('secrets', 1, 'p');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION outbox.emit(text, text, text, jsonb, integer) FROM PUBLIC;
-- Superusers, however they became one.
ALTER ROLE regress_outbox_some SUPERUSER;
SELECT attempt('regress_outbox_some', 'secrets');
ALTER ROLE regress_outbox_some NOSUPERUSER;
SELECT attempt('regress_outbox_some', 'secrets');

-- A SECURITY DEFINER function emits as its owner may, whoever calls it; a plain one as its caller may.
CREATE FUNCTION emit_as_owner(topic text) RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$SELECT outbox.emit(topic, 'k', 'p') IS NOT NULL$$;
CREATE FUNCTION emit_as_caller(topic text) RETURNS boolean LANGUAGE plpgsql
    AS $$BEGIN RETURN outbox.emit(topic, 'k', 'p') IS NOT NULL; END$$;
ALTER FUNCTION emit_as_owner(text) OWNER TO regress_outbox_some;
SELECT emit_as_owner('orders.eu');
SELECT emit_as_owner('secrets');
SELECT emit_as_caller('secrets');
SET ROLE regress_outbox_none;
SELECT emit_as_owner('orders.eu');
SELECT emit_as_owner('secrets');
SELECT emit_as_caller('orders.eu');
SET ROLE regress_outbox_some;
SELECT emit_as_caller('orders.eu');
SELECT emit_as_caller('secrets');
RESET ROLE;
DROP FUNCTION emit_as_owner(text);
DROP FUNCTION emit_as_caller(text);
-- Triggers, deferred ones too, and prepared statements that have been run by somebody else.
CREATE TABLE purchase (topic text);
GRANT INSERT ON purchase TO regress_outbox_some;
CREATE FUNCTION emit_purchase() RETURNS trigger LANGUAGE plpgsql
    AS $$BEGIN PERFORM outbox.emit(NEW.topic, 'k', 'p'); RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER emit AFTER INSERT ON purchase DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION emit_purchase();
PREPARE emits(text) AS SELECT outbox.emit($1, 'k', 'p') IS NOT NULL AS emitted;
EXECUTE emits('secrets');
SET ROLE regress_outbox_some;
INSERT INTO purchase VALUES ('orders.purchase');
INSERT INTO purchase VALUES ('secrets');
EXECUTE emits('orders.prepared');
EXECUTE emits('secrets');
RESET ROLE;
DEALLOCATE emits;
SELECT topic FROM outbox.messages WHERE topic IN ('orders.purchase', 'orders.prepared') ORDER BY 1;
SELECT count(*) FROM purchase;
DROP TABLE purchase;
DROP FUNCTION emit_purchase();
-- In every isolation level the rights are those of now, as with any privilege, not those of the snapshot.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT attempt('regress_outbox_some', 'orders.eu'), attempt('regress_outbox_some', 'late');
SELECT outbox.grant_emit('regress_outbox_some', 'late');
SELECT attempt('regress_outbox_some', 'orders.eu'), attempt('regress_outbox_some', 'late');
COMMIT;
SELECT outbox.revoke_emit('regress_outbox_some', 'late');

-- What is rolled back has no effect, in the session that did it too.
BEGIN;
SELECT outbox.grant_emit('regress_outbox_some', 'late');
SELECT attempt('regress_outbox_some', 'late');
ROLLBACK;
SELECT attempt('regress_outbox_some', 'late');
BEGIN;
SELECT outbox.revoke_emit('regress_outbox_some');
SELECT attempt('regress_outbox_some', 'orders.eu');
ROLLBACK;
SELECT attempt('regress_outbox_some', 'orders.eu');
BEGIN;
SAVEPOINT s;
SELECT outbox.grant_emit('regress_outbox_some', 'late');
SELECT attempt('regress_outbox_some', 'late');
ROLLBACK TO s;
SELECT attempt('regress_outbox_some', 'late');
SELECT outbox.revoke_emit('regress_outbox_some', 'orders.*');
SAVEPOINT s;
SELECT outbox.grant_emit('regress_outbox_some', 'other');
RELEASE s;
SELECT attempt('regress_outbox_some', 'orders.eu'), attempt('regress_outbox_some', 'other');
ROLLBACK;
SELECT attempt('regress_outbox_some', 'orders.eu'), attempt('regress_outbox_some', 'other');

-- A role under another name is the same role.
ALTER ROLE regress_outbox_some RENAME TO "regress_outbox Other";
SELECT attempt('regress_outbox Other', 'orders.eu'), attempt('regress_outbox Other', 'secrets');
SELECT * FROM outbox.emit_grant;
SELECT outbox.grant_emit('"regress_outbox Other"', 'more');
SELECT outbox.revoke_emit('"regress_outbox Other"', 'more');
ALTER ROLE "regress_outbox Other" RENAME TO regress_outbox_some;

-- A role that may emit is not dropped by accident; DROP OWNED takes the right away, and rows that it leaves behind
-- mean nothing: neither to a role of the same number nor when topics are granted again.
DROP ROLE regress_outbox_some;
DROP OWNED BY regress_outbox_some;
SELECT attempt('regress_outbox_some', 'orders.eu');
SELECT count(*) FROM outbox.emit_grant;
SELECT outbox.grant_emit('regress_outbox_some', 'fresh');
SELECT attempt('regress_outbox_some', 'orders.eu'), attempt('regress_outbox_some', 'fresh');
SELECT outbox.revoke_emit('regress_outbox_some');
SELECT outbox.grant_emit('regress_outbox_some', 'left');
DROP OWNED BY regress_outbox_some;
DROP ROLE regress_outbox_some;
CREATE ROLE regress_outbox_some;
SELECT outbox.grant_emit('regress_outbox_some', 'fresh');
SELECT * FROM outbox.emit_grant;

-- Rows that are lost are rights that are lost: the role stays bound.
DELETE FROM outbox.emit_grant;
SELECT attempt('regress_outbox_some', 'fresh'), attempt('regress_outbox_some', 'secrets');
INSERT INTO outbox.emit_grant VALUES ('regress_outbox_some', 'by.hand');
SELECT attempt('regress_outbox_some', 'by.hand'), attempt('regress_outbox_some', 'secrets');
UPDATE outbox.emit_grant SET topic_pattern = 'by.hand.too';
SELECT attempt('regress_outbox_some', 'by.hand'), attempt('regress_outbox_some', 'by.hand.too');
TRUNCATE outbox.emit_grant;
SELECT attempt('regress_outbox_some', 'by.hand.too');
-- A row alone gives nobody anything.
INSERT INTO outbox.emit_grant VALUES ('regress_outbox_none', '*');
SELECT attempt('regress_outbox_none', 'secrets');
GRANT USAGE ON SCHEMA outbox TO regress_outbox_none;
SELECT attempt('regress_outbox_none', 'secrets');
DELETE FROM outbox.emit_grant;
REVOKE USAGE ON SCHEMA outbox FROM regress_outbox_none;
-- Policies and rules on the table change no right; nor does another one of its name.
SELECT outbox.grant_emit('regress_outbox_some', 'fresh');
ALTER TABLE outbox.emit_grant ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE SCHEMA regress_outbox_evil;
GRANT ALL ON SCHEMA regress_outbox_evil TO PUBLIC;
CREATE TABLE regress_outbox_evil.emit_grant (grantee regrole, topic_pattern text);
INSERT INTO regress_outbox_evil.emit_grant VALUES ('regress_outbox_some', '*');
CREATE TEMPORARY TABLE emit_grant (grantee regrole, topic_pattern text);
INSERT INTO emit_grant VALUES ('regress_outbox_some', '*');
SET search_path = pg_temp, regress_outbox_evil, public;
SELECT outbox.grant_emit('regress_outbox_any', 'fresh');
SELECT outbox.revoke_emit('regress_outbox_any', 'fresh');
SELECT attempt('regress_outbox_some', 'fresh'), attempt('regress_outbox_some', 'secrets');
RESET search_path;
DROP TABLE pg_temp.emit_grant;
SET client_min_messages = warning;
DROP SCHEMA regress_outbox_evil CASCADE;
RESET client_min_messages;
ALTER TABLE outbox.emit_grant NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;

-- Who may grant: the owner. Somebody who may grant EXECUTE may give that on, and no topics; what somebody else gave
-- is not taken back unnoticed.
GRANT USAGE ON SCHEMA outbox TO regress_outbox_any WITH GRANT OPTION;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO regress_outbox_any WITH GRANT OPTION;
\set VERBOSITY terse
SET ROLE regress_outbox_any;
SELECT outbox.grant_emit('regress_outbox_none', 'orders.*');
SELECT outbox.grant_emit('regress_outbox_some');
SELECT outbox.revoke_emit('regress_outbox_some', 'fresh');
SELECT outbox.revoke_emit('regress_outbox_some');
SELECT outbox.grant_emit('regress_outbox_none');
RESET ROLE;
SELECT * FROM attempts('orders.eu', 'fresh');
SELECT outbox.revoke_emit('regress_outbox_none');
SELECT attempt('regress_outbox_none', 'fresh');
SET ROLE regress_outbox_any;
SELECT outbox.revoke_emit('regress_outbox_none');
RESET ROLE;
SELECT attempt('regress_outbox_none', 'fresh');
-- Whoever gave it on has to take it back first.
SET ROLE regress_outbox_any;
SELECT outbox.grant_emit('regress_outbox_none');
RESET ROLE;
SELECT outbox.revoke_emit('regress_outbox_any');
\set VERBOSITY default
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM regress_outbox_any CASCADE;
REVOKE ALL ON SCHEMA outbox FROM regress_outbox_any CASCADE;
SELECT * FROM attempts('fresh');

-- An owner who is no superuser emits as he likes, and so do members of that role.
CREATE ROLE regress_outbox_owner;
GRANT regress_outbox_owner TO regress_outbox_none;
ALTER SCHEMA outbox OWNER TO regress_outbox_owner;
ALTER FUNCTION outbox.emit(text, text, text, jsonb, integer) OWNER TO regress_outbox_owner;
ALTER DOMAIN outbox.topic_pattern OWNER TO regress_outbox_owner;
SELECT attempt('regress_outbox_owner', 'secrets'), attempt('regress_outbox_none', 'secrets');
SELECT outbox.grant_emit('regress_outbox_owner', 'orders.*');

RESET ROLE;
SET client_min_messages = warning;
DROP EXTENSION outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;
SELECT * FROM attempts('fresh');
DROP FUNCTION attempts(text[]);
DROP FUNCTION attempt(name, text);
DROP FUNCTION matches(text, text[]);
DROP ROLE regress_outbox_any, regress_outbox_some, regress_outbox_member, regress_outbox_choosing, regress_outbox_none, regress_outbox_owner;
