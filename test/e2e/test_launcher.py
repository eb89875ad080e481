"""One relay for each database that has the extension, whatever happens to databases and extensions."""

import threading
import time

import psycopg
import pytest

from support.files import read_messages
from support.waiting import Stopwatch, wait_for


@pytest.fixture
def to_file(server, unique):
    """Settings that send a database's messages to a file of its own."""

    def settings(name):
        path = server.directory / f"{unique(name)}.jsonl"
        return path, {"outbox__sink": "file", "outbox__file_path": path}

    return settings


def values(path):
    return [message.value.decode() for message in read_messages(path)]


def no_relay(database):
    return wait_for(lambda: database.relay_pid is None, f"{database.name} without a relay")


def test_database_without_extension_has_no_relay(make_database, server):
    bare = make_database(extension=False)
    full = make_database()
    full.wait_for_relay()
    assert bare.relay_pid is None


def test_create_and_drop_extension(make_database, to_file):
    path, settings = to_file("m")
    database = make_database(extension=False, **settings)
    for round_ in range(3):
        watch = Stopwatch()
        database.sql("CREATE EXTENSION outbox")
        database.wait_for_relay()
        assert watch.seconds < 3
        database.emit("t", "k", f"{round_}")
        database.drain()
        watch = Stopwatch()
        database.sql("DROP EXTENSION outbox")
        assert watch.seconds < 3
        no_relay(database)
    assert values(path) == ["0", "1", "2"]


def test_create_and_drop_in_transactions(make_database, to_file):
    path, settings = to_file("m")
    database = make_database(extension=False, **settings)
    with database.connect(autocommit=False) as session:
        session.execute("CREATE EXTENSION outbox")
        session.execute("SELECT outbox.emit('t', 'k', 'never')")
        session.rollback()
        session.execute("CREATE EXTENSION outbox")
        session.execute("SELECT outbox.emit('t', 'k', '1')")
        session.commit()
    database.drain()
    relay = database.wait_for_relay()
    with database.connect(autocommit=False) as session:
        session.execute("DROP EXTENSION outbox")
        session.rollback()
    database.emit("t", "k", "2")
    database.drain()
    assert database.wait_for_relay() == relay, "a DROP that is rolled back changes nothing"
    with database.connect(autocommit=False) as session:
        session.execute("DROP EXTENSION outbox")
        session.execute("CREATE EXTENSION outbox")
        session.execute("SELECT outbox.emit('t', 'k', '3')")
        session.commit()
    database.drain()
    with database.connect(autocommit=False) as session:
        session.execute("SAVEPOINT s")
        session.execute("DROP EXTENSION outbox")
        session.execute("ROLLBACK TO s")
        session.execute("SELECT outbox.emit('t', 'k', '4')")
        session.commit()
    database.drain()
    assert values(path) == ["1", "2", "3", "4"]


def test_drop_extension_with_a_backlog(make_database):
    """Nobody to deliver to, and a relay at work: DROP EXTENSION neither hangs nor deadlocks."""
    database = make_database(outbox__kafka_bootstrap_servers="127.0.0.1:1")
    database.sql("SELECT count(outbox.emit('t', n, 'p')) FROM generate_series(1, 5000) AS n")
    database.wait_for_state("connecting")
    watch = Stopwatch()
    database.sql("DROP EXTENSION outbox")
    assert watch.seconds < 3
    no_relay(database)


