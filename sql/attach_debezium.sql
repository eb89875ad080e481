-- attach_debezium(): the outbox event router's behaviours, by the names that Debezium's own tests have for them. Nothing is
-- sent: the relay is switched off. (test/compat compares with a real Debezium.)
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox CASCADE;
CREATE EXTENSION outbox;
RESET client_min_messages;

CREATE FUNCTION buffered(OUT topic text, OUT key text, OUT payload text, OUT headers jsonb, OUT partition integer)
    RETURNS SETOF record LANGUAGE sql AS $$
    SELECT topic, encode(key, 'escape'), encode(payload, 'escape'), headers, partition
    FROM outbox.uncommitted() ORDER BY ordinal
$$;
-- A router's options, with converters that write text.
CREATE FUNCTION texts(options jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT '{"key.converter": "org.apache.kafka.connect.storage.StringConverter",
             "value.converter": "org.apache.kafka.connect.storage.StringConverter"}'
        || (SELECT coalesce(jsonb_object_agg('transforms.outbox.' || k, v), '{}') FROM jsonb_each(options) AS o (k, v))
$$;
CREATE FUNCTION jsons(options jsonb DEFAULT '{}', schemas boolean DEFAULT false) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('key.converter', 'org.apache.kafka.connect.json.JsonConverter', 'key.converter.schemas.enable', schemas,
                              'value.converter', 'org.apache.kafka.connect.json.JsonConverter', 'value.converter.schemas.enable', schemas)
        || (SELECT coalesce(jsonb_object_agg('transforms.outbox.' || k, v), '{}') FROM jsonb_each(options) AS o (k, v))
$$;
CREATE TABLE event (
    id uuid NOT NULL, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255), type varchar(255), payload text,
    tracingspancontext varchar(256), is_deleted boolean DEFAULT false, at timestamp, version integer, number integer, bytes bytea
);
CREATE FUNCTION attached(config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM outbox.attachments) THEN
        PERFORM outbox.detach('event');
    END IF;
    PERFORM outbox.attach_debezium('event', config);
END
$$;

-- shouldConsumeRecordsFromInsert: id is the message's, too
SELECT attached(texts());
BEGIN;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'UserCreated', '10711fa5', 'User', '{"email": "gh@mefi.in"}');
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002426', 'UserCreated', NULL, 'User', NULL);
SELECT * FROM buffered();
SELECT id FROM outbox.uncommitted();
ROLLBACK;
-- shouldSendEventTypeAsHeader, shouldSupportAllFeatures: aliases, several, twice id
SELECT attached(texts('{"table.fields.additional.placement": "type:header:eventType, is_deleted:header:deleted ,bytes:HEADER,number:header,id:header"}'));
BEGIN;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'UserCreated', '1', 'User', 'p', NULL, true, NULL, NULL, 5, '\x00ff');
INSERT INTO event (id, aggregatetype) VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'UserCreated');
SELECT headers FROM buffered();
ROLLBACK;
-- shouldSendEventTypeAsValue, shouldRespectJsonFormatAsString
SELECT attached(jsons('{"table.fields.additional.placement": "type:envelope:eventType,number:envelope"}'));
BEGIN;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'UserCreated', '1', 'User', '{"a" : "\u00e4\"" }');
SELECT key, payload FROM buffered();
ROLLBACK;
SELECT attached(jsons('{"table.fields.additional.placement": "is_deleted:envelope", "table.field.event.schema.version": "version"}', true));
BEGIN;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'UserCreated', '1', 'User', 'p', NULL, NULL, NULL, 3);
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'UserCreated', NULL, 'User', NULL, NULL, true);
SELECT key FROM buffered();
SELECT payload FROM buffered();
ROLLBACK;
-- Each row's envelope is named after the row's own route.
SELECT attached(jsons('{"table.fields.additional.placement": "type:envelope"}', true) || '{"topic.prefix": "shop"}');
BEGIN;
INSERT INTO event SELECT gen_random_uuid(), route, '1', 'T', 'p' FROM unnest(ARRAY['User', 'Order', 'User']) AS route;
SELECT payload::jsonb -> 'schema' ->> 'name' AS name FROM buffered();
ROLLBACK;
-- shouldConvertMicrosecondsTimestampToMilliseconds: a number before the headers
SELECT attached(texts('{"table.field.event.timestamp": "at"}'));
BEGIN;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', '1', 'User', 'p', NULL, true, '2026-01-02 03:04:05.678901');
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', '1', 'User', 'p', NULL, true, NULL);
SELECT headers FROM buffered();
ROLLBACK;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', '1', 'User', 'p', NULL, true, '1969-12-31');
-- What the router asks for itself is the field as it is; elsewhere a default stands in for NULL, as in all of Connect's structures.
CREATE TABLE defaults (id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text DEFAULT 'k', payload text, at timestamp DEFAULT now(), place integer DEFAULT 7);
SELECT outbox.attach_debezium('defaults', texts('{"table.field.event.timestamp": "at", "table.fields.additional.placement": "place:partition,place:header:p"}'));
BEGIN;
INSERT INTO defaults VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', NULL, 'p', NULL, NULL);
SELECT key, partition, headers FROM buffered();
ROLLBACK;
DROP TABLE defaults;
-- Where Debezium's task would stop, or leave the record out, the INSERT fails. Rows from before are nobody's: there is no snapshot.
CREATE TABLE strict (id uuid NOT NULL DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text, payload text, at timestamp, place integer,
    amount numeric(10, 2), ratio float8, share real);
