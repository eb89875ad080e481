-- What the demo notes down to compare: what SQL did, and what the consumer received. Not part of the story.

CREATE SCHEMA journal;

CREATE TABLE journal.step (
    step      int PRIMARY KEY,
    title     text,
    committed timestamptz   -- taken right after COMMIT returned; NULL: rolled back
);

-- What emit() returned, in order, and whether the story keeps it.
CREATE TABLE journal.emitted (
    ordinal int GENERATED ALWAYS AS IDENTITY,
    step    int REFERENCES journal.step,
    id      uuid UNIQUE,
    fate    text CHECK (fate IN ('sent', 'undone'))
);

-- What the tables held right after each step.
CREATE TABLE journal.state (step int REFERENCES journal.step, order_id bigint, document jsonb);

-- kcat's lines, each with the time at which it came out.
CREATE TABLE journal.line (arrived double precision, message jsonb);

-- kcat gives headers as one flat list: name, value, name, value, ...
CREATE VIEW journal.received AS
    SELECT to_timestamp(l.arrived) AS arrived, l.message ->> 'topic' AS topic,
           (l.message ->> 'partition')::int AS partition, (l.message ->> 'offset')::bigint AS "offset",
           l.message ->> 'key' AS key, l.message ->> 'payload' AS payload, h.headers, h.id
    FROM journal.line AS l
    CROSS JOIN LATERAL (SELECT l.message -> 'headers') AS m (list)
    CROSS JOIN LATERAL (
        SELECT string_agg((list ->> i) || '=' || (list ->> i + 1), ' ' ORDER BY i) AS headers,
               max(list ->> i + 1) FILTER (WHERE list ->> i = 'id')::uuid AS id
        FROM generate_series(0, jsonb_array_length(list) - 2, 2) AS i
    ) AS h;

-- One row for each message that SQL emitted, and one for each that arrived though nothing emitted it.
CREATE VIEW journal.comparison AS
    SELECT e.ordinal, s.step, s.title, e.id AS emitted, e.fate, r.*,
           -- Negative when the message has overtaken the answer to COMMIT.
           extract(epoch FROM r.arrived - s.committed) * 1000 AS milliseconds,
           t.document AS expected
    FROM journal.step AS s JOIN journal.emitted AS e USING (step)
    FULL JOIN journal.received AS r ON r.id = e.id
    LEFT JOIN journal.state AS t ON t.step = s.step AND t.order_id::text = r.key;
