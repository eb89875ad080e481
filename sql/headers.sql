-- Headers as they are stored, and what may be in them. How they reach Kafka is the end-to-end tests' business.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

BEGIN;
SELECT outbox.emit('headers', 'object', 'p', '{"type": "Created", "empty": "", "": "nameless"}') IS NOT NULL AS emitted;
SELECT outbox.emit('headers', 'scalars', 'p',
                   '{"n": 1.50, "big": 123456789012345678901234567890, "t": true, "f": false, "null": null}') IS NOT NULL AS emitted;
SELECT outbox.emit('headers', 'nested', 'p', '{"o": {"a": [1, {"b": null}]}, "list": ["x", 1, null, true, {"c": 1}, [2]]}')
       IS NOT NULL AS emitted;
SELECT outbox.emit('headers', 'none', 'p', '{}') IS NOT NULL AS emitted;
SELECT outbox.emit('headers', 'null', 'p', NULL) IS NOT NULL AS emitted;
SELECT outbox.emit('headers', 'unicode', 'p', '{"größe": "\u20ac\ud83d\ude00"}') IS NOT NULL AS emitted;
SELECT outbox.emit('headers', 'twice', 'p', '{"a": 1, "a": 2}') IS NOT NULL AS emitted;
SELECT convert_from(key, 'UTF8') AS key, headers FROM outbox.uncommitted() ORDER BY ordinal;
COMMIT;
SELECT convert_from(key, 'UTF8') AS key, headers FROM outbox.messages WHERE topic = 'headers' ORDER BY position;

-- Large headers, from a compressed and an out-of-line value.
CREATE TABLE big_headers AS
    SELECT jsonb_build_object('repeated', repeat('x', 100000)) AS headers
    UNION ALL
    SELECT jsonb_object_agg('h' || n, md5(n::text)) FROM generate_series(1, 2000) AS n;
BEGIN;
SELECT count(outbox.emit('big-headers', 'k', 'p', headers)) FROM big_headers;
COMMIT;
SELECT count(*) AS intact FROM outbox.messages AS m JOIN big_headers AS b USING (headers) WHERE topic = 'big-headers';
DROP TABLE big_headers;
