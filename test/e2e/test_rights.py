"""Rights: topics that roles were granted travel with dumps, and what others attach to our tables gains them nothing."""

import psycopg
import pytest

from support.cluster import PG_BIN
from support.files import read_messages
from support.processes import run
from support.waiting import wait_for

EVERY_TABLE = ("segment_1", "segment_2", "segment_3", "segment_4", "progress_1", "progress_2", "identity", "deferred")


@pytest.fixture
def make_role(server, unique):
    """Makes roles, and drops them with everything they own and were granted."""
    made = []

    def make(name):
        role = unique(name).replace(".", "_")
        server.sql(f"CREATE ROLE {role} LOGIN")
        made.append(role)
        return role

    yield make
    for role in made:
        if not server.sql("SELECT FROM pg_roles WHERE rolname = %s", role):
            continue
        for name in [*server.databases, "postgres"]:
            # Members of the extension can't be dropped one by one.
            server.sql(f"REASSIGN OWNED BY {role} TO CURRENT_USER", database=name)
            server.sql(f"DROP OWNED BY {role} CASCADE", database=name)
        server.sql(f"DROP ROLE {role}")


def may_emit(database, role, topic):
    with database.connect(autocommit=False) as session:
        session.execute(f"SET ROLE {role}")
        try:
            session.execute("SELECT outbox.emit(%s, 'k', 'p')", (topic,))
        except psycopg.errors.InsufficientPrivilege:
            return False
        finally:
            session.rollback()
    return True


# -- topics -------------------------------------------------------------------------------------------------


@pytest.fixture
def granted(server, make_database, make_role):
    """A database with a role that may emit to orders.*, one to any topic, and two that are about to be dropped."""
    database = make_database(name="granted", outbox__enabled="off")
    database.bound, database.free, database.gone = make_role("bound"), make_role("free"), make_role("gone")
    database.sql("SELECT outbox.grant_emit(%s::regrole, 'orders.*')", database.bound)
    database.sql("SELECT outbox.grant_emit(%s::regrole)", database.free)
    database.sql("SELECT outbox.grant_emit(%s::regrole, 'secrets')", database.gone)
    return database


def copy(database, make_database, name, *options, between=lambda: None):
    """Dumps a database, and restores it as another one; errors do not stop that, as psql does not stop."""
    server = database.cluster
    text = run([PG_BIN / "pg_dump", *options, "-h", server.directory, "-p", server.port, "-U", "postgres", database.name])
    between()
    target = make_database(name=name, extension=False, outbox__enabled="off")
    run([PG_BIN / "psql", "-X", "-q", "-h", server.directory, "-p", server.port, "-U", "postgres", "-d", target.name],
        input=text)  # fmt: skip
    return target


def test_grants_come_back_with_a_dump(granted, make_database):
    restored = copy(granted, make_database, "restored")
    assert restored.sql("SELECT grantee::text, topic_pattern::text FROM outbox.emit_grant ORDER BY 1") == sorted(
        [(granted.bound, "orders.*"), (granted.gone, "secrets")]
    )
    assert may_emit(restored, granted.bound, "orders.eu")
    assert not may_emit(restored, granted.bound, "secrets")
    assert may_emit(restored, granted.free, "secrets")


def test_a_dump_without_rows_grants_less_not_more(granted, make_database):
    restored = copy(granted, make_database, "empty", "--schema-only")
    assert restored.value("SELECT count(*) FROM outbox.emit_grant") == 0
    assert not may_emit(restored, granted.bound, "orders.eu")
    assert not may_emit(restored, granted.bound, "secrets")
    assert may_emit(restored, granted.free, "secrets")


def test_a_role_that_is_missing_where_a_dump_is_restored_frees_nobody(granted, make_database):
    """The rows that name it do not come along, then; who is there has no more rights than before."""

    def drop():
        granted.sql(f"DROP OWNED BY {granted.gone}")
        granted.sql(f"DROP ROLE {granted.gone}")

    restored = copy(granted, make_database, "elsewhere", between=drop)
    assert not may_emit(restored, granted.bound, "secrets")
    assert may_emit(restored, granted.free, "secrets")


