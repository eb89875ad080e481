-- Who may do what, and that nobody's search_path or temporary objects change what a function does.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;
CREATE ROLE regress_outbox_app;
CREATE ROLE regress_outbox_stranger;
CREATE ROLE regress_outbox_monitor;
GRANT pg_monitor TO regress_outbox_monitor;
SELECT outbox.grant_emit('regress_outbox_app');
SELECT outbox.emit('rights', 'k', 'stored by the owner') IS NOT NULL AS emitted;

CREATE ROLE "regress_outbox Quoted";
SELECT outbox.grant_emit('"regress_outbox Quoted"');
SELECT has_function_privilege('regress_outbox Quoted', 'outbox.emit(text, uuid, bytea, jsonb, integer)', 'EXECUTE') AS may_emit;
DROP OWNED BY "regress_outbox Quoted";
DROP ROLE "regress_outbox Quoted";
SELECT outbox.grant_emit('regress_outbox_nobody');

-- PUBLIC has nothing but the trigger of attached tables, which only attach() can use; nobody but the owner, pg_monitor and the role that was let in has anything.
SELECT c.relname, a.grantee::regrole, a.privilege_type
FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.relnamespace = 'outbox'::regnamespace AND a.grantee <> c.relowner ORDER BY 1, 2, 3;
SELECT p.proname, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee,
       a.privilege_type, count(*)
FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
WHERE p.pronamespace = 'outbox'::regnamespace AND a.grantee <> p.proowner GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.privilege_type
FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
WHERE n.nspname = 'outbox' AND a.grantee <> n.nspowner ORDER BY 1, 2;
-- No function runs with its owner's rights, and each pins its search_path, except emit(), which looks no
-- name up.
SELECT proname, proconfig, prosecdef, count(*)
FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace GROUP BY 1, 2, 3 ORDER BY 1;

-- A role that was let in can emit, and nothing else.
SET ROLE regress_outbox_app;
BEGIN;
SELECT outbox.emit('rights', 'k', 'text') IS NOT NULL AS emitted;
SELECT outbox.emit('rights', 1, '{}'::jsonb) IS NOT NULL AS emitted;
SELECT outbox.emit('rights', NULL::uuid, '\x'::bytea, '{"n": "v"}', 1) IS NOT NULL AS emitted;
SELECT count(*) FROM outbox.uncommitted();
COMMIT;
SELECT count(*) FROM outbox.messages;
SELECT state FROM outbox.status;
SELECT * FROM outbox.relay_status();
SELECT outbox.pause();
SELECT outbox.resume();
SELECT outbox.discard_backlog();
SELECT outbox.wait_for_delivery('0');
SELECT outbox.grant_emit('regress_outbox_stranger');
GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, jsonb, integer) TO regress_outbox_stranger;
SELECT * FROM outbox.segment_1;
INSERT INTO outbox.segment_1 (position, time, id, topic) VALUES (1, now(), gen_random_uuid(), 't');
UPDATE outbox.segment_1 SET topic = 'u';
DELETE FROM outbox.segment_1;
TRUNCATE outbox.segment_1;
COPY outbox.segment_1 TO stdout;
BEGIN;
LOCK TABLE outbox.segment_1 IN ACCESS SHARE MODE;
ROLLBACK;
CREATE TRIGGER t BEFORE INSERT ON outbox.segment_1 FOR EACH ROW EXECUTE FUNCTION outbox.guard_segment();
CREATE RULE r AS ON INSERT TO outbox.segment_1 DO INSTEAD NOTHING;
CREATE INDEX ON outbox.segment_1 (topic);
ALTER TABLE outbox.segment_1 ADD COLUMN extra int;
ALTER TABLE outbox.segment_1 DISABLE TRIGGER ALL;
DROP TABLE outbox.segment_1;
CREATE TEMPORARY TABLE refers (position bigint REFERENCES outbox.segment_1 (position));
SELECT nextval('outbox.message_position');
SELECT setval('outbox.message_position', 1);
SELECT last_value FROM outbox.message_position;
SELECT * FROM outbox.progress_1;
SELECT * FROM outbox.identity;
UPDATE outbox.identity SET paused = false;
SELECT * FROM outbox.deferred;
CREATE TABLE outbox.mine (id int);
CREATE FUNCTION outbox.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
DROP EXTENSION outbox;
ALTER EXTENSION outbox UPDATE;
-- Nor can it turn anything off, or steer messages elsewhere.
SET outbox.enabled = off;
SET outbox.kafka_bootstrap_servers = 'elsewhere:9092';
SET outbox.max_message_bytes = 2000000;
-- What it may do, it did.
RESET ROLE;
SELECT count(*) FROM outbox.messages WHERE topic = 'rights';

