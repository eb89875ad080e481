"""What administrators do to databases, the extension and its tables while messages flow."""

import os
import signal
import threading

import psycopg
import pytest

from support.cluster import Database
from support.files import read_messages
from support.ledger import Sent, check
from support.waiting import Stopwatch, wait_for


def invalid_databases(server):
    return server.sql("SELECT datname FROM pg_database WHERE datconnlimit = -2")


def numbers(path, key):
    return [int(m.value) for m in read_messages(path) if m.key == key.encode()]


class ShortSessions:
    """Emits numbers, each from a session of its own, so that commands that want the database find it free at
    times. Holds who was refused meanwhile; `kept` are the numbers whose commit was reported."""

    def __init__(self, database, key="k"):
        self.database, self.key = database, key
        self.stopping, self.kept, self.refused = threading.Event(), [], []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        n = 0
        while not self.stopping.is_set():
            n += 1
            try:
                self.database.emit("t", self.key, f"{n}")
                self.kept.append(n)
            except psycopg.Error as error:
                self.refused.append(error)
            self.stopping.wait(0.002)

    def __enter__(self):
        self.thread.start()
        wait_for(lambda: len(self.kept) >= 20, "sessions that emit")
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join(30)


def until_it_works(server, command, most=400):
    """Sessions come and go: the command is refused while one is there."""
    refused = 0
    while True:
        try:
            server.sql(command)
            return refused
        except psycopg.errors.ObjectInUse:
            refused += 1
            assert refused < most, f"refused {most} times: {command}"


# -- databases ----------------------------------------------------------------------------------------------


def test_drop_database_with_force_under_load(make_database, server, unique):
    """The relay and the sessions go, the database goes, and the server is as before."""
    path = server.directory / f"{unique('m')}.jsonl"
    for _ in range(3):
        database = make_database(name="forced", outbox__sink="file", outbox__file_path=path)
        relay = database.wait_for_relay()
        with ShortSessions(database):
            watch = Stopwatch()
            # A session may come in between the terminating and the dropping; PostgreSQL then says so.
            until_it_works(server, f'DROP DATABASE "{database.name}" WITH (FORCE)')
            assert watch.seconds < 15
        server.databases.remove(database.name)
        wait_for(lambda: not os.path.exists(f"/proc/{relay}"), "the relay's end")
    assert invalid_databases(server) == []
    values = [m.value for m in read_messages(path)]
    assert values[0] == b"1" and values.count(b"1") == 3


@pytest.mark.parametrize("trouble", ["no broker", "sink that hangs", "paused", "backlog"])
def test_commands_that_wait_for_every_process_are_not_held_up(make_database, server, embedded_broker, unique, trouble):
    """DROP DATABASE and others wait until every process of the server has answered a barrier: relays of other
    databases and the launcher answer at once, whatever they are busy with. Cancelled in that wait, DROP would
    leave an invalid database behind."""
    path = server.directory / f"{unique('m')}.jsonl"
    if trouble == "no broker":
        other = make_database(outbox__kafka_bootstrap_servers="192.0.2.1:9092,no-such-host.invalid:9092")
    else:
        other = make_database(outbox__sink="file", outbox__file_path=path)
    sink = None
    if trouble == "paused":
        other.sql("SELECT outbox.pause()")
    if trouble == "sink that hangs":
        os.kill(sink := other.wait_for_sink(), signal.SIGSTOP)
    try:
        other.sql("SELECT count(outbox.emit('t', n, repeat('x', 500))) FROM generate_series(1, 30000) AS n")
        slowest = 0.0
        for _ in range(5):
            server.sql('CREATE DATABASE "short-lived"')
            with server.connect(options="-c statement_timeout=5s") as session:
                watch = Stopwatch()
                session.execute('DROP DATABASE "short-lived"')
                slowest = max(slowest, watch.seconds)
        print(f"\nslowest DROP DATABASE beside a relay in trouble: {slowest * 1000:.0f} ms")
        assert invalid_databases(server) == []
    finally:
        if sink:
            os.kill(sink, signal.SIGCONT)