INSERT INTO strict (aggregatetype, payload) VALUES ('T', 'from before');
SELECT outbox.attach_debezium('strict', texts('{"table.field.event.timestamp": "at", "table.fields.additional.placement": "place:partition,amount:header,ratio:header,share:header"}'));
\set VERBOSITY sqlstate
INSERT INTO strict (aggregatetype) VALUES ('no topic');
INSERT INTO strict (aggregatetype, place) VALUES ('T', -1);
INSERT INTO strict (aggregatetype, at) VALUES ('T', '1969-12-31 23:59:59.999');
INSERT INTO strict (aggregatetype, amount) VALUES ('T', 'NaN');
\set VERBOSITY default
-- The digits are those of PostgreSQL's own output: Java 17 has 1.0E-323, 1.17549435E-38, 8.9999995E9.
BEGIN;
INSERT INTO strict (aggregatetype, ratio, share) VALUES ('T', 2e-3, 2e-3), ('T', 8.41e21, 8.999999e9), ('T', 9e-324, 1.17549435e-38);
SELECT jsonb_path_query_array(headers, '$[*][1]') AS values FROM buffered();
ROLLBACK;
SELECT count(*) FROM strict;
DROP TABLE strict;
-- shouldProduceTombstoneEventForNullPayload, ...ForEmptyPayload; a JSON null is no empty payload
SELECT attached(jsons('{"route.tombstone.on.empty.payload": true, "table.fields.additional.placement": "type:envelope"}'));
BEGIN;
INSERT INTO event SELECT gen_random_uuid(), 'T', '1', 'User', p FROM unnest(ARRAY[NULL, '', E' \t\n', 'null', '{}', '""']) AS p;
SELECT key, payload FROM buffered();
ROLLBACK;
-- shouldNotProduceTombstoneEventForNullPayload: what each converter makes of it
SELECT attached(jsons());
BEGIN;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', NULL, 'User', NULL);
SELECT key, payload FROM buffered();
ROLLBACK;
SELECT attached(texts('{"table.fields.additional.placement": "type:envelope,number:envelope"}'));
BEGIN;
INSERT INTO event VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', NULL, 'User', NULL);
SELECT key, payload FROM buffered();
ROLLBACK;
-- canSkipTombstone, canSkipDeletion, canSkipUpdates, canFailOnUpdates
SELECT attached(texts());
BEGIN;
INSERT INTO event (id, aggregatetype) VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T');
UPDATE event SET type = 'x';
DELETE FROM event;
SELECT count(*) FROM buffered();
ROLLBACK;
SELECT attached(texts('{"table.op.invalid.behavior": "fatal"}'));
BEGIN;
INSERT INTO event (id, aggregatetype) VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T');
UPDATE event SET type = 'x';
ROLLBACK;
-- canSetPartitionWithAdditionalFields
SELECT attached(texts('{"table.fields.additional.placement": "number:partition"}'));
BEGIN;
INSERT INTO event (id, aggregatetype, number) VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', 3), (gen_random_uuid(), 'T', NULL);
SELECT partition FROM buffered();
ROLLBACK;
INSERT INTO event (id, aggregatetype, number) VALUES (gen_random_uuid(), 'T', -1);
-- canPassBinaryKey, canPassBinaryMessage, canPassIntKey, canPassStringKey
SELECT attached('{"key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter", "value.converter": "io.debezium.converters.BinaryDataConverter",
                  "table.field.event.key": "bytes", "table.field.event.payload": "bytes"}');
