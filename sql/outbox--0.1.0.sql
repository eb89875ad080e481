-- outbox 0.1.0: everything that CREATE EXTENSION outbox makes. Runs once, as the extension's owner.
\echo Use "CREATE EXTENSION outbox" to load this file. \quit

-- A member of the extension, so that it goes with it. A schema of this name that is there already is an error:
-- its owner could have put functions and operators in the way of what follows. While this script runs, the
-- search_path is pg_catalog (outbox.control), so nothing else can be in the way either.
CREATE SCHEMA outbox;
COMMENT ON SCHEMA outbox IS 'Messages that reach Kafka if, and only if, their transaction commits.';

---------------------------------------------------------------------------------------------------------
-- Storage. Written by the C++ code directly; nobody else needs, or gets, a right on any of it.
---------------------------------------------------------------------------------------------------------

-- Caches nothing: a position taken ahead of its transaction's commit would break the order.
CREATE SEQUENCE outbox.message_position AS bigint CACHE 1;
COMMENT ON SEQUENCE outbox.message_position IS
    'Positions of messages, taken while their transaction commits.';

-- The ring of segments. Fixed-width columns first; rows are never updated or deleted, so pages are filled
-- to the brim and vacuum has nothing to do. A payload goes out of line only when it does not fit a page, and
-- is never compressed here: Kafka's client does that once, for a whole batch.
CREATE TABLE outbox.segment_1 (
    position  bigint      NOT NULL,
    time      timestamptz NOT NULL,
    id        uuid        NOT NULL,
    partition integer,
    topic     text        COLLATE "C" NOT NULL,
    key       bytea,
    payload   bytea,
    headers   jsonb
) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, fillfactor = 100, toast_tuple_target = 8160);
ALTER TABLE outbox.segment_1
    ALTER COLUMN topic   SET STORAGE MAIN,
    ALTER COLUMN key     SET STORAGE EXTERNAL,
    ALTER COLUMN payload SET STORAGE EXTERNAL,
    ALTER COLUMN headers SET STORAGE EXTERNAL;
CREATE TABLE outbox.segment_2 (LIKE outbox.segment_1 INCLUDING STORAGE)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, fillfactor = 100, toast_tuple_target = 8160);
CREATE TABLE outbox.segment_3 (LIKE outbox.segment_1 INCLUDING STORAGE)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, fillfactor = 100, toast_tuple_target = 8160);
CREATE TABLE outbox.segment_4 (LIKE outbox.segment_1 INCLUDING STORAGE)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, fillfactor = 100, toast_tuple_target = 8160);
-- emit() gives an entry only to a row that does not stand right behind the one of the position before it, on
-- the same page: the others are found from there. So the index must not answer queries. Its predicate is true
-- for every row, but follows from no condition, and the planner leaves it alone. Whatever builds or fills it
-- otherwise (REINDEX, VACUUM FULL, a restored dump) gives each row its entry, which does no harm.
-- No position comes twice: looking for duplicates in each page that fills up would find none.
CREATE INDEX segment_1_position ON outbox.segment_1 (position)
    WITH (fillfactor = 100, deduplicate_items = off) WHERE position % 1 = 0;
CREATE INDEX segment_2_position ON outbox.segment_2 (position)
    WITH (fillfactor = 100, deduplicate_items = off) WHERE position % 1 = 0;
CREATE INDEX segment_3_position ON outbox.segment_3 (position)
    WITH (fillfactor = 100, deduplicate_items = off) WHERE position % 1 = 0;
CREATE INDEX segment_4_position ON outbox.segment_4 (position)
    WITH (fillfactor = 100, deduplicate_items = off) WHERE position % 1 = 0;
COMMENT ON TABLE outbox.segment_1 IS 'Segment 1 of the message log. Read it through the view messages.';
COMMENT ON TABLE outbox.segment_2 IS 'Segment 2 of the message log. Read it through the view messages.';
COMMENT ON TABLE outbox.segment_3 IS 'Segment 3 of the message log. Read it through the view messages.';
COMMENT ON TABLE outbox.segment_4 IS 'Segment 4 of the message log. Read it through the view messages.';

COMMENT ON INDEX outbox.segment_1_position IS
    'Leads the relay to runs of rows by position. Not for queries: it lacks most rows, and its predicate, which is '
    'true for all of them, keeps the planner away.';
COMMENT ON INDEX outbox.segment_2_position IS
    'Leads the relay to runs of rows by position. Not for queries: it lacks most rows, and its predicate, which is '
    'true for all of them, keeps the planner away.';
COMMENT ON INDEX outbox.segment_3_position IS
    'Leads the relay to runs of rows by position. Not for queries: it lacks most rows, and its predicate, which is '
    'true for all of them, keeps the planner away.';
COMMENT ON INDEX outbox.segment_4_position IS
    'Leads the relay to runs of rows by position. Not for queries: it lacks most rows, and its predicate, which is '
    'true for all of them, keeps the planner away.';

-- The relay's progress: every position up to watermark is settled, except those in unsettled. The newest row
-- (highest number) counts. Rows are only added; when one table is large the other is emptied and takes over,
-- so that no row version is ever dead, however old the oldest snapshot.
CREATE TABLE outbox.progress_1 (
    number    bigint         NOT NULL,
    watermark bigint         NOT NULL,
    unsettled int8multirange NOT NULL,
    delivered bigint         NOT NULL,
    deferred  bigint         NOT NULL,
    time      timestamptz    NOT NULL
) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE outbox.progress_2 (LIKE outbox.progress_1)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE INDEX progress_1_number ON outbox.progress_1 (number);
CREATE INDEX progress_2_number ON outbox.progress_2 (number);
COMMENT ON INDEX outbox.progress_1_number IS 'Finds the newest row.';
COMMENT ON INDEX outbox.progress_2_number IS 'Finds the newest row.';
COMMENT ON TABLE outbox.progress_1 IS 'Progress of the relay: the newest row of progress_1 and progress_2 counts.';
COMMENT ON TABLE outbox.progress_2 IS 'Progress of the relay: the newest row of progress_1 and progress_2 counts.';