def test_cancelled_drop_database(make_database, server, unique):
    """Cancelled while it waits for somebody's session: nothing is dropped, nothing invalid, the relay is back."""
    path = server.directory / f"{unique('m')}.jsonl"
    database = make_database(outbox__sink="file", outbox__file_path=path)
    database.wait_for_relay()
    with database.connect():
        for _ in range(3):
            with server.connect() as session:
                outcome = []

                def drop(session=session, outcome=outcome):
                    try:
                        session.execute(f'DROP DATABASE "{database.name}"')
                    except psycopg.Error as error:
                        outcome.append(error)

                thread = threading.Thread(target=drop)
                thread.start()
                wait_for(lambda: database.relay_pid is None, "the relay to leave")
                server.sql("SELECT pg_cancel_backend(%s)", session.info.backend_pid)
                thread.join(10)
                assert isinstance(outcome[0], (psycopg.errors.QueryCanceled, psycopg.errors.ObjectInUse))
            database.wait_for_relay()
            database.emit("t", "k", "after a cancelled DROP")
            database.drain()
    assert invalid_databases(server) == []
    assert len(read_messages(path)) == 3


def test_rename_move_and_copy_under_load(make_database, server, unique):
    """RENAME, SET TABLESPACE and TEMPLATE find the database free between two short sessions; what was committed
    is sent once, in order, under whatever name, and the copies send nothing of it."""
    path, copy_path = (server.directory / f"{unique(name)}.jsonl" for name in ("m", "copies"))
    database = make_database(outbox__sink="file", outbox__file_path=path)
    space = server.directory / unique("space")
    space.mkdir()
    os.chown(space, server.data.stat().st_uid, server.data.stat().st_gid)
    server.sql(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")
    name, other_name = database.name, database.name + " renamed"
    copies = []
    try:
        with ShortSessions(database) as sessions:
            for round_ in range(2):
                until_it_works(server, f'ALTER DATABASE "{name}" RENAME TO "{other_name}"')
                until_it_works(server, f'ALTER DATABASE "{other_name}" RENAME TO "{name}"')
                for tablespace in ("elsewhere", "pg_default"):
                    until_it_works(server, f'ALTER DATABASE "{name}" SET TABLESPACE {tablespace}')
                copies.append(Database(server, unique(f"copy{round_}")))
                until_it_works(server, f'CREATE DATABASE "{copies[-1].name}" TEMPLATE "{name}"')
                reached = len(sessions.kept)
                wait_for(lambda reached=reached: len(sessions.kept) > reached + 20, "sessions afterwards")
        database.drain()
        assert numbers(path, "k") == sessions.kept
        states = {getattr(error, "sqlstate", None) for error in sessions.refused}
        print(f"\n{len(sessions.kept)} committed, {len(sessions.refused)} sessions refused")
        assert states <= {"3D000", "55006", "55000", "57P01", None}, states
        for copy in copies:
            copy.set(outbox__sink="file", outbox__file_path=copy_path)
            copy.wait_for_relay()
            waiting = copy.value("SELECT count(*) FROM outbox.messages WHERE NOT settled")
            assert copy.wait_for_state("foreign" if waiting else "running")["backlog"] >= waiting
            if waiting:
                copy.sql("SELECT outbox.discard_backlog(), outbox.resume()")
            copy.emit("t", "copy", "1")
            copy.drain()
        assert numbers(copy_path, "k") == [] and numbers(copy_path, "copy") == [1] * len(copies)
        assert invalid_databases(server) == []
    finally:
        for copy in copies:
            copy.drop(force=True)
        until_it_works(server, f'ALTER DATABASE "{name}" SET TABLESPACE pg_default')
        server.sql("DROP TABLESPACE elsewhere")


# -- the extension ------------------------------------------------------------------------------------------


def test_drop_extension_rolled_back_under_load(file_database, workload):
    """Sessions wait for the end of the transaction that wanted to drop it, and go on; nothing is lost."""
    load = workload(file_database, "t", sessions=3, keys=6)
    relay = file_database.wait_for_relay()
    with load:
        for _ in range(5):
            reached = load.committed
            wait_for(lambda reached=reached: load.committed >= reached + 20, "load")
            with file_database.connect(autocommit=False) as session:
                session.execute("DROP EXTENSION outbox")
                session.rollback()
    assert not load.errors
    file_database.drain()
    assert file_database.relay_pid == relay
    check(load.sent(), read_messages(file_database.file))


def test_extension_dropped_and_created_again_under_load(file_database):
    """Of what is committed while the extension comes and goes, everything is delivered that was committed into the
    new one, once and in order; what a DROP took with it was committed before that DROP."""
    ids, stop = [], threading.Event()

    def emit_all_the_time():
        with file_database.connect() as session:
            while not stop.is_set():
                try:
                    ids.append(session.execute("SELECT outbox.emit('t', 'k', 'p')::text").fetchone()[0])
                except psycopg.Error as error:
                    assert error.sqlstate in ("42883", "3F000", "55000", "42P01"), error

    thread = threading.Thread(target=emit_all_the_time)
    thread.start()
    try:
        for _ in range(5):
            reached = len(ids)
            wait_for(lambda reached=reached: len(ids) > reached + 20, "messages")
            with file_database.transaction() as session:
                session.execute("DROP EXTENSION outbox")
                session.execute("CREATE EXTENSION outbox")
            last_before = len(ids)
    finally:
        stop.set()
        thread.join(30)
    wait_for(lambda: len(ids) > last_before, "messages after the last DROP")
    file_database.drain()
    arrived = [m.id for m in read_messages(file_database.file)]
    assert len(arrived) == len(set(arrived))
    assert set(arrived) <= set(ids), "phantoms"
    stored = [i for (i,) in file_database.sql("SELECT id::text FROM outbox.messages ORDER BY position")]
    assert stored and arrived[-len(stored) :] == stored
    assert arrived == [i for i in ids if i in set(arrived)]


def test_library_and_script_of_different_versions(file_database):
    """An older script's functions work with this library; a newer script's that it lacks are refused by name. The
    relay does not care."""
    database = file_database
    with pytest.raises(psycopg.errors.UndefinedFunction) as refusal:
        database.sql("CREATE FUNCTION public.of_tomorrow() RETURNS int LANGUAGE c AS '$libdir/outbox', 'outbox_of_tomorrow'")
    assert "outbox_of_tomorrow" in str(refusal.value)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.sql("ALTER EXTENSION outbox UPDATE TO '99.0'")
    database.emit("t", "k", "p")
    database.drain()


# -- its tables ---------------------------------------------------------------------------------------------


def test_every_rewrite_of_the_tables_under_load(make_database, server, unique, workload):
    """REINDEX, also CONCURRENTLY, rewrites by ALTER TABLE, statistics, moved tables: no crash, no loss, no
    disorder, while the ring turns."""
    path = server.directory / f"{unique('m')}.jsonl"
    database = make_database(
        outbox__sink="file", outbox__file_path=path, outbox__segment_size="64kB", outbox__retention="0"
    )
    load = workload(database, "t", sessions=3, keys=6, prepared=0.05)
    before = server.log_text().count("outbox relay")
    refused = []
    with load, database.connect(options="-c lock_timeout=2s") as session:
        for command in (
            "REINDEX TABLE CONCURRENTLY outbox.segment_{}",
            "REINDEX INDEX CONCURRENTLY outbox.segment_{}_position",
            "ALTER TABLE outbox.segment_{} SET (fillfactor = 90)",
            "ALTER TABLE outbox.segment_{} ALTER COLUMN topic SET STATISTICS 10",
            "ALTER TABLE outbox.segment_{} SET UNLOGGED",
            "ALTER TABLE outbox.segment_{} SET LOGGED",
            "ALTER TABLE outbox.segment_{} ADD COLUMN note text",
            "ALTER TABLE outbox.segment_{} DROP COLUMN note",
            "ALTER TABLE outbox.segment_{} ADD COLUMN note text DEFAULT clock_timestamp()::text",
            "ALTER TABLE outbox.segment_{} DROP COLUMN note",
            "CREATE INDEX CONCURRENTLY ON outbox.segment_{} (lower(topic))",
            "VACUUM FULL outbox.segment_{}",
            "ANALYZE outbox.segment_{}",
        ):
            reached = load.committed
            for n in range(1, 5):
                try:
                    session.execute(command.format(n))
                except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                    refused.append(error)
            wait_for(lambda reached=reached: load.committed > reached + 10, f"load after {command}")
        session.execute("REINDEX SCHEMA outbox")
        session.execute("VACUUM FULL outbox.deferred, outbox.identity, outbox.progress_1, outbox.progress_2")
    print(f"\n{len(refused)} commands refused; {server.log_text().count('outbox relay') - before} lines of relays in the log")
    assert not load.errors
    database.drain()
    check(load.sent(), read_messages(path))


def test_column_added_to_a_segment(file_database):
    """emit() fills what it knows, the rest is NULL. What the library reads by type PostgreSQL does not let anybody
    change: a view depends on it."""
    database = file_database
    database.sql("ALTER TABLE outbox.segment_1 ADD COLUMN note text, ADD COLUMN number bigint")
    database.emit("t", "k", "1")
    assert database.sql("SELECT note, number FROM outbox.segment_1") == [(None, None)]
    database.drain()
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        database.sql("ALTER TABLE outbox.segment_1 ALTER COLUMN headers TYPE text")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        database.sql("ALTER TABLE outbox.segment_1 DROP COLUMN headers")
    database.sql("ALTER TABLE outbox.segment_1 DROP COLUMN number, DROP COLUMN note")
    database.emit("t", "k", "2")
    database.drain()
    assert [m.value for m in read_messages(file_database.file)] == [b"1", b"2"]


def test_attachments_to_the_tables(file_database, workload):
    """Triggers, rules, foreign keys, row security and checks that a superuser puts on a segment under load: emit()
    writes below all of that, and loses nothing."""
    database = file_database
    load = workload(database, "t", sessions=3, keys=6)
    database.sql("CREATE TABLE topics (name text PRIMARY KEY)")
    database.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'")
    with load:
        for n in range(1, 5):
            for command in (
                "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON outbox.segment_{} FOR EACH ROW EXECUTE FUNCTION refuse()",
                "CREATE TRIGGER refuse_statement BEFORE INSERT OR TRUNCATE ON outbox.segment_{} EXECUTE FUNCTION refuse()",
                "CREATE RULE refuse AS ON INSERT TO outbox.segment_{} DO INSTEAD NOTHING",
                "ALTER TABLE outbox.segment_{} ADD FOREIGN KEY (topic) REFERENCES topics NOT VALID",
                "ALTER TABLE outbox.segment_{} ADD CHECK (false) NOT VALID",
                "ALTER TABLE outbox.segment_{} ENABLE ROW LEVEL SECURITY",
                "ALTER TABLE outbox.segment_{} FORCE ROW LEVEL SECURITY",
            ):
                database.sql(command.format(n))
        reached = load.committed
        wait_for(lambda: load.committed > reached + 50, "load afterwards")
    assert not load.errors
    database.drain()
    check(load.sent(), read_messages(database.file))


def test_truncate_of_undelivered_messages_is_said(make_database, server, unique):
    """A superuser may throw messages away; the server says how many had not been delivered."""
    path = server.directory / f"{unique('m')}.jsonl"
    database = make_database(outbox__sink="file", outbox__file_path=path)
    database.emit("t", "k", "delivered")
    database.drain()
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 30) AS n")
    warnings = []
    with database.connect() as session:
        session.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        session.execute("TRUNCATE outbox.segment_1, outbox.segment_2, outbox.segment_3, outbox.segment_4")
    assert len(warnings) == 1 and "30 undelivered" in warnings[0], warnings
    database.emit("t", "k", "after")
    database.sql("SELECT outbox.resume()")
    database.drain()
    wait_for(lambda: database.status()["backlog"] == 0, "an empty backlog")
    assert [m.value for m in read_messages(path)] == [b"delivered", b"after"]


