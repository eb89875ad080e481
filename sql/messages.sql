-- The view outbox.messages, and what a row looks like to somebody who reads it.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

\d outbox.messages
\d outbox.status
BEGIN;
SELECT outbox.emit('view', 'k', 'p', '{"n": "v"}', 3) AS first_id \gset
SELECT outbox.emit('view', NULL, NULL) AS second_id \gset
SELECT outbox.emit('view', 12, '{"b":1,"a":2}'::jsonb) AS third_id \gset
SELECT outbox.emit('view', '\x00ff'::bytea, '\x'::bytea) AS fourth_id \gset
COMMIT;
SELECT topic, key, payload, headers, partition, settled, time BETWEEN now() - interval '1 min' AND clock_timestamp() AS recent,
       id = ANY (ARRAY[:'first_id', :'second_id', :'third_id', :'fourth_id']::uuid[]) AS id_known
FROM outbox.messages WHERE topic = 'view' ORDER BY position;
SELECT array_agg(id ORDER BY position) = ARRAY[:'first_id', :'second_id', :'third_id', :'fourth_id']::uuid[] AS in_order
FROM outbox.messages WHERE topic = 'view';
SELECT count(DISTINCT position) = count(*) AS positions_unique FROM outbox.messages;

-- Nobody writes through the view.
INSERT INTO outbox.messages (topic) VALUES ('t');
DELETE FROM outbox.messages;

-- The status of a database whose relay is switched off.
SELECT state IN ('disabled', 'stopped', 'starting') AS off, backlog >= 4 AS has_backlog, oldest IS NOT NULL AS has_oldest, delivered,
       deferred
FROM outbox.status;
SELECT count(*) AS rows FROM outbox.status;
SELECT backlog_bytes > 0 AS has_bytes, backlog_limit, limit_reached_at FROM outbox.status;
-- The limit is that of whoever asks.
SET outbox.backlog_limit = '1GB';
SELECT backlog_limit FROM outbox.status;
RESET outbox.backlog_limit;
-- Nothing is delivered, so the wait ends with its time.
SELECT outbox.wait_for_delivery('10 ms');
SELECT outbox.wait_for_delivery('0');
SELECT outbox.wait_for_delivery('-1 s');
