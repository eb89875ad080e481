-- Settings: their units, bounds and contexts, and who may change them.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET outbox.enabled = off', current_database());
END
$$;
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS outbox;
CREATE EXTENSION outbox;
RESET client_min_messages;

SELECT name, vartype, unit, boot_val, min_val, max_val, context FROM pg_settings
WHERE name LIKE 'outbox.%' ORDER BY name COLLATE "C";
-- Each is described.
SELECT name FROM pg_settings WHERE name LIKE 'outbox.%' AND coalesce(short_desc, '') = '';

-- Values that make no sense are refused.
SET outbox.max_message_bytes = 0;
SET outbox.max_message_bytes = '1GB';
SET outbox.segment_size = '1kB';
SET outbox.retention = '-1';
SET outbox.backlog_limit = '1023kB';
SET outbox.backlog_limit = '-1';
SET outbox.sink = '';
SET outbox.sink = '../../bin/sh';
SET outbox.sink = 'Kafka';
SET outbox.kafka_config_file = 'relative/path';
SET outbox.file_path = 'relative/path';
SET outbox.no_such_setting = 1;
SET outbox.max_databases = 3;
-- Units as everywhere.
SET outbox.max_message_bytes = '1MB';
SHOW outbox.max_message_bytes;
SET outbox.segment_size = '1GB';
SHOW outbox.segment_size;
SET outbox.retention = '2h';
SHOW outbox.retention;
SET outbox.backlog_limit = '10GB';
SHOW outbox.backlog_limit;
RESET ALL;

-- A role without a right to them changes none, neither for itself, nor for its own database or role.
CREATE ROLE regress_outbox_plain;
SET ROLE regress_outbox_plain;
DO $$
DECLARE
    setting record;
BEGIN
    FOR setting IN SELECT name, boot_val FROM pg_settings WHERE name LIKE 'outbox.%' ORDER BY name COLLATE "C" LOOP
        BEGIN
            EXECUTE format('SET %s = %L', setting.name, setting.boot_val);
            RAISE WARNING '% could be set', setting.name;
        EXCEPTION WHEN insufficient_privilege OR cant_change_runtime_param THEN
            NULL;
        END;
        BEGIN
            EXECUTE format('ALTER ROLE regress_outbox_plain SET %s = %L', setting.name, setting.boot_val);
            RAISE WARNING '% could be set for a role', setting.name;
        EXCEPTION WHEN insufficient_privilege OR cant_change_runtime_param THEN
            NULL;
        END;
    END LOOP;
END
$$;
SHOW outbox.max_message_bytes;
RESET ROLE;
DROP ROLE regress_outbox_plain;