def test_leftovers_of_a_role_that_is_gone_are_not_dumped(granted, make_database):
    """A number without a name would be restored as whoever has it there."""
    granted.sql(f"DROP OWNED BY {granted.gone}")
    granted.sql(f"DROP ROLE {granted.gone}")
    assert granted.value("SELECT count(*) FROM outbox.emit_grant") == 2
    restored = copy(granted, make_database, "tidy")
    assert restored.sql("SELECT grantee::text FROM outbox.emit_grant") == [(granted.bound,)]
    assert may_emit(restored, granted.bound, "orders.eu")


def test_an_open_session_notices_what_is_granted_and_revoked(granted):
    """At its next statement that would notice a REVOKE on a function: at the latest with its next transaction."""
    with granted.connect(user=granted.bound) as session:

        def emit(topic):
            return session.execute("SELECT outbox.emit(%s, 'k', 'p')", (topic,), prepare=True)

        emit("orders.eu")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match='permission denied to emit to topic "late"'):
            emit("late")
        granted.sql("SELECT outbox.grant_emit(%s::regrole, 'late')", granted.bound)
        emit("late")
        granted.sql("SELECT outbox.revoke_emit(%s::regrole, 'late')", granted.bound)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="late"):
            emit("late")
        granted.sql("TRUNCATE outbox.emit_grant")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"orders\.eu"):
            emit("orders.eu")
        granted.sql("SELECT outbox.grant_emit(%s::regrole)", granted.bound)
        emit("anything")
        granted.sql("SELECT outbox.revoke_emit(%s::regrole)", granted.bound)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            emit("anything")


# -- what others attach to our tables -----------------------------------------------------------------------


@pytest.fixture
def trap(file_database, make_role):
    """A role with a schema of its own, and in it a trigger function and a table that says who ran it."""
    role = make_role("mallory")
    file_database.mallory = role
    file_database.sql(f"CREATE SCHEMA trap AUTHORIZATION {role}")
    with file_database.connect(user=role) as session:
        session.execute("CREATE TABLE trap.ran (who text, on_table text, op text)")
        session.execute("GRANT ALL ON SCHEMA trap TO PUBLIC")
        session.execute("GRANT ALL ON trap.ran TO PUBLIC")
        session.execute(
            "CREATE FUNCTION trap.spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN END;"
            " BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN END;"
            " INSERT INTO trap.ran VALUES (current_user, TG_TABLE_NAME, TG_OP);"
            " RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END $$"
        )
        session.execute(
            "CREATE FUNCTION trap.note(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO trap.ran VALUES (current_user, 'progress', what); END $$"
        )
        # An index wants an immutable function; that it calls another one is nobody's to know.
        session.execute(
            "CREATE FUNCTION trap.spy(what text, r int8multirange) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM trap.note(what); RETURN true; END $$"
        )
    return file_database


def park(database, role, payload):
    """Puts a parked message there by hand, as what is tried here would see it after a refusal."""
    with database.connect(user=role) as session:
        session.execute(
            "INSERT INTO outbox.deferred (position, time, id, topic, key, payload, state, attempts, parked_at, deferred_at)"
            " VALUES (1, now(), gen_random_uuid(), 't', 'parked', %s, 'parked', 1, now(), now())",
            (payload,),
        )


def retry_and_discard(database, operator, writer):
    # Nothing fires where the test itself writes, except what fires always.
    database.sql(f'ALTER ROLE {writer} IN DATABASE "{database.name}" SET session_replication_role = replica')
    with database.connect(user=operator) as session:
        park(database, writer, b"retried")
        assert session.execute("SELECT outbox.retry()").fetchone() == (1,)
        wait_for(lambda: database.value("SELECT count(*) FROM outbox.deferred") == 0, "the retried message's row is gone")
        park(database, writer, b"discarded")
        assert session.execute("SELECT outbox.discard()").fetchone() == (1,)