-- Whose messages these are, and whether the relay is paused. One row for each identity that has been seen:
-- the relay works only while there is none but its own.
CREATE TABLE outbox.identity (
    system_identifier bigint  NOT NULL,
    database_oid      oid     NOT NULL,
    paused            boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE outbox.identity IS
    'The server and database whose relay may publish these messages, and whether an operator paused it. A row '
    'of another identity (a restored dump, a cloned database) keeps the relay silent until outbox.resume().';

-- Messages that could not go with the others: their topic takes none at present (waiting), the broker refused
-- them or one beside them (suspect), or it refused them or an earlier one of their key for good (parked). Kept
-- here so that the ring of segments turns.
CREATE TABLE outbox.deferred (
    position   bigint      NOT NULL PRIMARY KEY,
    time       timestamptz NOT NULL,
    id         uuid        NOT NULL,
    partition  integer,
    topic      text        COLLATE "C" NOT NULL,
    key        bytea,
    payload    bytea,
    headers    jsonb,
    state      text        COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'suspect', 'parked', 'released')),
    error_code integer,
    error      text,
    attempts   integer     NOT NULL,
    behind     bigint,
    deferred_at timestamptz NOT NULL,
    parked_at  timestamptz
);
CREATE INDEX deferred_topic ON outbox.deferred (topic, position) WHERE state IN ('waiting', 'suspect');
CREATE INDEX deferred_key ON outbox.deferred (topic, sha256(key)) WHERE state IN ('parked', 'released');
COMMENT ON INDEX outbox.deferred_topic IS 'A topic''s messages that are to be tried again, in order.';
COMMENT ON INDEX outbox.deferred_key IS 'Finds out whether a key has a parked message.';
COMMENT ON INDEX outbox.deferred_pkey IS 'Deferred messages by position.';
COMMENT ON CONSTRAINT deferred_pkey ON outbox.deferred IS 'A message is deferred once.';
COMMENT ON CONSTRAINT deferred_state_check ON outbox.deferred IS 'The states that the relay knows.';
COMMENT ON TABLE outbox.deferred IS
    'Messages taken out of the log because their topic or the broker does not take them: waiting and suspect '
    'ones are tried again, parked ones stay until an operator calls outbox.retry() (released) or outbox.discard().';

-- The topics of the roles that were granted topics: outbox.grant_emit(role, topic_pattern). Such a role has,
-- beside EXECUTE on emit(), USAGE on the domain; that is what makes EXECUTE count for its topics only. Both are
-- privileges and travel together: where the rows are lost the role may emit to no topic, not to every one.
CREATE DOMAIN outbox.topic_pattern AS text COLLATE "C"
    CONSTRAINT topic_pattern_check CHECK (VALUE OPERATOR(pg_catalog.~) '^[a-zA-Z0-9._*-]{1,249}$');
COMMENT ON DOMAIN outbox.topic_pattern IS
    'A Kafka topic, or several: "*" stands for any run of characters, none too. USAGE on this domain marks the roles '
    'whose right to call emit() counts for the topics in outbox.emit_grant only.';
COMMENT ON CONSTRAINT topic_pattern_check ON DOMAIN outbox.topic_pattern IS
    'The characters of a Kafka topic, and "*".';
CREATE TABLE outbox.emit_grant (
    grantee       regrole              NOT NULL,
    topic_pattern outbox.topic_pattern NOT NULL,
    PRIMARY KEY (grantee, topic_pattern)
);
COMMENT ON INDEX outbox.emit_grant_pkey IS 'A role''s topics.';
COMMENT ON CONSTRAINT emit_grant_pkey ON outbox.emit_grant IS 'A topic is granted once.';
COMMENT ON TABLE outbox.emit_grant IS
    'Who may emit to certain topics only, and to which. Written by outbox.grant_emit() and outbox.revoke_emit().';
COMMENT ON COLUMN outbox.emit_grant.grantee IS 'the role';
COMMENT ON COLUMN outbox.emit_grant.topic_pattern IS 'topic, or topics: "*" stands for any run of characters';

---------------------------------------------------------------------------------------------------------
-- Guards. emit() and the relay write segments below the executor, where no trigger fires.
---------------------------------------------------------------------------------------------------------

-- Rows that arrive in a segment by anything but emit() (logical replication, a restore, an INSERT by hand)
-- are not this server's to publish.
CREATE FUNCTION outbox.guard_segment() RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_guard_segment';
COMMENT ON FUNCTION outbox.guard_segment() IS
    'Trigger of the segments: drops what logical replication brings; any other row not written by emit() '
    'pauses the relay until outbox.resume().';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.segment_1
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_segment();
ALTER TABLE outbox.segment_1 ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.segment_1 IS 'Catches rows that do not come from emit().';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.segment_2
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_segment();
ALTER TABLE outbox.segment_2 ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.segment_2 IS 'Catches rows that do not come from emit().';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.segment_3
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_segment();
ALTER TABLE outbox.segment_3 ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.segment_3 IS 'Catches rows that do not come from emit().';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.segment_4
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_segment();
ALTER TABLE outbox.segment_4 ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.segment_4 IS 'Catches rows that do not come from emit().';

-- TRUNCATE says what it discards.
CREATE FUNCTION outbox.guard_truncate() RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_guard_truncate';
COMMENT ON FUNCTION outbox.guard_truncate() IS
    'Trigger of the segments: a WARNING with the number of messages that a TRUNCATE discards undelivered.';
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON outbox.segment_1
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.guard_truncate();
ALTER TABLE outbox.segment_1 ENABLE ALWAYS TRIGGER guard_truncate;
COMMENT ON TRIGGER guard_truncate ON outbox.segment_1 IS 'Says what TRUNCATE discards.';
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON outbox.segment_2
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.guard_truncate();
ALTER TABLE outbox.segment_2 ENABLE ALWAYS TRIGGER guard_truncate;
COMMENT ON TRIGGER guard_truncate ON outbox.segment_2 IS 'Says what TRUNCATE discards.';
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON outbox.segment_3
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.guard_truncate();
ALTER TABLE outbox.segment_3 ENABLE ALWAYS TRIGGER guard_truncate;
COMMENT ON TRIGGER guard_truncate ON outbox.segment_3 IS 'Says what TRUNCATE discards.';
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON outbox.segment_4
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.guard_truncate();
ALTER TABLE outbox.segment_4 ENABLE ALWAYS TRIGGER guard_truncate;
COMMENT ON TRIGGER guard_truncate ON outbox.segment_4 IS 'Says what TRUNCATE discards.';