BEGIN;
INSERT INTO event (id, aggregatetype, bytes) VALUES (gen_random_uuid(), 'T', '\x00ff'), (gen_random_uuid(), 'T', ''), (gen_random_uuid(), 'T', NULL);
SELECT key, payload FROM buffered();
ROLLBACK;
SELECT attached(jsons('{"table.field.event.key": "number", "table.field.event.payload": "bytes"}', true));
BEGIN;
INSERT INTO event (id, aggregatetype, number, bytes) VALUES (gen_random_uuid(), 'T', 7, '\x00ff');
SELECT key, payload FROM buffered();
ROLLBACK;
-- canExpandJson...: nulls, empty arrays, nested ones, numbers, what is no object
SELECT attached(jsons('{"table.expand.json.payload": true}'));
BEGIN;
INSERT INTO event SELECT gen_random_uuid(), 'T', '1', 'User', p FROM unnest(ARRAY[
    '{"a": 1, "b": null, "c": [], "d": [1, 2], "e": {"f": "x", "g": null}, "h": 1.5, "i": 12345678901, "j": true, "k": 1e3, "l": -0.0}',
    '{"a": 1, "a": 2, "b c": "\u00e4\n"}', '{"a": [{"x": 1}, {"y": 2}]}', '{"a": [{"x": 1}, null, {"x": 2}]}', '{"a": [null, 1]}', '{"a": [[1], [2]]}',
    '{"a": 1} and more', '{}', NULL, '[1, 2]', '"x"', '12', ' {"a": 1}', '{"a": [1, 2.5]}', '{"a": [null]}', '{"a": [[]]}',
    '{"a": 123456789012345678901234567890}', '{"a": [{"x": 1}, {"x": "s"}]}', '{"a": [{"x": 1}, null, {"y": 2}]}', '{"nul": "\u0000"}', '{bad', '']) AS p;
