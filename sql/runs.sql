-- The index on positions leads to the first row of a run only: no query may use it, whatever it asks for.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox CASCADE;
CREATE EXTENSION outbox;
RESET client_min_messages;
SELECT count(outbox.emit('runs', n::text, 'payload')) FROM generate_series(1, 1000) AS n;
SELECT indexrelid::regclass, pg_get_expr(indpred, indrelid) FROM pg_index
WHERE indrelid::regclass::text ~ '^outbox.segment_\d$' ORDER BY 1;

-- Whether a plan has a scan of one.
CREATE FUNCTION uses_index(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
        IF line ~ 'segment_\d_position' THEN RETURN true; END IF;
    END LOOP;
    RETURN false;
END
$$;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT condition, uses_index('SELECT * FROM outbox.messages WHERE ' || condition) AS view,
    uses_index('SELECT position FROM outbox.segment_1 WHERE ' || condition || ' ORDER BY position') AS segment
FROM unnest(ARRAY['true', 'position = 5', 'position > 5', 'position BETWEEN 5 AND 7', 'position IN (5, 6)',
    'position IS NOT NULL', 'position = 0', 'position % 2 = 0', 'position % 10 = 0 AND position > 7']) AS condition;
SELECT uses_index('SELECT min(position), max(position) FROM outbox.segment_1') AS ends,
    uses_index('SELECT 1 FROM outbox.segment_1 AS a JOIN outbox.segment_1 AS b USING (position)') AS joined;
SELECT count(*), min(position) = 1 AS first, max(position) = 1000 AS last FROM outbox.messages;
SELECT convert_from(key, 'UTF8') AS key FROM outbox.messages WHERE position IN (1, 2, 500, 1000) ORDER BY position;