-- Rights are checked when emit() is called; the rows are written as the extension's business, whatever the
-- role is by then.
BEGIN;
SET LOCAL ROLE regress_outbox_app;
SELECT outbox.emit('rights-role', 'k', 'p') IS NOT NULL AS emitted;
SET LOCAL ROLE regress_outbox_stranger;
SELECT outbox.emit('rights-role', 'k', 'p');
ROLLBACK;
BEGIN;
SET LOCAL ROLE regress_outbox_app;
SELECT outbox.emit('rights-role', 'k', 'p') IS NOT NULL AS emitted;
SET LOCAL ROLE regress_outbox_stranger;
COMMIT;
SELECT count(*) FROM outbox.messages WHERE topic = 'rights-role';
-- A SECURITY DEFINER function lets a stranger emit what its author decided.
CREATE FUNCTION emit_for_strangers() RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$SELECT outbox.emit('rights-definer', 'k', 'p') IS NOT NULL$$;
SET ROLE regress_outbox_stranger;
SELECT emit_for_strangers();
SELECT outbox.emit('rights', 'k', 'p');
SELECT count(*) FROM outbox.uncommitted();
SELECT * FROM outbox.status;
RESET ROLE;
SELECT count(*) FROM outbox.messages WHERE topic = 'rights-definer';
DROP FUNCTION emit_for_strangers();

-- Monitoring sees the status and no payload.
SET ROLE regress_outbox_monitor;
SELECT count(*) AS rows FROM outbox.status;
SELECT count(*) FROM outbox.messages;
SELECT count(*) FROM outbox.segment_1;
SELECT count(*) FROM outbox.deferred;
SELECT count(*) FROM outbox.uncommitted();
SELECT outbox.emit('rights', 'k', 'p');
SELECT outbox.pause();
RESET ROLE;

-- Settings of the session do not get between a writer and the log.
SET ROLE regress_outbox_app;
SET row_security = off;
SELECT outbox.emit('rights', 'k', 'p') IS NOT NULL AS emitted;
RESET row_security;
RESET ROLE;
SET session_replication_role = replica;
SELECT outbox.emit('rights-replica', 'k', 'p') IS NOT NULL AS emitted;
RESET session_replication_role;
SELECT count(*) FROM outbox.messages WHERE topic = 'rights-replica';