SELECT payload FROM buffered();
ROLLBACK;
SELECT attached(jsons('{"table.expand.json.payload": true, "table.json.payload.null.behavior": "optional_bytes",
                        "table.json.payload.empty.array.behavior": "optional_string"}', true));
BEGIN;
INSERT INTO event SELECT gen_random_uuid(), 'T', '1', 'User', p FROM unnest(ARRAY[
    '{"b": null, "c": [], "d": [null], "e": [{"x": null}, {"x": "s", "y": [1]}]}']) AS p;
SELECT payload FROM buffered();
ROLLBACK;
-- failsOnInvalidSetMessageKey, shouldFailOnMissingField: known when it is attached
SELECT attached(texts('{"table.field.event.key": "fakefield"}'));
SELECT attached(texts('{"table.fields.additional.placement": "type:header,fakefield:header"}'));
SELECT attached(texts('{"table.fields.additional.placement": "fakefield:header,type:header", "table.field.additional.missing": "ignore"}'));
BEGIN;
INSERT INTO event (id, aggregatetype, type) VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', 'x');
SELECT headers FROM buffered();
ROLLBACK;

-- Routes, as RegexRouter has them: all of the value has to match, its first match is replaced.
CREATE FUNCTION routed(regex text, replacement text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    topic text;
BEGIN
    PERFORM attached(texts(jsonb_build_object('route.topic.regex', regex, 'route.topic.replacement', replacement)));
    SELECT p.topic INTO topic FROM outbox.preview(ROW (gen_random_uuid(), value, 'k', 't', 'p', NULL, NULL, NULL, NULL, NULL, NULL)::event) AS p;
    RETURN topic;
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ': ' || sqlerrm;
END
$$;
SELECT regex, replacement, routed(regex, replacement, 'order.created') FROM (VALUES
    ('(.*)', 'to.$1'), ('(?<a>[a-z]+)\.(?<b>.*)', '${b}.${a}'), ('order', 'no'), ('(.)(.*)', '$2$10'), ('(.*?)', 'x$1.'), ('order|order.created', 'alt'),
    ('(x)?order.*', 'o$1'), ('.*', 'a\$\\b'), ('\Qorder.created\E', 'q'), ('\u006frder.*', 'u'), ('(?i)ORDER.*', 'i'), ('(?=o).*', 'ahead'),
    ('(o++).*', '$1'), ('(x', 'x'), ('.*', '$1'), ('.*', '${x}'), ('.*', '${x'), ('.*', '$'), ('.*', 'x\'), ('[a-z&&[^x]]*', 'x'), ('\p{Alpha}*', 'x'),
    ('(?x) .*', 'x'), ('.*\b', 'x'), ('(a*)*b|.*', 'x')) AS v (regex, replacement);
SELECT routed('(.*)', '$1', repeat('x', 250));
SELECT routed('(.*)', '$1', 'ä');
SELECT routed('((a|aa)+)+(b|c)', 'x', repeat('a', 200));

-- Keys and headers of every type that can stand there.
CREATE TYPE kind AS ENUM ('small', 'large');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE kinds (id bigint NOT NULL, aggregatetype text NOT NULL, i2 smallint, i8 bigint, f4 real, f8 float8, b boolean, c char(4), n numeric, n102 numeric(10, 2),
    n2012 numeric(20, 12), d date, ts timestamp, ts3 timestamp(3), tz timestamptz, tz0 timestamptz(0), tm time, tm3 time(3), k kind, p positive, j json, jb jsonb, u uuid, x xml, a inet,
    dflt text DEFAULT 'dflt', du uuid DEFAULT gen_random_uuid());
INSERT INTO kinds VALUES
    (1, 'T', -1, 2, 0.1, 1e10, true, 'c', 4.50, 12.5, 0.000000001, '2026-01-02', '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05.678', '2026-01-02 03:04:05.6+00',
     '2026-01-02 03:04:05+00', '03:04:05.678901', '03:04:05.678', 'large', 7, '{"a" : 1}', '{"a" : 1}', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '<a/>', '10.0.0.1', 'x', NULL),
    (2, 'T', NULL, -9223372036854775808, 'NaN', '-Infinity', NULL, '', 1e20, -99999999.99, 0, 'infinity', '-infinity', '1969-12-31 23:59:59.999', 'infinity',
     '20260-01-01+00', NULL, NULL, NULL, NULL, NULL, 'null', NULL, NULL, NULL, NULL, NULL),
    (3, 'T', NULL, NULL, 1.4e-45, 5e-324, NULL, NULL, -0.000000001, NULL, NULL, '0044-03-15 BC', '0001-01-01', NULL, '0044-03-15 00:00:00+00 BC', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SET TimeZone = 'Asia/Tokyo';
CREATE FUNCTION placed(placement text, config jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT config || '{"transforms.outbox.table.field.event.key": "i8", "transforms.outbox.table.field.event.payload": "j"}'
        || jsonb_build_object('transforms.outbox.table.fields.additional.placement', string_agg(format('%s:%s', attname, placement), ',' ORDER BY attnum))
    FROM pg_attribute WHERE attrelid = 'kinds'::regclass AND attnum > 2
$$;
SELECT outbox.attach_debezium('kinds', placed('header', texts()));
SELECT header ->> 0 AS header, header ->> 1 AS value FROM kinds AS t, outbox.preview(t) AS p, jsonb_array_elements(p.headers) WITH ORDINALITY AS h (header, n) ORDER BY id, h.n;
SELECT outbox.detach('kinds');
SELECT outbox.attach_debezium('kinds', placed('envelope', jsons()));
SELECT encode(p.key, 'escape') AS key, encode(p.payload, 'escape') AS payload FROM kinds AS t, outbox.preview(t) AS p ORDER BY id;
SELECT outbox.detach('kinds');
SELECT outbox.attach_debezium('kinds', placed('envelope', jsons('{}', true)) || '{"topic.prefix": "shop"}');
SELECT jsonb_pretty(convert_from(p.payload, 'UTF8')::jsonb -> 'schema') FROM kinds AS t, outbox.preview(t) AS p WHERE id = 1;
SELECT outbox.detach('kinds');
SELECT outbox.attach_debezium('kinds', texts('{"table.field.event.key": "n", "table.field.event.payload": "j", "table.fields.additional.placement": "n102:header,tz:header"}') || '{"decimal.handling.mode": "string"}');
SELECT encode(p.key, 'escape') AS key, headers FROM kinds AS t, outbox.preview(t) AS p ORDER BY id;
SELECT outbox.detach('kinds');
RESET TimeZone;
ALTER TABLE kinds ADD COLUMN nan numeric DEFAULT 'NaN';
SELECT outbox.attach_debezium('kinds', texts('{"table.field.event.key": "nan", "table.field.event.payload": "j"}'));
DROP TABLE kinds;

-- The tracing context: java.util.Properties, or a bare traceparent; before id. The connector's own context before that.
SELECT attached(texts() || '{"extended.headers.enabled": "true", "topic.prefix": "shop"}');
BEGIN;
INSERT INTO event SELECT gen_random_uuid(), 'T', '1', 'User', 'p', c FROM unnest(ARRAY[
    E'#Mon Nov 01 12:00:00 UTC 2026\ntraceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate=a\\=b,\\\n   c:d\n',
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', E'traceparent : \\u00e4\\t\\ud83d\\ude00!\nother=x', '', NULL]) AS c;
SELECT headers FROM buffered();
ROLLBACK;

-- Rows that are gone as soon as they have become a message: the statement says that it inserted them.
SELECT outbox.detach('event');
SELECT outbox.attach_debezium('event', texts(), remove_after_insert => true);
BEGIN;
INSERT INTO event (id, aggregatetype) SELECT gen_random_uuid(), 'T' FROM generate_series(1, 3) RETURNING aggregatetype;
SELECT count(*) FROM event;
INSERT INTO event (id, aggregatetype) VALUES (gen_random_uuid(), 'T');
DELETE FROM event;
SELECT count(*) FROM buffered();
COMMIT;
SELECT count(*) FROM event;
SELECT outbox.detach('event');
ALTER TABLE event ADD PRIMARY KEY (id);
CREATE TABLE refers (id uuid REFERENCES event);
SELECT outbox.attach_debezium('event', texts(), remove_after_insert => true);
DROP TABLE refers;

-- Configurations: whole, as properties, bare; what is not needed is said, what is not done or not known is refused.
SELECT outbox.attach_debezium('event', '{"name": "outbox-connector", "config": {"connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "database.hostname": "db", "slot.name": "s", "snapshot.mode": "no_data", "topic.prefix": "shop", "transforms": "router",
    "transforms.router.type": "io.debezium.transforms.outbox.EventRouter", "transforms.router.route.topic.replacement": "x.${routedByValue}"}}');
BEGIN;
INSERT INTO event (id, aggregatetype) VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T');
SELECT topic, payload FROM buffered();
ROLLBACK;
SELECT outbox.detach('event');
SELECT outbox.attach_debezium('event', '{"route.topic.replacement": "y.${routedByValue}"}');
SELECT topic FROM outbox.preview(ROW (gen_random_uuid(), 'T', 'k', 't', 'p', NULL, NULL, NULL, NULL, NULL, NULL)::event);
SELECT outbox.detach('event');
CREATE FUNCTION refused(config jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint   text;
BEGIN
    PERFORM outbox.attach_debezium('event', config);
    RAISE EXCEPTION 'was not refused: %', config;
EXCEPTION WHEN invalid_parameter_value OR feature_not_supported OR undefined_column OR datatype_mismatch OR invalid_regular_expression THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', sqlstate, sqlerrm, nullif(detail, ''), nullif(hint, ''));
END
$$;
SELECT refused(config::jsonb) FROM unnest(ARRAY[
    '[]', '{"config": 1}', '{"route.by.field": null}', '{"route.by.feld": "x"}', '{"transforms.outbox.table.field.id": "x"}', '{"slot.nam": "x"}', '{"nam": "x"}', '{"quite.another.thing": "x"}',
    '{"topic.delimiter": "_"}', '{"producer.override.partitioner.class": "x"}', '{"post.processors": "x"}',
    '{"value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter", "table.fields.additional.placement": "type:envelope", "table.field.event.payload": "bytes"}',
    '{"transforms": "outbox"}', '{"transforms": "outbox,more", "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter"}',
    '{"transforms.outbox.type": "io.debezium.transforms.ByLogicalTableRouter"}', '{"connector.class": "io.debezium.connector.mysql.MySqlConnector"}',
    '{"transforms.outbox.predicate": "p"}', '{"predicates": "p"}', '{"converters": "c"}', '{"column.mask.hash.x": "y"}', '{"value.converter": "io.confluent.connect.avro.AvroConverter"}',
    '{"value.converter.replace.null.with.default": "false"}', '{"header.converter": "org.apache.kafka.connect.json.JsonConverter"}', '{"schema.name.adjustment.mode": "avro"}',
    '{"skipped.operations": "c,t"}', '{"time.precision.mode": "connect", "table.field.event.timestamp": "at"}', '{"time.precision.mode": "isostring"}',
    '{"table.op.invalid.behavior": "ignore"}', '{"table.expand.json.payload": "yes"}', '{"table.fields.additional.placement": ""}', '{"table.fields.additional.placement": "type"}',
    '{"table.fields.additional.placement": "type:heading"}', '{"table.fields.additional.placement": "a:b:c:d"}', '{"table.fields.additional.placement": "type:partition"}',
    '{"table.field.event.timestamp": "type"}', '{"table.field.event.schema.version": "type"}', '{"route.by.field": "number"}', '{"tracing.span.context.field": "number"}',
    '{"table.field.event.key": "bytes", "key.converter": "org.apache.kafka.connect.storage.StringConverter"}', '{"key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter"}',
    '{"value.converter": "io.debezium.converters.BinaryDataConverter"}', '{"route.topic.regex": "("}', '{"route.topic.replacement": "$7"}']) AS config;
SELECT count(*) FROM outbox.attachments;
SELECT outbox.attach_debezium('event', NULL);

-- Columns may be renamed; what the record calls them stays.
SELECT outbox.attach_debezium('event', texts('{"table.fields.additional.placement": "type:header"}'));
BEGIN;
ALTER TABLE event RENAME COLUMN type TO kind;
ALTER TABLE event RENAME COLUMN aggregatetype TO topic;
INSERT INTO event (id, topic, kind) VALUES ('59a42efd-b015-44a9-9dde-cb36d9002425', 'T', 'x');
SELECT topic, headers FROM buffered();
ROLLBACK;
ALTER TABLE event DROP COLUMN payload;

-- An event that is no row.
BEGIN;
SELECT outbox.emit('{"id": "59a42efd-b015-44a9-9dde-cb36d9002425", "aggregatetype": "order", "aggregateid": 7, "payload": {"b": 1,  "a": null}}');
SELECT outbox.emit('{"aggregatetype": "order", "payload": "text \u00e4"}', 'x.${routedByValue}.y') IS NOT NULL AS made;
SELECT outbox.emit('{"aggregatetype": "order", "payload": null}', 'fixed') IS NOT NULL AS made;
SELECT topic, key, payload, headers FROM buffered();
ROLLBACK;
SELECT outbox.emit('{"payload": 1}');
SELECT outbox.emit('{"aggregatetype": "order", "id": 1}');
SELECT outbox.emit('[1]');
SELECT outbox.emit(NULL::json);

-- Ready? Nothing is changed by asking.
ALTER TABLE event ALTER COLUMN payload SET NOT NULL;
SELECT outbox.detach('event');
SELECT subject, ready, detail FROM outbox.check_debezium(texts() || '{"table.include.list": "public.event", "slot.name": "no such slot"}') WHERE subject <> 'relay';
SELECT subject, ready, detail FROM outbox.check_debezium(texts('{"route.topic.rex": "x"}'), 'event') WHERE subject = 'configuration';
SELECT subject, ready, detail FROM outbox.check_debezium(texts() || '{"table.include.list": "public\\.a,public\\.b"}') WHERE subject = 'table';
SELECT subject, ready, detail FROM outbox.check_debezium('{}') WHERE subject = 'table';
CREATE ROLE attach_checker;
ALTER TABLE event OWNER TO attach_checker;
SELECT subject, ready, detail FROM outbox.check_debezium(texts(), 'event') WHERE subject IN ('privileges', 'configuration');
SELECT outbox.grant_emit('attach_checker');
SET ROLE attach_checker;
SELECT subject, ready, detail FROM outbox.check_debezium('{}', 'event') WHERE subject IN ('relay', 'privileges', 'configuration');
RESET ROLE;
SELECT outbox.revoke_emit('attach_checker');
SELECT count(*) FROM outbox.attachments;

DROP TABLE event;
DROP ROLE attach_checker;
DROP FUNCTION buffered(), texts(jsonb), jsons(jsonb, boolean), attached(jsonb), routed(text, text, text), placed(text, jsonb), refused(jsonb);
DROP TYPE kind;
DROP DOMAIN positive;
DROP EXTENSION outbox;
