-- Everything that is wrong: no row means that exactly what was committed has arrived.
SELECT 'committed, but did not arrive: step ' || step FROM journal.comparison
WHERE fate = 'sent' AND id IS NULL
UNION ALL
SELECT 'rolled back, but arrived: step ' || step FROM journal.comparison
WHERE fate = 'undone' AND id IS NOT NULL
UNION ALL
SELECT 'arrived, but was never emitted: ' || coalesce(id::text, 'a message without an id') FROM journal.comparison
WHERE emitted IS NULL
UNION ALL
SELECT 'arrived more than once: step ' || min(step) FROM journal.comparison
WHERE id IS NOT NULL GROUP BY id HAVING count(*) > 1
UNION ALL
SELECT 'the payload is not what the tables held: step ' || step FROM journal.comparison
WHERE fate = 'sent' AND id IS NOT NULL AND payload::jsonb IS DISTINCT FROM expected
UNION ALL
SELECT 'out of order: key ' || key
FROM (SELECT key, ordinal, lag(ordinal) OVER (PARTITION BY partition, key ORDER BY "offset") AS previous
      FROM journal.comparison WHERE id IS NOT NULL) AS arrivals
WHERE ordinal < previous;
