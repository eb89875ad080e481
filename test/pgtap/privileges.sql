-- Who may do what: a matrix of roles and of every object that the extension made.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS outbox;
CREATE ROLE outbox_pgtap_app;
CREATE ROLE outbox_pgtap_bound;
CREATE ROLE outbox_pgtap_stranger;
CREATE ROLE outbox_pgtap_monitor IN ROLE pg_monitor;
CREATE ROLE outbox_pgtap_readall IN ROLE pg_read_all_settings, pg_read_all_stats, pg_stat_scan_tables, pg_signal_backend;
CREATE ROLE outbox_pgtap_super SUPERUSER;
SELECT outbox.grant_emit('outbox_pgtap_app');
SELECT outbox.grant_emit('outbox_pgtap_bound', 'orders.*');

CREATE TEMPORARY TABLE roles AS
    SELECT role FROM unnest(ARRAY['public', 'outbox_pgtap_stranger', 'outbox_pgtap_readall', 'outbox_pgtap_app',
                                  'outbox_pgtap_bound', 'outbox_pgtap_monitor', 'outbox_pgtap_super']) AS role;
CREATE TEMPORARY TABLE relations AS
    SELECT relname::text AS name, relkind FROM pg_class
    WHERE relnamespace = 'outbox'::regnamespace AND relkind NOT IN ('i', 't', 'I');
CREATE TEMPORARY TABLE functions AS
    SELECT oid::regprocedure AS callable, proname::text AS name FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace;

SELECT plan((SELECT count(*)::int FROM roles) * ((SELECT count(*)::int FROM relations) + (SELECT count(*)::int FROM functions) + 2)
            + (SELECT count(*)::int FROM relations) + 20);

-- What a role may do with a relation, in the order of this list.
CREATE FUNCTION pg_temp.privileges(role text, relation text, kind "char") RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(privilege ORDER BY n) FILTER (WHERE CASE kind WHEN 'S' THEN has_sequence_privilege(role, relation, privilege)
                                                              ELSE has_table_privilege(role, relation, privilege) END)
    FROM unnest(CASE kind WHEN 'S' THEN ARRAY['SELECT', 'UPDATE', 'USAGE']
                ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'] END)
         WITH ORDINALITY AS p (privilege, n)
$$;
SELECT is(
    pg_temp.privileges(role, format('outbox.%I', name), relkind),
    CASE WHEN role = 'outbox_pgtap_super' AND relkind = 'S' THEN ARRAY['SELECT', 'UPDATE', 'USAGE']
         WHEN role = 'outbox_pgtap_super' THEN ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
         WHEN role = 'outbox_pgtap_monitor' AND name IN ('status', 'attachments') THEN ARRAY['SELECT'] END,
    format('rights of %s on %s', role, name))
FROM roles, relations;
SELECT is_empty(
    format($$SELECT attname FROM pg_attribute WHERE attrelid = 'outbox.%I'::regclass AND attacl IS NOT NULL$$, name),
    format('no right on single columns of %s', name))
FROM relations;

SELECT is(
    has_function_privilege(role, callable, 'EXECUTE'),
    CASE WHEN role = 'outbox_pgtap_super' OR name = 'attached' THEN true
         WHEN role IN ('outbox_pgtap_app', 'outbox_pgtap_bound') THEN name IN ('emit', 'uncommitted', 'attach', 'attach_debezium', 'check_debezium', 'detach', 'preview')
         WHEN role = 'outbox_pgtap_monitor' THEN name = 'relay_status'
         ELSE false END,
    format('whether %s may call %s', role, callable))
FROM roles, functions;

SELECT is(
    array(SELECT privilege FROM unnest(ARRAY['USAGE', 'CREATE']) AS privilege WHERE has_schema_privilege(role, 'outbox', privilege)),
    CASE WHEN role = 'outbox_pgtap_super' THEN ARRAY['USAGE', 'CREATE']
         WHEN role IN ('outbox_pgtap_app', 'outbox_pgtap_bound', 'outbox_pgtap_monitor') THEN ARRAY['USAGE']
         ELSE ARRAY[]::text[] END,
    format('rights of %s on the schema', role))
FROM roles;
SELECT is(
    has_type_privilege(role, 'outbox.topic_pattern', 'USAGE'), role IN ('outbox_pgtap_bound', 'outbox_pgtap_super'),
    format('whether %s is marked as bound to topics', role))
FROM roles;

-- The matrix is of everything that there is.
SELECT results_eq(
    $$SELECT DISTINCT classid::regclass::text FROM pg_depend
      WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'outbox')
        AND deptype = 'e' ORDER BY 1$$,
    ARRAY['pg_class', 'pg_namespace', 'pg_proc', 'pg_type'], 'kinds of objects');