-- Shadows: everything that a function of ours might look up exists under the same name in a schema that
-- comes first, and as a temporary object. Any use of one raises an error.
CREATE SCHEMA regress_outbox_evil;
SET search_path = regress_outbox_evil, pg_temp, public, pg_catalog;
CREATE FUNCTION hijack() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hijacked'; END$$;
CREATE FUNCTION format(text, regprocedure, regrole) RETURNS text LANGUAGE sql AS 'SELECT pg_catalog.format($1, $2, $3) FROM hijack()';
CREATE FUNCTION format(text, regrole) RETURNS text LANGUAGE sql AS 'SELECT pg_catalog.format($1, $2) FROM hijack()';
CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now() FROM hijack()';
CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now() FROM hijack()';
CREATE FUNCTION nextval(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint FROM hijack()';
CREATE FUNCTION relay_status() RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE FUNCTION op_oid_ns(oid, regnamespace) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = op_oid_ns);
CREATE FUNCTION op_int8(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE OPERATOR <= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = op_int8);
CREATE OPERATOR = (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = op_int8);
CREATE FUNCTION op_range(int8multirange, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE OPERATOR @> (LEFTARG = int8multirange, RIGHTARG = bigint, FUNCTION = op_range);
CREATE FUNCTION op_text(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = op_text);
CREATE TABLE segment_1 (position bigint);
CREATE TABLE progress_1 (number bigint);
CREATE TABLE identity (system_identifier bigint);
CREATE TABLE deferred (place bigint);
CREATE TABLE pg_proc (oid oid, pronamespace oid, proname name);
CREATE SEQUENCE message_position;
CREATE TEMPORARY TABLE segment_1 (position bigint);
CREATE TEMPORARY TABLE segment_2 (position bigint);
CREATE TEMPORARY TABLE progress_1 (number bigint);
CREATE TEMPORARY TABLE progress_2 (number bigint);
CREATE TEMPORARY TABLE identity (system_identifier bigint);
CREATE TEMPORARY TABLE deferred (place bigint);
CREATE TEMPORARY TABLE pg_class (oid oid);
CREATE TEMPORARY TABLE pg_proc (oid oid, pronamespace oid, proname name);
CREATE TEMPORARY TABLE pg_namespace (oid oid);
CREATE TEMPORARY TABLE pg_extension (oid oid);
CREATE TEMPORARY TABLE status (state text);
CREATE TEMPORARY TABLE messages (position bigint);
CREATE TYPE pg_temp.jsonb AS ENUM ('shadow');
-- What granting and revoking looks up.
CREATE FUNCTION aclexplode(aclitem[]) RETURNS TABLE (grantor oid, grantee oid, privilege_type text, is_grantable boolean)
    LANGUAGE sql AS 'SELECT a.* FROM hijack(), pg_catalog.aclexplode($1) AS a';
CREATE FUNCTION acldefault("char", oid) RETURNS aclitem[] LANGUAGE sql AS 'SELECT pg_catalog.acldefault($1, $2) FROM hijack()';
CREATE FUNCTION quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT pg_catalog.quote_ident($1) FROM hijack()';
CREATE FUNCTION op_oid_role(oid, regrole) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE FUNCTION op_role_oid(regrole, oid) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE FUNCTION op_roles(regrole, regrole) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE FUNCTION op_oids(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT hijack()';
CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regrole, FUNCTION = op_oid_role);
CREATE OPERATOR <> (LEFTARG = oid, RIGHTARG = regrole, FUNCTION = op_oid_role);
CREATE OPERATOR = (LEFTARG = regrole, RIGHTARG = oid, FUNCTION = op_role_oid);
CREATE OPERATOR <> (LEFTARG = regrole, RIGHTARG = oid, FUNCTION = op_role_oid);
CREATE OPERATOR = (LEFTARG = regrole, RIGHTARG = regrole, FUNCTION = op_roles);
CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = oid, FUNCTION = op_oids);
CREATE OPERATOR <> (LEFTARG = oid, RIGHTARG = oid, FUNCTION = op_oids);
CREATE OPERATOR !~ (LEFTARG = text, RIGHTARG = text, FUNCTION = op_text);
CREATE OPERATOR ~ (LEFTARG = text, RIGHTARG = text, FUNCTION = op_text);
CREATE DOMAIN topic_pattern AS text CHECK (hijack());
CREATE DOMAIN pg_temp.topic_pattern AS text CHECK (hijack());
CREATE TABLE emit_grant (grantee regrole, topic_pattern text);
CREATE TEMPORARY TABLE emit_grant (grantee regrole, topic_pattern text);
CREATE TEMPORARY TABLE pg_roles (oid oid, rolname name);
CREATE TEMPORARY TABLE pg_type (oid oid, typacl aclitem[], typowner oid);
CREATE TYPE pg_temp.regrole AS ENUM ('shadow');
CREATE TYPE pg_temp.regtype AS ENUM ('shadow');
BEGIN;
SELECT outbox.emit('shadows', 'k', 'p', '{"n": [1, "x"]}') OPERATOR(pg_catalog.<>) '00000000-0000-0000-0000-000000000000' AS emitted;
SELECT outbox.emit('shadows', 7, 'p'::bytea) IS NOT NULL AS emitted;
SELECT pg_catalog.count(*) FROM outbox.uncommitted();
COMMIT;
SELECT pg_catalog.count(*) FROM outbox.messages AS m WHERE m.topic OPERATOR(pg_catalog.=) 'shadows';
SELECT m.settled FROM outbox.messages AS m WHERE m.topic OPERATOR(pg_catalog.=) 'shadows';
SELECT pg_catalog.count(*) FROM outbox.status;
SELECT outbox.wait_for_delivery('0');
SELECT outbox.grant_emit('regress_outbox_stranger');
SELECT outbox.revoke_emit('regress_outbox_stranger');
SELECT outbox.grant_emit('regress_outbox_stranger', 'shadows');
SELECT outbox.grant_emit('regress_outbox_stranger', 'shadows.*');
SELECT outbox.revoke_emit('regress_outbox_stranger', 'shadows.*');
SET ROLE regress_outbox_stranger;
SELECT outbox.emit('shadows', 'k', 'p') IS NOT NULL AS emitted;
SELECT outbox.emit('others', 'k', 'p');
RESET ROLE;
SELECT outbox.revoke_emit('regress_outbox_stranger', 'shadows');
SELECT outbox.grant_emit('regress_outbox_stranger');
SELECT outbox.pause();
SELECT outbox.discard_backlog() OPERATOR(pg_catalog.>) 0 AS discarded;
SELECT outbox.resume();
SELECT outbox.retry(), outbox.retry('t'), outbox.retry('t', '\x00'), outbox.retry(id => '00000000-0000-0000-0000-000000000000');
SELECT outbox.discard(), outbox.discard('t'), outbox.discard('t', NULL), outbox.discard(id => '00000000-0000-0000-0000-000000000000');
SELECT pg_catalog.count(*) FROM outbox.parked;
-- Triggers of ours.
INSERT INTO outbox.emit_grant VALUES ('regress_outbox_stranger', 'none');
INSERT INTO outbox.segment_1 (position, time, id, topic) VALUES (-1, pg_catalog.now(), pg_catalog.gen_random_uuid(), 't');
DELETE FROM outbox.segment_1 AS s WHERE s.position OPERATOR(pg_catalog.=) -1;
UPDATE outbox.identity SET paused = true;
SELECT outbox.resume();
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA regress_outbox_evil CASCADE;
RESET client_min_messages;
DISCARD TEMP;

