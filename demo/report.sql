-- Side by side: what SQL did, and what the consumer received. Two columns of text, 80 characters wide.
\pset tuples_only on
\pset format unaligned

CREATE FUNCTION pg_temp.wrap(line text, width int, indent text DEFAULT '') RETURNS text[] LANGUAGE sql AS $$
    SELECT string_to_array(
        rtrim(regexp_replace(line, '(.{1,' || width || '})(\s+|$)', E'\\1\n' || indent, 'g'), E' \n'), E'\n')
$$;

WITH sides AS (
    SELECT ordinal, arrived,
           pg_temp.wrap(coalesce(step || '  ' || title, '-  Nothing that SQL emitted'), 28, '   ') ||
           ARRAY[CASE fate WHEN 'sent' THEN '   committed' WHEN 'undone' THEN '   rolled back' END, ''] AS sql,
           CASE WHEN id IS NULL THEN ARRAY['nothing']
           ELSE ARRAY[format('%s[%s], %s ms after COMMIT', topic, partition, round(greatest(milliseconds, 0), 1)),
                      'key     ' || coalesce(key, 'NULL')] ||
                string_to_array('header  ' || replace(headers, ' ', E'\nheader  '), E'\n') ||
                pg_temp.wrap('payload ' || coalesce(payload, 'NULL'), 48, '        ')
           END || ARRAY[''] AS kafka
    FROM journal.comparison
)
SELECT rpad('   SQL', 32) || 'Kafka'
UNION ALL
SELECT * FROM (
    SELECT rtrim(rpad(coalesce(line.sql, ''), 32) || coalesce(line.kafka, ''))
    FROM sides CROSS JOIN LATERAL unnest(sides.sql, sides.kafka) WITH ORDINALITY AS line (sql, kafka, place)
    ORDER BY ordinal NULLS LAST, arrived, place
) AS lines;
