-- Who may do what: a matrix of roles and objects.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS outbox;
CREATE ROLE outbox_pgtap_app;
CREATE ROLE outbox_pgtap_stranger;
CREATE ROLE outbox_pgtap_monitor IN ROLE pg_monitor;
SELECT outbox.grant_emit('outbox_pgtap_app');

CREATE TEMPORARY TABLE relations AS
    SELECT relname::text AS name, relkind FROM pg_class
    WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'v', 'S');
CREATE TEMPORARY TABLE functions AS
    SELECT oid::regprocedure AS callable, proname::text AS name FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace;

SELECT plan((SELECT count(*)::int FROM relations) * 3 + (SELECT count(*)::int FROM functions) * 3 + 8 + 4);

SELECT is(
    array(SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
          WHERE relkind <> 'S' AND has_table_privilege(role, format('outbox.%I', name), privilege)
          UNION ALL
          SELECT privilege FROM unnest(ARRAY['SELECT', 'UPDATE', 'USAGE']) AS privilege
          WHERE relkind = 'S' AND has_sequence_privilege(role, format('outbox.%I', name), privilege)),
    CASE WHEN role = 'outbox_pgtap_monitor' AND name = 'status' THEN ARRAY['SELECT'] ELSE ARRAY[]::text[] END,
    format('rights of %s on %s', role, name))
FROM relations, unnest(ARRAY['outbox_pgtap_app', 'outbox_pgtap_stranger', 'outbox_pgtap_monitor']) AS role;

SELECT is(
    has_function_privilege(role, callable, 'EXECUTE'),
    CASE role WHEN 'outbox_pgtap_app' THEN name IN ('emit', 'uncommitted')
              WHEN 'outbox_pgtap_monitor' THEN name = 'relay_status'
              ELSE false END,
    format('whether %s may call %s', role, callable))
FROM functions, unnest(ARRAY['outbox_pgtap_app', 'outbox_pgtap_stranger', 'outbox_pgtap_monitor']) AS role;

SELECT ok(has_schema_privilege('outbox_pgtap_app', 'outbox', 'USAGE'), 'an application may use the schema');
SELECT ok(NOT has_schema_privilege('outbox_pgtap_app', 'outbox', 'CREATE'), 'and create nothing in it');
SELECT ok(NOT has_schema_privilege('outbox_pgtap_stranger', 'outbox', 'USAGE'), 'a stranger may not');
SELECT ok(has_schema_privilege('outbox_pgtap_monitor', 'outbox', 'USAGE'), 'monitoring may use the schema');
SELECT ok(NOT pg_has_role('outbox_pgtap_app', 'pg_monitor', 'USAGE'), 'an application is not monitoring');
SELECT is((SELECT count(*)::int FROM functions WHERE callable::text LIKE 'outbox.emit(%'), 16, 'sixteen overloads were looked at');
SELECT is_empty(
    $$SELECT proname FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND prosecdef$$,
    'no function runs with the rights of its owner');
SELECT is_empty(
    $$SELECT proname FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname <> 'emit'
      AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)$$,
    'every function pins its search_path');

SET LOCAL ROLE outbox_pgtap_app;
SELECT CASE WHEN outbox.emit('t', 'k', 'p') IS NOT NULL THEN set_config('outbox_pgtap.emitted', 'yes', true) END \g /dev/null
RESET ROLE;
SELECT is(current_setting('outbox_pgtap.emitted', true), 'yes', 'the application emits');
SELECT is((SELECT count(*)::int FROM outbox.uncommitted()), 1, 'one message');
GRANT USAGE ON SCHEMA outbox TO outbox_pgtap_stranger;
SELECT throws_ok(
    $$DO 'BEGIN SET LOCAL ROLE outbox_pgtap_stranger; PERFORM outbox.emit(''t'', ''k'', ''p''); END'$$, '42501', NULL,
    'the schema alone is not enough to emit');
SELECT throws_ok(
    $$DO 'BEGIN SET LOCAL ROLE outbox_pgtap_monitor; PERFORM FROM outbox.messages; END'$$, '42501', NULL,
    'monitoring reads no messages');

SELECT * FROM finish();
ROLLBACK;