-- What a publication FOR ALL TABLES takes along of another server's relay must not become this one's.
CREATE FUNCTION outbox.guard_state() RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_guard_state';
COMMENT ON FUNCTION outbox.guard_state() IS
    'Trigger of the relay''s own tables: drops what logical replication brings.';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.progress_1
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_state();
ALTER TABLE outbox.progress_1 ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.progress_1 IS 'Drops what logical replication brings.';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.progress_2
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_state();
ALTER TABLE outbox.progress_2 ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.progress_2 IS 'Drops what logical replication brings.';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.identity
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_state();
ALTER TABLE outbox.identity ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.identity IS 'Drops what logical replication brings.';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.deferred
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_state();
ALTER TABLE outbox.deferred ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.deferred IS 'Drops what logical replication brings.';
-- It also tells every session that the rights it has looked up may have changed.
CREATE FUNCTION outbox.guard_emit_grant() RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_guard_emit_grant';
COMMENT ON FUNCTION outbox.guard_emit_grant() IS
    'Trigger of emit_grant: drops what logical replication brings, makes any other change known to all sessions.';
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON outbox.emit_grant
    FOR EACH ROW EXECUTE FUNCTION outbox.guard_emit_grant();
ALTER TABLE outbox.emit_grant ENABLE ALWAYS TRIGGER guard;
COMMENT ON TRIGGER guard ON outbox.emit_grant IS 'Makes changes known; drops what logical replication brings.';
-- A published table without a replica identity refuses UPDATE and DELETE.
ALTER TABLE outbox.identity REPLICA IDENTITY FULL;

---------------------------------------------------------------------------------------------------------
-- emit: sixteen overloads, one entry point. Not strict: NULL key and NULL payload have a meaning.
---------------------------------------------------------------------------------------------------------