def test_drop_extension_under_load(make_database, to_file, workload):
    """Sessions get an error that says why, at once; none hangs, and a new extension works."""
    _, settings = to_file("m")
    database = make_database(**settings)
    errors = []
    stop = threading.Event()

    def emit_all_the_time():
        with database.connect() as session:
            while not stop.is_set():
                try:
                    session.execute("SELECT outbox.emit('t', 'k', 'p')")
                except psycopg.Error as error:
                    errors.append(error)

    threads = [threading.Thread(target=emit_all_the_time) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            database.sql("DROP EXTENSION outbox")
            database.sql("CREATE EXTENSION outbox")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    states = {error.sqlstate for error in errors}
    # Undefined function or schema, dropped meanwhile, not there any more.
    assert states <= {"42883", "3F000", "55000", "42P01", "XX000"}, [str(e) for e in errors][:5]
    assert "XX000" not in states, [str(e) for e in errors if e.sqlstate == "XX000"][:5]
    database.emit("t", "k", "after")
    database.drain()


def test_alter_extension_update(make_database):
    database = make_database()
    database.wait_for_relay()
    # There is no newer version yet: the command works, and does nothing.
    database.sql("ALTER EXTENSION outbox UPDATE")
    database.wait_for_relay()


def test_drop_database(make_database, server, to_file):
    """With the relay connected, and without FORCE."""
    path, settings = to_file("m")
    for kind in (settings, {"outbox__kafka_bootstrap_servers": "127.0.0.1:1"}):
        database = make_database(name=f"doomed{len(kind)}", **kind)
        database.wait_for_relay()
        database.emit("t", "k", "p")
        watch = Stopwatch()
        database.drop()
        assert watch.seconds < 3
        wait_for(lambda: database.name not in server.workers("relay"), "the relay's end")


def test_drop_database_that_is_refused(make_database, server):
    """Somebody else is connected: DROP DATABASE fails as always, and the relay comes back."""
    database = make_database(outbox__kafka_bootstrap_servers="127.0.0.1:1")
    database.wait_for_relay()
    with database.connect():
        with server.connect() as session:
            session.execute("SET statement_timeout = '15s'")
            with pytest.raises(psycopg.errors.ObjectInUse):
                session.execute(f'DROP DATABASE "{database.name}"')
    database.wait_for_relay()


def test_drop_database_by_a_stranger_disturbs_nobody(make_database, server):
    database = make_database(outbox__kafka_bootstrap_servers="127.0.0.1:1")
    relay = database.wait_for_relay()
    server.sql("CREATE ROLE stranger_drops LOGIN CREATEDB")
    try:
        with server.connect(user="stranger_drops") as session:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(f'DROP DATABASE "{database.name}"')
        assert database.wait_for_relay() == relay
    finally:
        server.sql("DROP ROLE stranger_drops")


def test_copy_a_database_with_a_connected_relay(make_database, server, to_file):
    """CREATE DATABASE ... TEMPLATE works at once; the copy sends nothing of the original's."""
    path, settings = to_file("m")
    original = make_database(**settings)
    original.emit("t", "k", "1")
    original.drain()
    original.sql("SELECT outbox.pause()")
    original.emit("t", "k", "2")
    original.wait_for_relay()
    watch = Stopwatch()
    copy = make_database(name="copy", options=f'TEMPLATE "{original.name}"', extension=False)
    assert watch.seconds < 5
    copy_path, copy_settings = to_file("copy")
    copy.set(**copy_settings)
    status = copy.wait_for_state("foreign")
    assert status["backlog"] == 1
    original.wait_for_relay()
    original.sql("SELECT outbox.resume()")
    original.drain()
    assert values(path) == ["1", "2"]
    assert values(copy_path) == []
    # The copy can be given its own life.
    assert copy.value("SELECT outbox.discard_backlog()") == 1
    copy.sql("SELECT outbox.resume()")
    copy.emit("t", "k", "the copy's own")
    copy.drain()
    assert values(copy_path) == ["the copy's own"]


def test_template_with_the_extension(make_database, server, to_file):
    """A database made from a template that has the extension and no messages just works."""
    template = make_database(name="template")
    template.wait_for_relay()
    path, settings = to_file("m")
    database = make_database(options=f'TEMPLATE "{template.name}"', extension=False, **settings)
    database.emit("t", "k", "p")
    database.wait_for_relay()
    database.drain()
    assert values(path) == ["p"]


def test_template_that_nobody_may_connect_to(make_database, server):
    template = make_database(name="template")
    template.wait_for_relay()
    server.sql(f'ALTER DATABASE "{template.name}" WITH IS_TEMPLATE true ALLOW_CONNECTIONS false')
    try:
        database = make_database(options=f'TEMPLATE "{template.name}"', extension=False)
        database.wait_for_relay()
    finally:
        server.sql(f'ALTER DATABASE "{template.name}" WITH IS_TEMPLATE false ALLOW_CONNECTIONS true')


def test_rename_database(make_database, server, to_file):
    path, settings = to_file("m")
    database = make_database(**settings)
    database.emit("t", "k", "1")
    database.drain()
    renamed = database.name + " renamed"
    watch = Stopwatch()
    server.sql(f'ALTER DATABASE "{database.name}" RENAME TO "{renamed}"')
    assert watch.seconds < 3
    server.databases.remove(database.name)
    database.name = renamed
    server.databases.append(renamed)
    database.wait_for_relay()
    database.emit("t", "k", "2")
    database.drain()
    assert values(path) == ["1", "2"]


def test_both_workers_terminated(file_database, server):
    launcher, relay = server.launcher_pid, file_database.wait_for_relay()
    server.sql("SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[%s, %s]::int[]) AS pid", launcher, relay)
    file_database.wait_for_relay(other_than=relay)
    wait_for(lambda: server.launcher_pid not in (None, launcher), "a launcher")
    file_database.emit("t", "k", "p")
    file_database.drain()
    assert values(file_database.file) == ["p"]


def test_terminated_many_times(file_database, server):
    """Exit is not unregistration, and a log is not a place for storms."""
    before = len(server.log_text().splitlines())
    for _ in range(5):
        relay = file_database.wait_for_relay()
        server.sql("SELECT pg_terminate_backend(%s)", relay)
        file_database.wait_for_relay(other_than=relay)
    file_database.emit("t", "k", "p")
    file_database.drain()
    assert len(server.log_text().splitlines()) - before < 40


def test_settings_by_reload(make_database, make_topic, embedded_broker, server, to_file):
    """Another broker, another sink: ALTER DATABASE and a reload are all it takes."""
    path, settings = to_file("m")
    database = make_database(outbox__kafka_bootstrap_servers="127.0.0.1:1")
    topic = make_topic(embedded_broker, partitions=1)
    database.emit(topic, "k", "1")
    database.wait_for_state("connecting")
    database.set(outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
    server.sql("SELECT pg_reload_conf()")
    database.drain()
    assert [m.value for m in embedded_broker.read(topic)] == [b"1"]
    database.set(**settings)
    server.sql("SELECT pg_reload_conf()")
    wait_for(lambda: "file" in (database.status()["sink"] or ""), "the other sink")
    database.emit(topic, "k", "2")
    database.drain()
    assert values(path) == ["2"]
    assert embedded_broker.count(topic) == 1
    # And off, and on again.
    database.set(outbox__enabled="off")
    server.sql("SELECT pg_reload_conf()")
    database.wait_for_state("disabled")
    database.emit(topic, "k", "3")
    assert not database.value("SELECT outbox.wait_for_delivery('200 ms')")
    server.sql(f'ALTER DATABASE "{database.name}" RESET outbox.enabled')
    server.sql("SELECT pg_reload_conf()")
    database.drain()
    assert values(path) == ["2", "3"]


def test_settings_in_the_configuration_file(make_cluster, embedded_broker, make_topic):
    """One line in postgresql.conf and a reload, for every database."""
    server = make_cluster()
    one, two = server.database("one"), server.database("two")
    topic = make_topic(embedded_broker, partitions=1)
    one.emit(topic, "k", "1")
    two.emit(topic, "k", "2")
    assert one.wait_for_state("connecting", "failed")["last_error"], "nothing says where Kafka is"
    server.reload(outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
    one.drain()
    two.drain()
    assert {m.value for m in embedded_broker.read(topic)} == {b"1", b"2"}
    # A value that cannot be changed by reload, and one that is wrong, disturb nothing.
    server.reload(outbox__max_databases=3, outbox__segment_size="1 bushel")
    one.emit(topic, "k", "3")
    one.drain()
    server.reload(outbox__max_databases=24, outbox__segment_size=None, outbox__enabled="off")
    one.wait_for_state("disabled")
    server.reload(outbox__enabled=None)
    one.emit(topic, "k", "4")
    one.drain()


def test_reload_storm(file_database, server, workload):
    load = workload(file_database, "t", sessions=2, rate=300)
    relay = file_database.wait_for_relay()
    with load, server.connect() as session:
        for _ in range(300):
            session.execute("SELECT pg_reload_conf()")
    file_database.drain()
    assert file_database.relay_pid == relay, "a reload without a change does not restart the relay"
    messages = read_messages(file_database.file)
    assert len(messages) == len(load.sent())


def test_more_databases_than_relays(make_cluster):
    """Too few worker slots, or relays: said once, and the others work."""
    server = make_cluster(outbox__max_databases=2, max_worker_processes=8)
    databases = [
        server.database(f"db{n}", outbox__sink="file", outbox__file_path=server.directory / f"{n}.jsonl")
        for n in range(4)
    ]
    wait_for(lambda: len(server.workers("relay")) == 2, "two relays")
    assert server.log_text().count("outbox.max_databases") == 1
    served = [d for d in databases if d.name in server.workers("relay")]
    for database in served:
        database.emit("t", "k", "p")
        database.drain()
    left_out = [d for d in databases if d not in served]
    left_out[0].emit("t", "k", "p")
    assert left_out[0].status()["state"] == "stopped"
    # A place becomes free.
    served[0].sql("DROP EXTENSION outbox")
    wait_for(lambda: any(d.name in server.workers("relay") for d in left_out), "a relay for one that had none", 70)


def test_worker_slots_run_out(make_cluster):
    server = make_cluster(max_worker_processes=3)
    for n in range(4):
        server.database(f"db{n}", outbox__sink="file", outbox__file_path=server.directory / f"{n}.jsonl")
    wait_for(lambda: "max_worker_processes" in server.log_text(), "a hint in the log")
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 2, "two seconds of a log without a storm")
    assert server.log_text().count("max_worker_processes") <= 3


def test_not_preloaded(make_cluster):
    """CREATE EXTENSION works (a restore must), emit() says what is missing, nothing crashes."""
    server = make_cluster(shared_preload_libraries="", outbox__max_databases=None)
    database = server.database("app")
    with database.connect() as session:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
            session.execute("SELECT outbox.emit('t', 'k', 'p')")
        assert "shared_preload_libraries" in refusal.value.diag.message_hint
        assert session.execute("SELECT count(*) FROM outbox.uncommitted()").fetchone() == (0,)
        assert session.execute("SELECT count(*) FROM outbox.messages").fetchone() == (0,)
        for call in ("SELECT state FROM outbox.status", "SELECT outbox.wait_for_delivery('0')",
                     "SELECT outbox.pause()", "SELECT outbox.resume()", "SELECT outbox.discard_backlog()"):  # fmt: skip
            try:
                session.execute(call)
            except psycopg.errors.ObjectNotInPrerequisiteState:
                pass
        session.execute("DROP EXTENSION outbox")


def test_binary_upgrade_starts_nothing(make_cluster):
    """pg_upgrade runs the new server with -b: neither launcher nor relay may be there."""
    server = make_cluster(outbox__sink="file", outbox__file_path="/dev/null")
    database = server.database("app")
    database.wait_for_relay()
    server.stop()
    server.start(options="-b")
    assert server.workers("launcher") == {} and server.workers("relay") == {}
    server.restart()
    database.wait_for_relay()