# -- old snapshots ------------------------------------------------------------------------------------------


def test_pinned_horizon_costs_nothing(make_cluster):
    """An idle REPEATABLE READ reader and a replication slot that nobody reads keep every dead row version of the
    server: the log has none, so the rate stays, and the tables stay small."""
    server = make_cluster(wal_level="logical", outbox__segment_size="1MB", outbox__retention="0")
    path = server.directory / "m.jsonl"
    database = server.database("app", outbox__sink="file", outbox__file_path=path)

    def seconds_for_a_portion(rounds=6):
        watch = Stopwatch()
        for n in range(rounds):
            database.sql("SELECT count(outbox.emit('t', %s, repeat('x', 200))) FROM generate_series(1, 5000)", f"{n}")
            database.drain(60)
        return watch.seconds

    seconds_for_a_portion(2)
    before = min(seconds_for_a_portion() for _ in range(2))
    server.sql("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')", database="app")
    server.sql("SELECT pg_create_physical_replication_slot('forgotten too', true)".replace(" too", "_too"))
    with database.connect(autocommit=False) as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM pg_class").fetchone()
        after = [seconds_for_a_portion() for _ in range(3)]
        size = database.value(
            "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class "
            "WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r'"
        )
        dead = database.value(
            "SELECT sum(pg_stat_get_dead_tuples(oid))::bigint FROM pg_class "
            "WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r'"
        )
    print(f"\n30,000 messages: {before:.2f} s before, {', '.join(f'{a:.2f}' for a in after)} s with a pinned horizon")
    print(f"ratio {before / min(after):.2f}; {size} bytes in all tables, {dead} dead rows")
    assert size < 40 << 20 and dead < 100
    # The bound is far above what is measured on a quiet machine (nothing): this one may be busy.
    assert min(after) < before * 3
