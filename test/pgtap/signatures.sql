-- The surface that applications and operators build upon: names, arguments, results, volatility.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS outbox;
SELECT plan(16 * 5 + 34 + 20);

CREATE TEMPORARY TABLE overloads AS
    SELECT ARRAY['text', key_type, payload_type, 'jsonb', 'integer'] AS arguments
    FROM unnest(ARRAY['text', 'bytea', 'bigint', 'uuid']) AS key_type,
         unnest(ARRAY['text', 'json', 'jsonb', 'bytea']) AS payload_type;

SELECT has_function('outbox', 'emit', arguments) FROM overloads;
SELECT function_returns('outbox', 'emit', arguments, 'uuid') FROM overloads;
SELECT volatility_is('outbox', 'emit', arguments, 'volatile') FROM overloads;
SELECT isnt_strict('outbox', 'emit', arguments, 'NULL key and payload have a meaning') FROM overloads;
SELECT isnt_definer('outbox', 'emit', arguments) FROM overloads;
SELECT is(
    (SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname = 'emit' AND pronargs = 5), 16,
    'there is no other one with five arguments');
SELECT is(
    (SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname = 'emit'
        AND proparallel = 'u' AND pronargdefaults = 2 AND proargnames[1:5] = '{topic,key,payload,headers,partition}'), 16,
    'headers and partition have defaults, every argument its name, none runs in a parallel worker');
SELECT is(
    (SELECT count(DISTINCT prosrc)::int FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname = 'emit' AND pronargs = 5), 1,
    'they share one entry point');

SELECT has_function('outbox', 'emit', ARRAY['json', 'text']);
SELECT function_returns('outbox', 'emit', ARRAY['json', 'text'], 'uuid');
SELECT is((SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname = 'emit'), 17, 'and no other');
SELECT has_function('outbox', 'attach', ARRAY['regclass', 'text', 'text', 'text', 'text', 'text', 'text', 'text[]', 'name']);
SELECT function_returns('outbox', 'attach', ARRAY['regclass', 'text', 'text', 'text', 'text', 'text', 'text', 'text[]', 'name'], 'void');
SELECT is(
    (SELECT array_to_string(proargnames, ',') FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND proname = 'attach'),
    'table,topic,key,payload,headers,partition,when,events,name', 'arguments of attach have names');
SELECT has_function('outbox', 'detach', ARRAY['regclass', 'name']);
SELECT function_returns('outbox', 'detach', ARRAY['regclass', 'name'], 'void');
SELECT has_function('outbox', 'attach_debezium', ARRAY['regclass', 'jsonb', 'boolean', 'name']);
SELECT function_returns('outbox', 'attach_debezium', ARRAY['regclass', 'jsonb', 'boolean', 'name'], 'void');
SELECT has_function('outbox', 'check_debezium', ARRAY['jsonb', 'regclass']);
SELECT function_returns('outbox', 'check_debezium', ARRAY['jsonb', 'regclass'], 'setof record');
SELECT has_function('outbox', 'preview', ARRAY['anyelement', 'anyelement', 'integer']);
SELECT function_returns('outbox', 'preview', ARRAY['anyelement', 'anyelement', 'integer'], 'setof record');
SELECT has_view('outbox', 'attachments', 'attachments is a view');
SELECT columns_are('outbox', 'attachments', ARRAY['table', 'name', 'events', 'enabled', 'owner', 'declaration']);
SELECT col_type_is('outbox', 'attachments', 'table', 'regclass', 'attachments.table');
SELECT col_type_is('outbox', 'attachments', 'events', 'text[]', 'attachments.events');
SELECT col_type_is('outbox', 'attachments', 'owner', 'regrole', 'attachments.owner');
SELECT isnt_definer('outbox', 'attach', ARRAY['regclass', 'text', 'text', 'text', 'text', 'text', 'text', 'text[]', 'name']);
SELECT has_function('outbox', 'uncommitted', ARRAY[]::name[]);
SELECT function_returns('outbox', 'uncommitted', ARRAY[]::name[], 'setof record');
SELECT volatility_is('outbox', 'uncommitted', ARRAY[]::name[], 'volatile');
SELECT has_function('outbox', 'wait_for_delivery', ARRAY['interval']);
SELECT function_returns('outbox', 'wait_for_delivery', ARRAY['interval'], 'boolean');
SELECT volatility_is('outbox', 'wait_for_delivery', ARRAY['interval'], 'volatile');
SELECT is(
    (SELECT pg_get_expr(proargdefaults, 0) FROM pg_proc WHERE oid = 'outbox.wait_for_delivery(interval)'::regprocedure),
    '''00:00:30''::interval', 'wait_for_delivery waits for 30 seconds unless told otherwise');
SELECT has_function('outbox', 'pause', ARRAY[]::name[]);
SELECT function_returns('outbox', 'pause', ARRAY[]::name[], 'void');
SELECT has_function('outbox', 'resume', ARRAY[]::name[]);
SELECT function_returns('outbox', 'resume', ARRAY[]::name[], 'void');
SELECT has_function('outbox', 'discard_backlog', ARRAY[]::name[]);
SELECT function_returns('outbox', 'discard_backlog', ARRAY[]::name[], 'bigint');
SELECT has_function('outbox', 'grant_emit', ARRAY['regrole']);
SELECT function_returns('outbox', 'grant_emit', ARRAY['regrole'], 'void');
SELECT has_function('outbox', 'grant_emit', ARRAY['regrole', 'text']);
SELECT function_returns('outbox', 'grant_emit', ARRAY['regrole', 'text'], 'void');
SELECT has_function('outbox', 'revoke_emit', ARRAY['regrole']);
SELECT function_returns('outbox', 'revoke_emit', ARRAY['regrole'], 'void');
SELECT has_function('outbox', 'revoke_emit', ARRAY['regrole', 'text']);
SELECT function_returns('outbox', 'revoke_emit', ARRAY['regrole', 'text'], 'void');
SELECT columns_are('outbox', 'emit_grant', ARRAY['grantee', 'topic_pattern']);

SELECT has_view('outbox', 'status', 'status is a view');
SELECT col_type_is('outbox', 'status', 'state', 'text', 'status.state');
SELECT col_type_is('outbox', 'status', 'backlog', 'bigint', 'status.backlog');
SELECT col_type_is('outbox', 'status', 'oldest', 'timestamp with time zone', 'status.oldest');
SELECT col_type_is('outbox', 'status', 'delivered', 'bigint', 'status.delivered');
SELECT col_type_is('outbox', 'status', 'last_error', 'text', 'status.last_error');
SELECT col_type_is('outbox', 'status', 'last_error_at', 'timestamp with time zone', 'status.last_error_at');
SELECT has_view('outbox', 'messages', 'messages is a view');
SELECT columns_are('outbox', 'messages',
    ARRAY['position', 'id', 'topic', 'key', 'payload', 'headers', 'partition', 'time', 'settled']);

SELECT * FROM finish();
ROLLBACK;