def work(database, operator="postgres"):
    """Nearly everything that writes the extension's tables: emit, progress, pause, discard, resume."""
    database.emit("t", "k", "1")
    database.drain()
    with database.connect(user=operator) as session:
        session.execute("SELECT outbox.pause()")
        database.wait_for_state("paused")
        database.emit("t", "k", "given up")
        assert session.execute("SELECT outbox.discard_backlog()").fetchone() == (1,)
        session.execute("SELECT outbox.resume()")
    database.emit("t", "k", "2")
    database.drain()
    # The relay saves its progress once more when it is told to leave.
    database.sql("SELECT pg_terminate_backend(%s)", database.wait_for_relay())
    database.emit("t", "k", "3")
    database.drain()
    assert [message.value for message in read_messages(database.file)] == [b"1", b"2", b"3"]


def test_triggers_and_foreign_keys_that_a_privilege_allows_do_not_fire(trap, make_role):
    """GRANT ALL ON ALL TABLES gives TRIGGER and REFERENCES away: whoever has them must not get the relay's rights."""
    operator = make_role("operator")
    trap.sql(f"GRANT USAGE ON SCHEMA outbox TO {operator}, {trap.mallory}")
    trap.sql(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO {operator}")
    trap.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA outbox TO {trap.mallory}")
    with trap.connect(user=trap.mallory) as session:
        for table in EVERY_TABLE:
            for timing in ("BEFORE", "AFTER"):
                session.execute(
                    f"CREATE TRIGGER trap_{timing} {timing} INSERT OR UPDATE OR DELETE ON outbox.{table}"
                    " FOR EACH ROW EXECUTE FUNCTION trap.spring()"
                )
            session.execute(
                f"CREATE CONSTRAINT TRIGGER trap_deferred AFTER INSERT OR UPDATE OR DELETE ON outbox.{table}"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trap.spring()"
            )
        session.execute("CREATE TABLE trap.refers (position bigint REFERENCES outbox.deferred (position))")
        # It can write rows by itself, as itself; that is what shows that the trap works.
        session.execute("DELETE FROM outbox.deferred")
        session.execute("UPDATE outbox.identity SET paused = paused")
    assert trap.sql("SELECT DISTINCT who FROM trap.ran") == [(trap.mallory,)]
    trap.sql("TRUNCATE trap.ran")
    work(trap, operator)
    retry_and_discard(trap, operator, trap.mallory)
    assert trap.sql("SELECT * FROM trap.ran") == []


def test_an_owner_who_is_no_superuser_gets_no_more_rights_from_the_relay(trap, make_role):
    """What only an owner may attach runs as that owner: triggers that fire always, checks, expressions of indexes."""
    operator = make_role("operator")
    trap.sql(f"GRANT USAGE ON SCHEMA outbox TO {operator}, {trap.mallory}")
    trap.sql(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO {operator}")
    # What REASSIGN OWNED does to a superuser's objects.
    for table in EVERY_TABLE:
        trap.sql(f"ALTER TABLE outbox.{table} OWNER TO {trap.mallory}")
    trap.sql(f"ALTER SEQUENCE outbox.message_position OWNER TO {trap.mallory}")
    trap.sql(f"ALTER SCHEMA outbox OWNER TO {trap.mallory}")
    with trap.connect(user=trap.mallory) as session:
        for table in EVERY_TABLE[4:]:
            session.execute(
                f"CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON outbox.{table}"
                " FOR EACH ROW EXECUTE FUNCTION trap.spring()"
            )
            session.execute(f"ALTER TABLE outbox.{table} ENABLE ALWAYS TRIGGER trap")
        for table in ("progress_1", "progress_2"):
            session.execute(f"ALTER TABLE outbox.{table} ADD CHECK (trap.spy('CHECK', unsettled))")
            session.execute(f"CREATE INDEX ON outbox.{table} (trap.spy('INDEX', unsettled))")
        for table in EVERY_TABLE[:4]:
            session.execute(
                f"CREATE INDEX ON outbox.{table} (trap.spy('EMIT', int8multirange(int8range(position, position, '[]'))))"
            )
    work(trap, operator)
    retry_and_discard(trap, operator, trap.mallory)
    ran = trap.sql("SELECT DISTINCT who FROM trap.ran")
    assert ran == [(trap.mallory,)]
    assert {op for (op,) in trap.sql("SELECT DISTINCT op FROM trap.ran")} >= {"INSERT", "DELETE", "CHECK", "INDEX", "EMIT"}


def test_one_table_of_somebody_else_stops_the_relay_and_not_the_application(trap):
    """A statement then needs a right that its acting role has not: said so in outbox.status, and over when mended."""
    trap.sql(f"GRANT USAGE ON SCHEMA outbox TO {trap.mallory}")
    owner = trap.value("SELECT tableowner FROM pg_tables WHERE schemaname = 'outbox' AND tablename = 'deferred'")
    trap.emit("t", "k", "before")
    trap.drain()
    trap.sql(f"ALTER TABLE outbox.deferred OWNER TO {trap.mallory}")
    trap.emit("t", "k", "while")
    wait_for(lambda: "permission denied" in (trap.status()["last_error"] or ""), "the missing right")
    trap.sql(f"ALTER TABLE outbox.deferred OWNER TO {owner}")
    trap.drain(60)
    assert {m.value for m in read_messages(trap.file)} == {b"before", b"while"}


def test_mistakes_of_a_superuser_stop_no_application_and_are_over_when_undone(file_database):
    """Row security and rules change nothing. A check that fails is named, and messages wait until it is gone."""
    database = file_database
    for table in EVERY_TABLE:
        database.sql(f"ALTER TABLE outbox.{table} ENABLE ROW LEVEL SECURITY")
        database.sql(f"CREATE RULE nothing AS ON INSERT TO outbox.{table} DO INSTEAD NOTHING")
        database.sql(f"ALTER TABLE outbox.{table} ADD COLUMN extra text, ADD COLUMN quantity int DEFAULT 7 NOT NULL")
    work(database)
    for table in ("progress_1", "progress_2"):
        database.sql(f"ALTER TABLE outbox.{table} ADD CONSTRAINT never CHECK (quantity = 8) NOT VALID")
    database.emit("t", "k", "4")
    wait_for(lambda: "never" in (database.status()["last_error"] or ""), "the check that fails")
    database.emit("t", "k", "5")
    for table in ("progress_1", "progress_2"):
        database.sql(f"ALTER TABLE outbox.{table} DROP CONSTRAINT never")
    database.drain(60)
    # At least once: what was sent and not saved comes again.
    assert {m.value for m in read_messages(database.file)} >= {b"4", b"5"}
    assert not database.cluster.complaints()


# -- settings -----------------------------------------------------------------------------------------------


def test_no_setting_is_for_a_plain_role(server, make_database, make_role):
    """Not for its session, not for itself, not for a database that it owns."""
    role = make_role("plain")
    database = make_database(name="plain")
    database.sql("SELECT outbox.grant_emit(%s::regrole)", role)
    database.sql(f'ALTER DATABASE "{database.name}" OWNER TO {role}')
    names = [name for (name,) in database.sql("SELECT name FROM pg_settings WHERE name LIKE 'outbox.%'")]
    assert len(names) >= 14
    with database.connect(user=role) as session:
        for name in names:
            value = session.execute("SELECT reset_val FROM pg_settings WHERE name = %s", (name,)).fetchone()[0] or ""
            for statement in (
                f"SET {name} = '{value}'",
                f"SET LOCAL {name} = '{value}'",
                f"SELECT set_config('{name}', '{value}', false)",
                f"UPDATE pg_settings SET setting = '{value}' WHERE name = '{name}'",
                f"ALTER ROLE {role} SET {name} = '{value}'",
                f'ALTER ROLE {role} IN DATABASE "{database.name}" SET {name} = \'{value}\'',
                f'ALTER DATABASE "{database.name}" SET {name} = \'{value}\'',
                f"ALTER SYSTEM SET {name} = '{value}'",
                f"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET {name} = '{value}' AS 'SELECT 1'",
            ):
                with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CantChangeRuntimeParam)):
                    session.execute(statement)
                    # A SET in a function, ALTER ROLE or ALTER DATABASE may be refused only when it takes effect.
                    raise AssertionError(f"{statement} works")
        for statement in ("CREATE ROLE x SUPERUSER", "LOAD '/tmp/x.so'", "SELECT pg_reload_conf()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)