SELECT is_empty(
    $$SELECT oid::regclass FROM pg_class AS c WHERE relnamespace = 'outbox'::regnamespace AND relkind NOT IN ('r', 'v', 'S', 'i')$$,
    'kinds of relations');
SELECT is((SELECT count(*)::int FROM functions WHERE callable::text LIKE 'outbox.emit(%'), 17, 'all overloads were looked at');
SELECT ok(NOT pg_has_role('outbox_pgtap_app', 'pg_monitor', 'USAGE'), 'an application is not monitoring');

-- How functions run.
SELECT is_empty(
    $$SELECT proname FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND prosecdef$$,
    'no function runs with the rights of its owner');
SELECT is_empty(
    $$SELECT proname FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname NOT IN ('emit', 'attach', 'attached')
      AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)$$,
    'every function pins its search_path, except emit(), which looks up no name in it, attach(), which reads its caller''s names,
    and the trigger, which pins it where it calls what is not the server''s own');
SELECT is_empty(
    $$SELECT proname FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
      WHERE p.pronamespace = 'outbox'::regnamespace AND p.proname = 'emit' AND l.lanname <> 'c'$$,
    'which is C');
SELECT is((SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'outbox'), 'pg_catalog',
    'the script ran with search_path = pg_catalog, pg_temp: what scripts/lint/extension-script relies on');
SELECT is(
    (SELECT array_agg(row(superuser, trusted, relocatable)::text) FROM pg_available_extension_versions WHERE name = 'outbox'),
    ARRAY['(t,f,f)'], 'for superusers, not trusted, not to be moved');

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
    $$DO 'BEGIN SET LOCAL ROLE outbox_pgtap_bound; PERFORM outbox.emit(''t'', ''k'', ''p''); END'$$, '42501',
    'permission denied to emit to topic "t"', 'whom topics were granted may emit to no other');
SELECT lives_ok(
    $$DO 'BEGIN SET LOCAL ROLE outbox_pgtap_bound; PERFORM outbox.emit(''orders.eu'', ''k'', ''p''); RESET ROLE; END'$$,
    'and to those');
SELECT throws_ok(
    $$DO 'BEGIN SET LOCAL ROLE outbox_pgtap_monitor; PERFORM FROM outbox.messages; END'$$, '42501', NULL,
    'monitoring reads no messages');
REVOKE USAGE ON SCHEMA outbox FROM outbox_pgtap_stranger;

-- An extension that belongs to a role without special rights: that role may do everything with it, others what they
-- could before.
CREATE ROLE outbox_pgtap_owner;
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('ALTER %s outbox.%I OWNER TO outbox_pgtap_owner', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, name) FROM relations
        UNION ALL SELECT format('ALTER FUNCTION %s OWNER TO outbox_pgtap_owner', callable) FROM functions
        UNION ALL SELECT 'ALTER DOMAIN outbox.topic_pattern OWNER TO outbox_pgtap_owner'
        UNION ALL SELECT 'ALTER SCHEMA outbox OWNER TO outbox_pgtap_owner'
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
SELECT is_empty(
    $$SELECT name FROM relations WHERE array_length(pg_temp.privileges('outbox_pgtap_owner', format('outbox.%I', name), relkind), 1)
      <> CASE relkind WHEN 'S' THEN 3 ELSE 7 END$$,
    'an owner may do everything with every relation');
SELECT is_empty(
    $$SELECT callable FROM functions WHERE NOT has_function_privilege('outbox_pgtap_owner', callable, 'EXECUTE')$$,
    'and call every function');
SELECT lives_ok(
    $$DO 'BEGIN SET LOCAL ROLE outbox_pgtap_owner; PERFORM outbox.emit(''t'', ''k'', ''p''), outbox.pause(), outbox.resume(),
      outbox.grant_emit(''outbox_pgtap_bound'', ''more''), outbox.revoke_emit(''outbox_pgtap_bound'', ''orders.*'');
      RESET ROLE; END'$$, 'works with it');
SELECT is_empty(
    $$SELECT role, name FROM roles, relations
      WHERE role <> 'outbox_pgtap_super' AND pg_temp.privileges(role, format('outbox.%I', name), relkind) IS NOT NULL
        AND NOT (role = 'outbox_pgtap_monitor' AND name IN ('status', 'attachments'))$$,
    'nobody else has more rights than before');
SELECT throws_ok(
    $$DO 'BEGIN SET LOCAL ROLE outbox_pgtap_bound; PERFORM outbox.emit(''orders.eu'', ''k'', ''p''); END'$$, '42501',
    'permission denied to emit to topic "orders.eu"', 'what the owner revoked is revoked');

SELECT * FROM finish();
ROLLBACK;
