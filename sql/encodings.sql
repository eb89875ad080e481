-- Databases whose encoding is not UTF-8: keys, payloads of text and headers are stored as UTF-8, bytes as they are.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS outbox_regress_latin1;
DROP DATABASE IF EXISTS outbox_regress_ascii;
RESET client_min_messages;
CREATE DATABASE outbox_regress_latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE outbox_regress_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
ALTER DATABASE outbox_regress_latin1 SET outbox.enabled = off;
ALTER DATABASE outbox_regress_ascii SET outbox.enabled = off;
SELECT current_database() AS regression \gset

\c outbox_regress_latin1
SET client_encoding = 'UTF8';
CREATE EXTENSION outbox;
BEGIN;
SELECT outbox.emit('latin1', 'Schlüssel', 'Grüße ÿ', '{"größe": "süß", "list": ["é"], "o": {"ä": "ö"}}') IS NOT NULL AS emitted;
SELECT outbox.emit('latin1', 'Schlüssel', '{"ä": "\u00fc"}'::jsonb) IS NOT NULL AS emitted;
SELECT outbox.emit('latin1', 'Schlüssel', '{"ä":  "\u00fc"}'::json) IS NOT NULL AS emitted;
SELECT outbox.emit('latin1', '\xfc'::bytea, '\xfc00ff'::bytea) IS NOT NULL AS emitted;
SELECT encode(key, 'hex') AS key, encode(payload, 'hex') AS payload, headers FROM outbox.uncommitted() ORDER BY ordinal;
COMMIT;
SELECT convert_from(key, 'UTF8') AS key, convert_from(payload, 'UTF8') AS payload, headers
FROM outbox.messages WHERE key <> '\xfc' ORDER BY position;
-- The size that counts is the size in UTF-8.
SET outbox.max_message_bytes = 1000;
SELECT outbox.emit('latin1', NULL, repeat('ü', 500)) IS NOT NULL AS emitted;
SELECT outbox.emit('latin1', NULL, repeat('ü', 501)) IS NOT NULL AS emitted;

-- The server does not know what text in SQL_ASCII means: it has to be UTF-8 already.
\c outbox_regress_ascii
CREATE EXTENSION outbox;
BEGIN;
SELECT outbox.emit('ascii', E'Schl\xc3\xbcssel', E'Gr\xc3\xbc\xc3\x9fe') IS NOT NULL AS emitted;
SELECT outbox.emit('ascii', 'plain', '\xfc'::bytea) IS NOT NULL AS emitted;
SELECT encode(key, 'hex') AS key, encode(payload, 'hex') AS payload FROM outbox.uncommitted() ORDER BY ordinal;
COMMIT;
SELECT outbox.emit('ascii', 'k', E'Gr\xfc\xdfe');
SELECT outbox.emit('ascii', E'\xfc', 'p');
SELECT outbox.emit('ascii', 'k', 'p', E'{"a": "\xfc"}');
SELECT count(*) FROM outbox.messages;

\c :regression
DROP DATABASE outbox_regress_latin1;
DROP DATABASE outbox_regress_ascii;