CREATE FUNCTION outbox.emit(topic text, key text, payload text, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key text, payload json, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key text, payload jsonb, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key text, payload bytea, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bytea, payload text, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bytea, payload json, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bytea, payload jsonb, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bytea, payload bytea, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bigint, payload text, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bigint, payload json, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bigint, payload jsonb, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key bigint, payload bytea, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key uuid, payload text, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key uuid, payload json, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key uuid, payload jsonb, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';
CREATE FUNCTION outbox.emit(topic text, key uuid, payload bytea, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit';

DO $comment$
DECLARE
    overload regprocedure;
BEGIN
    FOR overload IN
        SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'outbox'::pg_catalog.regnamespace::pg_catalog.oid AND proname = 'emit' AND pronargs = 5
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON FUNCTION %s IS %L', overload,
            'Sends a message to a Kafka topic if, and only if, this transaction commits; returns its id (UUID, '
            'version 7), which consumers see in the header "id". topic: 1 to 249 of [a-zA-Z0-9._-]. key: decides '
            'the partition and the order; NULL for none. payload: the bytes as they are; NULL for a tombstone. '
            'headers: a JSON object (string: its text; number, boolean, object: JSON text; null: a null header; '
            'array: the header repeated). partition: NULL lets the key decide. Raises 22023 for what Kafka could '
            'not take, 42501 for a topic that the caller was not granted, 54000 above outbox.max_message_bytes, 53400 '
            'above outbox.backlog_limit, 25006 in a read-only transaction or on a standby, 55000 where the library is not '
            'preloaded.');
    END LOOP;
END
$comment$;

-- For those who have no outbox table, but let Debezium decode what they gave to pg_logical_emit_message().
CREATE FUNCTION outbox.emit(event json, topic text DEFAULT 'outbox.event.${routedByValue}')
    RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_emit_event';
COMMENT ON FUNCTION outbox.emit(json, text) IS
    'Sends an event in the shape that Debezium''s router reads from a WAL message, instead of pg_logical_emit_message(): '
    'aggregatetype becomes the topic, in place of ${routedByValue}; aggregateid the key; payload the payload, a string''s text '
    'or the JSON as it is; id, a UUID, the message''s id, which is made if there is none. Raises 22023 without an '
    'aggregatetype, 22P02 for an id that is no UUID, and what the other forms of emit() raise.';

---------------------------------------------------------------------------------------------------------
-- attach: rows of a table as messages.
---------------------------------------------------------------------------------------------------------

-- Everybody may execute it: the server asks for that when it copies the trigger for a partition. Only superusers, and
-- attach(), can make a trigger of it, as its arguments say whose rights it has.
CREATE FUNCTION outbox.attached() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_attached';
COMMENT ON FUNCTION outbox.attached() IS
    'Trigger of attached tables: emits a message for a row, as outbox.attach() has declared it.';

CREATE FUNCTION outbox.attach(
    "table" regclass, topic text, key text DEFAULT NULL, payload text DEFAULT NULL, headers text DEFAULT NULL,
    partition text DEFAULT NULL, "when" text DEFAULT NULL, events text[] DEFAULT '{insert}', name name DEFAULT 'outbox')
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_attach';
COMMENT ON FUNCTION outbox.attach(regclass, text, text, text, text, text, text, text[], name) IS
    'Makes each row of a table a message, emitted by the statement that writes the row, as if its owner had called '
    'emit(). Each part is the name of a column, or an SQL expression over NEW, OLD and TG_OP. topic: also a topic itself; '
    'key: the primary key if not given; payload: the whole row as JSON if not given; headers: jsonb, an object; partition: '
    'integer; when: boolean, no message unless true; events: insert, update, delete; name: of the trigger. For the '
    'table''s owner, who has to be able to emit. Raises 42601, 42703, 42804 and the like for a part that is not valid, '
    '0A000 for subqueries and aggregates, 42501 for a lack of rights, 42710 for a name that is taken, 42809 for what is no '
    'table.';

CREATE FUNCTION outbox.attach_debezium(
    "table" regclass, config jsonb, remove_after_insert boolean DEFAULT false, name name DEFAULT 'outbox')
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_attach_debezium';
COMMENT ON FUNCTION outbox.attach_debezium(regclass, jsonb, boolean, name) IS
    'Attaches a table that Debezium''s outbox event router has read so far: the same records, from the same configuration. '
    'config: the connector''s, or only the transform''s, with the names that Debezium gives the options. '
    'remove_after_insert: rows are gone as soon as they have become a message. For the table''s owner, who has to be able to '
    'emit. Raises 22023 for an unknown option or value, 0A000 for what is not done here, 42703 for a column that is missing, '
    '42804 for one of the wrong type, and what attach() raises.';

CREATE FUNCTION outbox.check_debezium(config jsonb, "table" regclass DEFAULT NULL)
    RETURNS TABLE (subject text, ready boolean, detail text) LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    options  jsonb := CASE WHEN jsonb_typeof(config -> 'config') = 'object' THEN config -> 'config' ELSE config END;
    named    text := options ->> 'table.include.list';
    outbox   regclass := "table";
    holder   name;
    slot     record;
    hint     text;
    problem  text;
BEGIN
    BEGIN
        RETURN QUERY SELECT 'relay', s.state IN ('running', 'connecting', 'waiting', 'paused'), s.state FROM outbox.relay_status() AS s;
    EXCEPTION WHEN insufficient_privilege THEN
        RETURN QUERY SELECT 'relay', NULL::boolean, 'only a member of pg_monitor may look at it';
    END;

    -- A list of regular expressions; most name one table, with its dot escaped or not.
    IF outbox IS NULL AND named ~ '^[^.,*]+[.][^.,*]+$' THEN
        outbox := to_regclass(replace(named, '\', ''));
    END IF;
    IF outbox IS NULL THEN
        RETURN QUERY SELECT 'table', false, CASE WHEN named IS NULL THEN 'name it: check_debezium(config, table)'
            ELSE format('table.include.list is "%s", which names no single table; name it: check_debezium(config, table)', named) END;
        RETURN;
    END IF;
    SELECT r.rolname INTO holder FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner WHERE c.oid = outbox;
    RETURN QUERY SELECT 'table', true, format('%s, owned by %s', outbox, holder);
    RETURN QUERY SELECT 'privileges', may, CASE WHEN may THEN format('%s may emit', holder)
            ELSE format('%s may not emit: SELECT outbox.grant_emit(%L);', holder, holder) END
        FROM has_function_privilege(holder, 'outbox.emit(text,bytea,bytea,jsonb,integer)', 'EXECUTE') AS may;

    -- Attached and taken back; whoever writes rows waits that long.
    BEGIN
        PERFORM set_config('lock_timeout', '2s', true);
        PERFORM outbox.attach_debezium(outbox, config, name => 'outbox_check');
        RAISE SQLSTATE 'OB001';
    EXCEPTION
        WHEN SQLSTATE 'OB001' THEN
            RETURN QUERY SELECT 'configuration', true, 'every option is honoured';
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS problem = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RETURN QUERY SELECT 'configuration', false, concat_ws(' ', sqlerrm || '.', nullif(problem, ''), nullif(hint, ''));
    END;
    IF NOT options ? 'key.converter' OR NOT options ? 'value.converter' THEN
        RETURN QUERY SELECT 'converters', true, 'where none is named JsonConverter with schemas is assumed; add key.converter and '
            'value.converter if the worker sets others';
    END IF;
    IF coalesce(options ->> 'extended.headers.enabled', '') = '' THEN
        RETURN QUERY SELECT 'headers', true, 'Debezium adds headers __debezium.context.* unless extended.headers.enabled is false; '
            'here they are sent only if it is true';
    END IF;
    IF NOT EXISTS (SELECT FROM jsonb_object_keys(options) AS k WHERE k LIKE '%table.field.event.timestamp') THEN
        RETURN QUERY SELECT 'timestamp', true, 'a record''s timestamp is the time of its commit, not of Debezium''s reading it';
    END IF;

    FOR slot IN SELECT s.slot_name, s.active, pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn) AS behind
                FROM pg_replication_slots AS s WHERE s.slot_name = coalesce(options ->> 'slot.name', 'debezium') LOOP
        RETURN QUERY SELECT 'slot', true, format('%s is %s, %s bytes behind', slot.slot_name,
            CASE WHEN slot.active THEN 'being read' ELSE 'not being read' END, slot.behind);
    END LOOP;
END
$function$;
COMMENT ON FUNCTION outbox.check_debezium(jsonb, regclass) IS
    'Whether this database is ready to take over from Debezium: the relay, the table, privileges, every option of the '
    'configuration, and what will differ; nothing is changed. table: only if table.include.list names none or several. Locks '
    'the table against writers for some milliseconds, two seconds at most until it has the lock. For the table''s owner.';

CREATE FUNCTION outbox.detach("table" regclass, name name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_detach';
COMMENT ON FUNCTION outbox.detach(regclass, name) IS
    'Takes back what outbox.attach() declared: the attachment of that name, or all of the table. For the table''s owner. '
    'Raises 42704 where there is none.';

CREATE FUNCTION outbox.preview(
    new anyelement, old anyelement DEFAULT NULL, partitions integer DEFAULT NULL,
    OUT attachment name, OUT topic text, OUT partition integer, OUT key bytea, OUT payload bytea, OUT headers jsonb,
    OUT size bigint)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_preview';
COMMENT ON FUNCTION outbox.preview(anyelement, anyelement, integer) IS
    'The messages that a row of an attached table would become, one for each attachment that has one; nothing is sent. An '
    'insert, or with old an update, or with NULL for new a delete. partition: the one asked for, or, of a topic with so '
    'many partitions, the one that the key leads to. size: bytes that count for outbox.max_message_bytes. For the '
    'table''s owner. Raises what writing the row would raise.';

CREATE VIEW outbox.attachments AS
    SELECT t.tgrelid::regclass AS "table", t.tgname AS name,
           array_remove(ARRAY[CASE WHEN t.tgtype & 4 <> 0 THEN 'insert' END, CASE WHEN t.tgtype & 16 <> 0 THEN 'update' END,
                              CASE WHEN t.tgtype & 8 <> 0 THEN 'delete' END], NULL) AS events,
           CASE t.tgenabled WHEN 'O' THEN 'origin' WHEN 'A' THEN 'always' WHEN 'R' THEN 'replica' ELSE 'disabled' END AS enabled,
           d.relowner::regrole AS owner, pg_get_viewdef(d.oid) AS declaration
    FROM pg_trigger AS t
    LEFT JOIN pg_class AS d
        ON d.relnamespace = 'outbox'::regnamespace::oid
       AND d.relname = convert_from(substring(t.tgargs FOR position('\x00'::bytea IN t.tgargs) - 1),
                                    current_setting('server_encoding'))
    WHERE t.tgfoid = 'outbox.attached()'::regprocedure AND t.tgparentid = 0;
COMMENT ON VIEW outbox.attachments IS 'Tables whose rows are messages: see outbox.attach().';
COMMENT ON COLUMN outbox.attachments."table" IS 'the table, with its partitions';
COMMENT ON COLUMN outbox.attachments.name IS 'name of the attachment, and of its trigger';
COMMENT ON COLUMN outbox.attachments.events IS 'what makes a row a message';
COMMENT ON COLUMN outbox.attachments.enabled IS
    'when the trigger fires: origin (as triggers do), always (for rows that logical replication brings, too), replica '
    '(for those only), disabled';
COMMENT ON COLUMN outbox.attachments.owner IS 'whose rights count: those of the table''s owner when it was attached';
COMMENT ON COLUMN outbox.attachments.declaration IS 'what each part of a message is, as SQL';

---------------------------------------------------------------------------------------------------------
-- What applications and operators see and do.
---------------------------------------------------------------------------------------------------------

CREATE FUNCTION outbox.uncommitted(
    OUT ordinal bigint, OUT id uuid, OUT topic text, OUT key bytea, OUT payload bytea, OUT headers jsonb,
    OUT partition integer)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_uncommitted';
COMMENT ON FUNCTION outbox.uncommitted() IS
    'The messages that this transaction has emitted so far and not rolled back, in order: for an application''s '
    'tests, which assert on them and roll back.';

CREATE FUNCTION outbox.relay_status(
    OUT state text, OUT backlog bigint, OUT backlog_bytes bigint, OUT backlog_limit bigint,
    OUT limit_reached_at timestamptz, OUT oldest timestamptz, OUT delivered bigint, OUT deferred bigint, OUT parked bigint,
    OUT last_error text, OUT last_error_at timestamptz, OUT relay_pid integer, OUT sink_pid integer,
    OUT sink text, OUT sink_statistics jsonb, OUT watermark bigint, OUT active_segment integer)
    RETURNS record LANGUAGE c VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_relay_status';
COMMENT ON FUNCTION outbox.relay_status() IS 'What the view status shows.';

CREATE VIEW outbox.status AS
    SELECT state, backlog, backlog_bytes, backlog_limit, limit_reached_at, oldest, delivered, deferred, parked,
           last_error, last_error_at, relay_pid, sink_pid, sink, sink_statistics, watermark, active_segment
    FROM outbox.relay_status();
COMMENT ON VIEW outbox.status IS
    'One row on this database''s relay. Reading it costs the same whatever is waiting.';
COMMENT ON COLUMN outbox.status.state IS
    'running (where there was no message for half a minute: as of then); connecting (the broker has not answered yet, '
    'or no longer does); waiting (a topic takes no messages at present, others flow); paused (outbox.pause()); foreign (these messages were written by another server or '
    'database: outbox.resume() publishes them); disabled (outbox.enabled is off); failed (see last_error: the relay '
    'tries again by itself); stopped (no relay is running)';
COMMENT ON COLUMN outbox.status.backlog IS 'messages committed and not settled yet, deferred ones included';
COMMENT ON COLUMN outbox.status.backlog_bytes IS
    'disk space that the backlog takes, in bytes, indexes included: of the segments in proportion to what is not '
    'settled in them; parked messages do not count';
COMMENT ON COLUMN outbox.status.backlog_limit IS
    'outbox.backlog_limit in bytes, as this session sees it: where emit() refuses; NULL: no limit';
COMMENT ON COLUMN outbox.status.limit_reached_at IS
    'when the backlog reaches its limit if it goes on growing as over the last minute; the present time if it has. '
    'NULL: no limit, not growing, or nothing measured in the last minute to compare with';
COMMENT ON COLUMN outbox.status.oldest IS 'time of the oldest message that is not settled';
COMMENT ON COLUMN outbox.status.delivered IS 'messages that the broker has acknowledged so far';
COMMENT ON COLUMN outbox.status.deferred IS 'messages of the backlog that wait apart because their topic or the broker does not take them';
COMMENT ON COLUMN outbox.status.parked IS
    'messages that stay until an operator retries or discards them, see outbox.parked; not part of the backlog';
COMMENT ON COLUMN outbox.status.last_error IS 'the latest trouble, in the words of the broker or of its client; kept after it is over';
COMMENT ON COLUMN outbox.status.last_error_at IS 'when that was';
COMMENT ON COLUMN outbox.status.relay_pid IS 'process id of the relay';
COMMENT ON COLUMN outbox.status.sink_pid IS 'process id of the sink, the relay''s child';
COMMENT ON COLUMN outbox.status.sink IS 'name and versions of the sink';
COMMENT ON COLUMN outbox.status.sink_statistics IS 'counters of the sink, for diagnosis; names may change';
COMMENT ON COLUMN outbox.status.watermark IS 'highest position that the relay has read';
COMMENT ON COLUMN outbox.status.active_segment IS 'number of the segment that messages are written to';

CREATE VIEW outbox.messages AS
    WITH progress AS (
        SELECT watermark, unsettled
        FROM (SELECT * FROM outbox.progress_1 UNION ALL SELECT * FROM outbox.progress_2) AS p
        ORDER BY number DESC LIMIT 1
    ), log AS (
        SELECT * FROM outbox.segment_1
        UNION ALL SELECT * FROM outbox.segment_2
        UNION ALL SELECT * FROM outbox.segment_3
        UNION ALL SELECT * FROM outbox.segment_4
    )
    SELECT l.position, l.id, l.topic, l.key, l.payload, l.headers, l.partition, l.time,
           coalesce(l.position <= p.watermark AND NOT p.unsettled @> l.position, false) AS settled
    FROM log AS l LEFT JOIN progress AS p ON true
    WHERE NOT EXISTS (SELECT FROM outbox.deferred AS d WHERE d.position = l.position)
    UNION ALL
    SELECT d.position, d.id, d.topic, d.key, d.payload, d.headers, d.partition, d.time, d.state = 'parked'
    FROM outbox.deferred AS d;
COMMENT ON VIEW outbox.messages IS
    'The messages that are stored at present: those not settled yet, and settled ones until their segment is '
    'reused (outbox.retention). Key and payload are bytes: convert_from(payload, ''UTF8'') shows text.';
COMMENT ON COLUMN outbox.messages.position IS 'place in the log, given at commit';
COMMENT ON COLUMN outbox.messages.id IS 'what emit() returned; the header id of the Kafka message';
COMMENT ON COLUMN outbox.messages.topic IS 'Kafka topic';
COMMENT ON COLUMN outbox.messages.key IS 'key, as bytes; NULL for none';
COMMENT ON COLUMN outbox.messages.payload IS 'payload, as bytes; NULL for a tombstone';
COMMENT ON COLUMN outbox.messages.headers IS
    'headers as given to emit(); of a table attached by attach_debezium() an array of all of them in their order, "id" standing '
    'for the id, after a number if that is Kafka''s timestamp';
COMMENT ON COLUMN outbox.messages.partition IS 'partition as given to emit(); NULL: the key decides';
COMMENT ON COLUMN outbox.messages.time IS 'when the row was written: Kafka''s timestamp, unless headers begin with another';
COMMENT ON COLUMN outbox.messages.settled IS
    'acknowledged by the broker or parked; may lag behind by some tens of milliseconds';

CREATE FUNCTION outbox.wait_for_delivery(timeout interval DEFAULT '30 s') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_wait_for_delivery';
COMMENT ON FUNCTION outbox.wait_for_delivery(interval) IS
    'Waits until every message committed before the call is settled: true; or until the timeout: false. NULL waits '
    'without limit. Messages of the calling transaction are not among them: they are not committed.';

CREATE FUNCTION outbox.pause() RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_pause';
COMMENT ON FUNCTION outbox.pause() IS
    'Stops sending once this transaction commits; emit() goes on storing. Survives restarts. See outbox.resume().';

CREATE FUNCTION outbox.resume() RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_resume';
COMMENT ON FUNCTION outbox.resume() IS
    'Starts sending again once this transaction commits, after outbox.pause() or in state "foreign", where it '
    'declares that the messages stored here are this server''s to publish.';

CREATE FUNCTION outbox.discard_backlog() RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_discard_backlog';
COMMENT ON FUNCTION outbox.discard_backlog() IS
    'Gives up, unsent, every message that is waiting at present, and returns how many. Only while the relay is '
    'paused or in state "foreign": the way out for a copy that must not publish its original''s messages.';

CREATE VIEW outbox.parked AS
    SELECT d.position, d.id, d.topic, d.key, d.payload, d.headers, d.partition, d.time, d.parked_at, d.attempts,
           d.error_code, d.error, h.id AS behind
    FROM outbox.deferred AS d LEFT JOIN outbox.deferred AS h ON h.position = d.behind
    WHERE d.state = 'parked';
COMMENT ON VIEW outbox.parked IS
    'Messages that the broker refused for good, and later ones of their topic and key, which stand behind them so '
    'that order holds. They stay until outbox.retry() or outbox.discard().';
COMMENT ON COLUMN outbox.parked.position IS 'place in the log, given at commit';
COMMENT ON COLUMN outbox.parked.id IS 'what emit() returned';
COMMENT ON COLUMN outbox.parked.topic IS 'Kafka topic';
COMMENT ON COLUMN outbox.parked.key IS 'key, as bytes; NULL for none';
COMMENT ON COLUMN outbox.parked.payload IS 'payload, as bytes; NULL for a tombstone';
COMMENT ON COLUMN outbox.parked.headers IS 'headers as given to emit()';
COMMENT ON COLUMN outbox.parked.partition IS 'partition as given to emit(); NULL: the key decides';
COMMENT ON COLUMN outbox.parked.time IS 'when the row was written: Kafka''s timestamp';
COMMENT ON COLUMN outbox.parked.parked_at IS 'when it was parked, the last time if it was retried';
COMMENT ON COLUMN outbox.parked.attempts IS
    'how often the broker refused it; 0: never tried, or its topic was unknown for longer than '
    'outbox.unknown_topic_timeout. Trouble with broker or topic does not count';
COMMENT ON COLUMN outbox.parked.error_code IS 'number of the error in Kafka''s protocol; negative ones are the client''s';
COMMENT ON COLUMN outbox.parked.error IS 'the words of the broker, or of its client';
COMMENT ON COLUMN outbox.parked.behind IS
    'id of the message of the same key behind which this one waits; NULL: it was refused itself';

CREATE FUNCTION outbox.retry() RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_retry';
COMMENT ON FUNCTION outbox.retry() IS
    'Sends every parked message again once this transaction commits, each key''s in their order, and returns how '
    'many. One that the broker refuses again is parked again, and those of its key behind it.';
CREATE FUNCTION outbox.retry(id uuid) RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_retry_message';
COMMENT ON FUNCTION outbox.retry(uuid) IS
    'Sends one parked message again once this transaction commits, and after it those that stand behind it; returns '
    'how many, 0 if it is not parked. Raises 55000 for a message that stands behind another one, 22004 for NULL.';
CREATE FUNCTION outbox.retry(topic text) RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_retry_topic';
COMMENT ON FUNCTION outbox.retry(text) IS
    'Sends the parked messages of a topic again once this transaction commits, each key''s in their order; returns '
    'how many. Raises 22004 for NULL.';
CREATE FUNCTION outbox.retry(topic text, key bytea) RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_retry_key';
COMMENT ON FUNCTION outbox.retry(text, bytea) IS
    'Sends the parked messages of a topic and key again once this transaction commits, in their order; returns how '
    'many. A NULL key means the messages without one. Raises 22004 for a topic that is NULL.';

CREATE FUNCTION outbox.discard() RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_discard';
COMMENT ON FUNCTION outbox.discard() IS 'Gives up every parked message, unsent, and returns how many.';
CREATE FUNCTION outbox.discard(id uuid) RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_discard_message';
COMMENT ON FUNCTION outbox.discard(uuid) IS
    'Gives up one parked message, unsent; returns 1, or 0 if it is not parked. Those that stood behind it are sent '
    'once this transaction commits. Raises 22004 for NULL.';
CREATE FUNCTION outbox.discard(topic text) RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_discard_topic';
COMMENT ON FUNCTION outbox.discard(text) IS
    'Gives up the parked messages of a topic, unsent, and returns how many. Raises 22004 for NULL.';
CREATE FUNCTION outbox.discard(topic text, key bytea) RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'outbox_discard_key';
COMMENT ON FUNCTION outbox.discard(text, bytea) IS
    'Gives up the parked messages of a topic and key, unsent, and returns how many. A NULL key means the messages '
    'without one. Raises 22004 for a topic that is NULL.';

-- Rights to emit. These run as their caller: GRANT and REVOKE decide what the caller may, and only the extension's
-- owner (and superusers) can write emit_grant.

CREATE FUNCTION outbox.grant_emit(role regrole) RETURNS void LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    callable regprocedure;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'role % does not exist', coalesce(role::text, 'NULL') USING ERRCODE = 'undefined_object';
    END IF;
    -- Topics that it was granted have no meaning any more.
    IF EXISTS (SELECT FROM pg_type AS t, aclexplode(t.typacl) AS a
               WHERE t.oid = 'outbox.topic_pattern'::regtype AND a.grantee = role AND a.grantee <> t.typowner) THEN
        PERFORM outbox.revoke_emit(role);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA outbox TO %s', role);
    FOR callable IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'outbox'::regnamespace::oid AND proname IN ('emit', 'uncommitted', 'attach', 'attach_debezium', 'check_debezium', 'detach', 'preview')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', callable, role);
    END LOOP;
END
$function$;
COMMENT ON FUNCTION outbox.grant_emit(regrole) IS
    'Lets a role emit to any topic: USAGE on the schema, EXECUTE on every emit(), on uncommitted(), attach(), attach_debezium(), check_debezium(), detach() and preview(). The caller needs '
    'the right to grant these. Replaces the topics that the role was granted.';

CREATE FUNCTION outbox.grant_emit(role regrole, topic_pattern text) RETURNS void LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    callable regprocedure;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'role % does not exist', coalesce(role::text, 'NULL') USING ERRCODE = 'undefined_object';
    END IF;
    IF topic_pattern IS NULL OR topic_pattern !~ '^[a-zA-Z0-9._*-]{1,249}$' THEN
        RAISE EXCEPTION 'topic pattern % is not valid', coalesce(quote_ident(topic_pattern), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                DETAIL = 'No topic could match it.',
                HINT = 'A pattern is 1 to 249 of the characters of a topic (letters, digits, ".", "_", "-") and "*" '
                       'for any run of them, as in "orders.*".';
    END IF;
    -- Only who may write the table goes on; one after the other.
    LOCK TABLE outbox.emit_grant IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM pg_type AS t, aclexplode(t.typacl) AS a
                   WHERE t.oid = 'outbox.topic_pattern'::regtype AND a.grantee = role AND a.grantee <> t.typowner) THEN
        -- A grant never takes anything away.
        IF EXISTS (SELECT FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                   WHERE p.pronamespace = 'outbox'::regnamespace::oid AND p.proname = 'emit' AND a.grantee = role) THEN
            RAISE EXCEPTION 'role "%" may emit to any topic already', role::text
                USING ERRCODE = 'object_not_in_prerequisite_state',
                    DETAIL = 'It was given EXECUTE on outbox.emit().',
                    HINT = 'To bind it to certain topics, call outbox.revoke_emit(role) first.';
        END IF;
        -- Rows without the mark were left by DROP OWNED, or by a role that is gone; its number may be used again.
        DELETE FROM outbox.emit_grant AS g
        WHERE g.grantee = role OR g.grantee NOT IN (SELECT r.oid FROM pg_roles AS r);
        EXECUTE format('GRANT USAGE ON TYPE outbox.topic_pattern TO %s', role);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA outbox TO %s', role);
    FOR callable IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'outbox'::regnamespace::oid AND proname IN ('emit', 'uncommitted', 'attach', 'attach_debezium', 'check_debezium', 'detach', 'preview')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', callable, role);
    END LOOP;
    INSERT INTO outbox.emit_grant (grantee, topic_pattern) VALUES (role, topic_pattern) ON CONFLICT DO NOTHING;
END
$function$;
COMMENT ON FUNCTION outbox.grant_emit(regrole, text) IS
    'Lets a role emit to the topics that the pattern matches ("*": any run of characters), besides those it was granted '
    'before, and to no other. As with any privilege, members of the role have it too, and what a role may do is what all '
    'its memberships and PUBLIC give it together. For the extension''s owner and superusers. Raises 22023 for a pattern '
    'that no topic could match, 55000 for a role that may emit to any topic.';

CREATE FUNCTION outbox.revoke_emit(role regrole) RETURNS void LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    callable regprocedure;
    others   text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'role % does not exist', coalesce(role::text, 'NULL') USING ERRCODE = 'undefined_object';
    END IF;
    FOR callable IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'outbox'::regnamespace::oid AND proname IN ('emit', 'uncommitted', 'attach', 'attach_debezium', 'check_debezium', 'detach', 'preview') AND proowner <> role
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', callable, role);
    END LOOP;
    -- As everywhere in PostgreSQL, what somebody else has granted is not revoked by this; but that is said.
    SELECT string_agg(DISTINCT a.grantor::regrole::text, ', ') INTO others
    FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
    WHERE p.pronamespace = 'outbox'::regnamespace::oid AND p.proname IN ('emit', 'uncommitted', 'attach', 'attach_debezium', 'check_debezium', 'detach', 'preview')
      AND a.grantee = role AND a.grantee <> p.proowner;
    IF others IS NOT NULL THEN
        RAISE EXCEPTION 'role "%" could still emit', role::text
            USING ERRCODE = 'dependent_objects_still_exist',
                DETAIL = format('It was given the right by %s.', others),
                HINT = 'Revoke it as that role: SET ROLE, then outbox.revoke_emit(role) or REVOKE.';
    END IF;
    IF EXISTS (SELECT FROM pg_type AS t, aclexplode(t.typacl) AS a
               WHERE t.oid = 'outbox.topic_pattern'::regtype AND a.grantee = role AND a.grantee <> t.typowner) THEN
        EXECUTE format('REVOKE ALL ON TYPE outbox.topic_pattern FROM %s', role);
        DELETE FROM outbox.emit_grant AS g WHERE g.grantee = role;
    END IF;
    -- The schema, unless something else in it was granted to the role.
    IF NOT EXISTS (SELECT FROM pg_proc AS p, aclexplode(p.proacl) AS a
                   WHERE p.pronamespace = 'outbox'::regnamespace::oid AND a.grantee = role)
       AND NOT EXISTS (SELECT FROM pg_class AS c, aclexplode(c.relacl) AS a
                       WHERE c.relnamespace = 'outbox'::regnamespace::oid AND a.grantee = role) THEN
        EXECUTE format('REVOKE USAGE ON SCHEMA outbox FROM %s', role);
    END IF;
END
$function$;
COMMENT ON FUNCTION outbox.revoke_emit(regrole) IS
    'Takes back what outbox.grant_emit() gave the role itself: every topic, or all its topics. What it may do as a member '
    'of another role stays. Raises 2BP01 where somebody else gave it the right too.';

CREATE FUNCTION outbox.revoke_emit(role regrole, topic_pattern text) RETURNS void LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'role % does not exist', coalesce(role::text, 'NULL') USING ERRCODE = 'undefined_object';
    END IF;
    LOCK TABLE outbox.emit_grant IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM pg_type AS t, aclexplode(t.typacl) AS a
                   WHERE t.oid = 'outbox.topic_pattern'::regtype AND a.grantee = role AND a.grantee <> t.typowner)
       AND EXISTS (SELECT FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                   WHERE p.pronamespace = 'outbox'::regnamespace::oid AND p.proname = 'emit' AND a.grantee = role) THEN
        RAISE EXCEPTION 'role "%" may emit to any topic', role::text
            USING ERRCODE = 'object_not_in_prerequisite_state',
                DETAIL = 'It was given EXECUTE on outbox.emit(), not certain topics.',
                HINT = 'Call outbox.revoke_emit(role) first, then grant it topics.';
    END IF;
    DELETE FROM outbox.emit_grant AS g WHERE g.grantee = role AND g.topic_pattern = revoke_emit.topic_pattern;
    IF NOT FOUND THEN
        RAISE WARNING 'role "%" was not granted topics "%"', role::text, topic_pattern
            USING ERRCODE = '01006';
    ELSIF NOT EXISTS (SELECT FROM outbox.emit_grant AS g WHERE g.grantee = role) THEN
        PERFORM outbox.revoke_emit(role);
    END IF;
END
$function$;
COMMENT ON FUNCTION outbox.revoke_emit(regrole, text) IS
    'Takes one pattern back from a role that was granted it; with the last one, its right to call emit(). For the '
    'extension''s owner and superusers. Warns (01006) if the role was not granted that very pattern, raises 55000 if it '
    'may emit to any topic.';

---------------------------------------------------------------------------------------------------------
-- Rights: nothing for anybody but the owner, whatever the default privileges say; monitoring may look.
---------------------------------------------------------------------------------------------------------

DO $revoke$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT pg_catalog.format('REVOKE ALL ON TABLE outbox.%I FROM %s CASCADE', c.relname, g.name)
        FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a,
             LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END) AS g (name)
        WHERE c.relnamespace = 'outbox'::pg_catalog.regnamespace::pg_catalog.oid AND a.grantee <> c.relowner
        UNION
        SELECT pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %s CASCADE', p.oid::pg_catalog.regprocedure, g.name)
        FROM pg_catalog.pg_proc AS p,
             pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a,
             LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END) AS g (name)
        WHERE p.pronamespace = 'outbox'::pg_catalog.regnamespace::pg_catalog.oid AND a.grantee <> p.proowner
        UNION
        SELECT pg_catalog.format('REVOKE ALL ON TYPE %s FROM %s CASCADE', t.oid::pg_catalog.regtype, g.name)
        FROM pg_catalog.pg_type AS t,
             pg_catalog.aclexplode(coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))) AS a,
             LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END) AS g (name)
        WHERE t.oid = 'outbox.topic_pattern'::pg_catalog.regtype::pg_catalog.oid AND a.grantee <> t.typowner
        UNION
        SELECT pg_catalog.format('REVOKE ALL ON SCHEMA outbox FROM %s CASCADE', g.name)
        FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a,
             LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END) AS g (name)
        WHERE n.nspname = 'outbox' AND a.grantee <> n.nspowner
    LOOP
        EXECUTE statement;
    END LOOP;
END
$revoke$;

GRANT USAGE ON SCHEMA outbox TO pg_monitor;
GRANT SELECT ON outbox.status, outbox.attachments TO pg_monitor;
GRANT EXECUTE ON FUNCTION outbox.relay_status() TO pg_monitor;
GRANT EXECUTE ON FUNCTION outbox.attached() TO PUBLIC;

---------------------------------------------------------------------------------------------------------
-- Dumps carry the messages and the progress; the identity that comes along keeps a restored copy silent.
---------------------------------------------------------------------------------------------------------

SELECT pg_catalog.pg_extension_config_dump('outbox.message_position', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.segment_1', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.segment_2', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.segment_3', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.segment_4', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.progress_1', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.progress_2', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.identity', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.deferred', '');
-- A row of a role that is gone would come back as that of whoever has its number there.
SELECT pg_catalog.pg_extension_config_dump('outbox.emit_grant', 'WHERE grantee IN (SELECT oid FROM pg_catalog.pg_roles)');