-- Default privileges that give everything away give nothing of ours away.
DROP EXTENSION outbox;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_outbox_stranger, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_outbox_stranger, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_outbox_stranger;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO regress_outbox_stranger, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO regress_outbox_stranger;
CREATE EXTENSION outbox;
SELECT 'relation' AS kind, c.relname AS name, a.grantee, a.privilege_type
FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.relnamespace = 'outbox'::regnamespace AND a.grantee NOT IN (c.relowner, 'pg_monitor'::regrole)
UNION ALL
SELECT 'function', p.proname, a.grantee, a.privilege_type
FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
WHERE p.pronamespace = 'outbox'::regnamespace AND a.grantee NOT IN (p.proowner, 'pg_monitor'::regrole) AND p.proname <> 'attached'
UNION ALL
SELECT 'schema', n.nspname, a.grantee, a.privilege_type
FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
WHERE n.nspname = 'outbox' AND a.grantee NOT IN (n.nspowner, 'pg_monitor'::regrole);
SELECT has_function_privilege('regress_outbox_stranger', 'outbox.emit(text, text, text, jsonb, integer)', 'EXECUTE') AS emit,
       has_schema_privilege('regress_outbox_stranger', 'outbox', 'USAGE') AS schema,
       has_table_privilege('regress_outbox_stranger', 'outbox.messages', 'SELECT') AS messages;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_outbox_stranger, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM regress_outbox_stranger, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_outbox_stranger;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM regress_outbox_stranger, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM regress_outbox_stranger;

-- A schema "outbox" that somebody made beforehand, with an operator in it that fits the script's own
-- comparisons better than the server's does, must not make a superuser run that somebody's code. (The
-- function would say so.)
DROP EXTENSION outbox;
CREATE SCHEMA outbox AUTHORIZATION regress_outbox_stranger;
SET ROLE regress_outbox_stranger;
CREATE FUNCTION outbox.planted(oid, regnamespace) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE WARNING 'planted code runs as %', current_user = 'regress_outbox_stranger';
    RETURN $1 = $2::oid;
END
$$;
CREATE OPERATOR outbox.= (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = outbox.planted);
RESET ROLE;
CREATE EXTENSION outbox;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
DROP SCHEMA IF EXISTS outbox CASCADE;
CREATE EXTENSION outbox;
RESET client_min_messages;

DROP ROLE regress_outbox_app, regress_outbox_stranger, regress_outbox_monitor;
