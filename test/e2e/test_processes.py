"""Processes die, hang and are stopped in every way, at every moment; what must go on goes on, the rest ends."""

import contextlib
import os
import random
import signal
import threading

import psycopg
import pytest

from support import preload
from support.cluster import PG_BIN, Cluster, Database
from support.files import read_messages
from support.kafka import EmbeddedBroker
from support.ledger import check, duplicates
from support.processes import alive, as_server_user, children, command_line, give_to_server_user, run
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger


def to_file(server, name="app", **settings):
    """A database whose messages go to a file, and the path of that file as `file`."""
    file = server.directory / f"{name}.jsonl"
    database = server.database(name, outbox__sink="file", outbox__file_path=file, **settings)
    database.file = file
    return database


def values(database):
    return [message.value.decode() for message in read_messages(database.file)]


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# -- kill -9 ------------------------------------------------------------------------------------------------


@pytest.mark.crash
def test_server_processes_are_killed_hard(own_server, workload):
    """The launcher, then backends at random moments: each time the server restarts everything, as it does."""
    own_server.expect_crash()
    database = to_file(own_server)
    chance = random.Random(7)
    load = workload(database, "t", sessions=4, keys=6)

    def backends():
        rows = own_server.sql("SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'client backend'")
        return [pid for (pid,) in rows]

    with load:
        for victim in ("launcher", "backend", "backend", "backend"):
            reached = load.committed
            least = chance.randint(30, 150)
            wait_for(lambda: load.committed >= reached + least, "load", timeout=60)  # noqa: B023
            if victim == "launcher":
                pid = wait_for(lambda: own_server.launcher_pid, "a launcher")
            else:
                pid = chance.choice(wait_for(backends, "backends"))
            own_server.kill_process(pid)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 100, "load after the last recovery", timeout=60)
    database.drain()
    arrived = read_messages(database.file)
    check(load.sent(), arrived, duplicates_allowed=True)
    print(f"\n{len(load.errors)} sessions broken, {duplicates(arrived)} duplicates of {len(arrived)} messages")


def test_sink_gets_every_signal(file_database, workload):
    """Whether it ignores the signal or dies of it, the server does not notice and nothing is lost."""
    database = file_database
    load = workload(database, "t", sessions=2, keys=5, rate=200)
    died = []
    spared = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    with load:
        for number in sorted(set(signal.valid_signals()) - spared):
            if number > signal.SIGSYS:
                continue
            pid = database.wait_for_sink()
            os.kill(pid, number)
            reached = load.committed
            wait_for(lambda: load.committed >= reached + 5, "load after the signal")  # noqa: B023
            # What was committed is delivered, by this sink or another one.
            database.drain()
            if not alive(pid):
                died.append(signal.Signals(number).name)
    assert not load.errors, "no session notices"
    check(load.sent(), read_messages(database.file), duplicates_allowed=True)
    assert {"SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS"} <= set(died)
    assert not {"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE"} & set(died)


def test_launcher_cannot_be_cancelled(file_database, server):
    launcher = server.launcher_pid
    server.sql("SELECT pg_cancel_backend(%s)", launcher)
    relay = file_database.wait_for_relay()
    server.sql("SELECT pg_terminate_backend(%s)", relay)
    file_database.wait_for_relay(other_than=relay)
    assert server.launcher_pid == launcher


# -- the postmaster dies: nobody goes on publishing ---------------------------------------------------------


@pytest.fixture
def hung_resolver(base_directory):
    """A system on which no name server ever answers a sink."""
    number = len(list(base_directory.glob("dns-faults*")))
    system = preload.System(base_directory / f"dns-faults{number}", preload.build(base_directory))
    system.break_("resolver-hangs")
    return system


def with_hung_resolver(make_cluster, system):
    server = make_cluster(start=False, outbox__kafka_bootstrap_servers="kafka.example.invalid:9092")
    server.environment = system.environment
    return server.start()


def kill_postmaster(server):
    os.kill(server.postmaster_pid, signal.SIGKILL)
    return Stopwatch()


def wait_for_the_end_of(*pids, timeout=5):
    wait_for(lambda: not any(alive(pid) for pid in pids), "the end of relay and sink", timeout=timeout)


@pytest.mark.parametrize("sink_is", ["busy", "stopped", "asking a dead name server", "behind a window that is full"])
def test_postmaster_is_killed_and_no_orphan_is_left(make_cluster, hung_resolver, embedded_broker, sink_is):
    if sink_is == "asking a dead name server":
        server = with_hung_resolver(make_cluster, hung_resolver)
        database = server.database("app")
    else:
        server = make_cluster(outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
        embedded_broker.create_topic("t")
        database = server.database("app")
        database.emit("t", "k", "first")
        database.drain()
    database.sql("SELECT outbox.pause()")
    database.sql("SELECT count(outbox.emit('t', n, repeat('x', 100))) FROM generate_series(1, 20000) AS n")
    sink, relay = None, database.wait_for_relay()
    frozen = contextlib.nullcontext()
    if sink_is == "behind a window that is full":
        frozen = stopped(embedded_broker.process.pid)
    with frozen:
        database.sql("SELECT outbox.resume()")
        sink = database.wait_for_sink()
        if sink_is == "stopped":
            # Before it is a program of its own it has not asked the kernel yet to end it with its parent.
            wait_for(lambda: "outbox-kafka" in command_line(sink)[0], "the sink's program")
            os.kill(sink, signal.SIGSTOP)
        elif sink_is == "busy":
            wait_for(lambda: database.status()["delivered"] > 500, "deliveries", pause=0.001)
        watch = kill_postmaster(server)
        wait_for_the_end_of(sink, relay)
        print(f"\nrelay and sink were gone after {watch.seconds:.2f} s")
    if sink_is != "asking a dead name server":
        server.recover_after_kill()
        database.drain(60)
        assert len({m.id for m in embedded_broker.read("t")}) == 20001
    else:
        server.recover_after_kill()
        assert wait_for(lambda: database.status()["backlog"] == 20000, "the backlog, whole")


def test_postmaster_is_killed_while_the_relay_is_stopped(own_server):
    """A relay that cannot notice keeps a new server from starting beside it; then it ends without a word."""
    database = to_file(own_server)
    database.emit("t", "k", "1")
    database.drain()
    relay, sink = database.wait_for_relay(), database.wait_for_sink()
    with stopped(relay):
        database.emit("t", "k", "2")
        kill_postmaster(own_server)
        wait_for(lambda: set(own_server._processes()) <= {relay, sink}, "the others' end")
        (own_server.directory / f".s.PGSQL.{own_server.port}.lock").unlink(missing_ok=True)
        with pytest.raises(AssertionError):
            own_server.start()
        assert values(database) == ["1"]
    wait_for_the_end_of(relay, sink)
    assert values(database) == ["1"]
    own_server.recover_after_kill()
    database.drain()
    assert list(dict.fromkeys(values(database))) == ["1", "2"]


# -- stopping the server ------------------------------------------------------------------------------------

LONGEST = {"smart": 10, "fast": 10, "immediate": 2}


def stop_within_limit(server, mode):
    processes = [pid for worker in server.workers("relay").values() for pid in [worker, *children(worker)]]
    watch = Stopwatch()
    server.stop(mode)
    print(f"\n{mode}: {watch.seconds:.2f} s")
    assert watch.seconds < LONGEST[mode]
    # An immediate stop does not wait for its children's children.
    wait_for_the_end_of(*processes)


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_stop_while_the_name_server_is_dead(make_cluster, hung_resolver, mode):
    server = with_hung_resolver(make_cluster, hung_resolver)
    database = server.database("app")
    database.sql("SELECT count(outbox.emit('t', n, repeat('x', 100))) FROM generate_series(1, 5000) AS n")
    database.wait_for_sink()
    stop_within_limit(server, mode)


@pytest.mark.parametrize(
    "mode, hanging",
    [("smart", "broker"), ("fast", "broker"), ("fast", "sink"), ("immediate", "broker"), ("immediate", "sink")],
)
def test_stop_with_a_full_window(own_server, embedded_broker, mode, hanging):
    """Everything that may be in flight is, and nobody answers. Afterwards nothing is lost."""
    embedded_broker.create_topic("t")
    database = own_server.database(
        "app", outbox__kafka_bootstrap_servers=embedded_broker.bootstrap, outbox__max_in_flight_messages="2000"
    )
    database.sql(SCHEMA)
    database.emit("t", "warm-up", "p")
    database.drain()
    hangs = embedded_broker.process.pid if hanging == "broker" else database.wait_for_sink()
    with stopped(hangs):
        emit_many(database, "t", 10, 1, 10000)
        unsettled = "SELECT watermark FROM outbox.status"
        wait_for(lambda: database.value(unsettled) >= 2001, "a full window")
        stop_within_limit(own_server, mode)
    own_server.start()
    database.drain()
    arrived = [m for m in embedded_broker.read("t") if m.key != b"warm-up"]
    check(ledger(database), arrived, duplicates_allowed=True)
    print(f"{duplicates(arrived)} duplicates")
    assert duplicates(arrived) <= 2000, "more than were in flight"


def test_smart_stop_waits_for_sessions_and_sends_for_them(own_server):
    """As long as a session is open its commits are delivered; when it has gone the server stops soon."""
    database = to_file(own_server)
    with database.connect() as session:
        session.execute("SELECT outbox.emit('t', 'k', '1')")
        stopping = threading.Thread(target=own_server.stop, args=("smart",))
        stopping.start()

        def refused():
            try:
                database.connect().close()
                return False
            except psycopg.OperationalError:
                return True

        wait_for(refused, "the server to refuse new sessions")
        session.execute("SELECT outbox.emit('t', 'k', '2')")
        assert session.execute("SELECT outbox.wait_for_delivery('10 s')").fetchone() == (True,)
        assert values(database) == ["1", "2"]
        session.execute("SELECT outbox.emit('t', 'k', '3')")
    watch = Stopwatch()
    stopping.join(20)
    assert not stopping.is_alive() and watch.seconds < 10
    own_server.start()
    database.drain()
    assert values(database) == ["1", "2", "3"]


@pytest.mark.slow  # the command itself waits for fifteen seconds before it gives up
def test_drop_database_while_its_relay_is_stopped(make_database, server, unique):
    """The command says that somebody is connected; when the relay lives again it works."""
    database = make_database(outbox__sink="file", outbox__file_path=server.directory / f"{unique('m')}.jsonl")
    database.emit("t", "k", "p")
    database.drain()
    with stopped(database.wait_for_relay()):
        with pytest.raises(psycopg.errors.ObjectInUse):
            database.drop()
    wait_for(lambda: not dropped_fails(database), "DROP DATABASE")


def dropped_fails(database):
    try:
        database.drop()
        return False
    except psycopg.errors.ObjectInUse:
        return True


def test_drop_database_while_its_sink_is_stopped(file_database):
    """The relay does not wait for it longer than a second or so."""
    file_database.emit("t", "k", "p")
    file_database.drain()
    with stopped(file_database.wait_for_sink()):
        watch = Stopwatch()
        file_database.drop()
        assert watch.seconds < 8


# -- two servers with the same messages ---------------------------------------------------------------------


def test_standby_is_promoted_and_the_old_primary_goes_on(make_cluster, base_directory, embedded_broker):
    """Both send what neither has settled: the same ids and the same bytes; their own new messages differ in id."""
    primary = make_cluster(outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
    embedded_broker.create_topic("t")
    database = primary.database("app")
    database.sql(SCHEMA)
    database.emit("t", "warm-up", "p")
    database.drain()
    with stopped(database.wait_for_sink()):
        emit_many(database, "t", 5, 1, 500)
        other = Cluster(base_directory / f"promoted-{primary.port}")
        other.directory.mkdir()
        other.directory.chmod(0o755)
        give_to_server_user(other.directory)
        run(
            as_server_user([PG_BIN / "pg_basebackup", "-h", primary.directory, "-p", primary.port, "-U", "postgres",
                            "-D", other.data, "-R", "-X", "stream", "-c", "fast"]),
            cwd="/",
        )  # fmt: skip
        other.configure(outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
        try:
            other.start()
            copy = Database(other, "app")
            other.sql("SELECT pg_promote()")
            copy.wait_for_relay()
            copy.drain()
            assert embedded_broker.count("t") >= 501
        except BaseException:
            other.remove()
            raise
    try:
        database.drain()
        for server, side in ((database, "old"), (copy, "new")):
            emit_many(server, "t", 5, 501, 550)
            server.drain()
            assert server.status()["state"] == "running", side
        arrived = [m for m in embedded_broker.read("t") if m.key != b"warm-up"]
        shared = {m.id for m in ledger(database)} & {m.id for m in ledger(copy)}
        assert len(shared) == 500
        for message_id in shared:
            contents = [m.content for m in arrived if m.id == message_id]
            assert len(contents) >= 2 and len(set(contents)) == 1
        # Each side has sent all of its own, and nothing else came.
        assert {m.id for m in arrived} == {m.id for m in ledger(database)} | {m.id for m in ledger(copy)}
        assert len({m.id for m in arrived}) == 600
    finally:
        other.remove()


def test_copied_data_directory_with_outbox_disabled_is_silent(own_server, base_directory, embedded_broker):
    """A file copy has the original's identity; one line in its configuration keeps it from sending."""
    embedded_broker.create_topic("t")
    database = own_server.database("app")
    for n in range(20):
        database.emit("t", "k", f"{n}")
    own_server.stop()
    copy_server = Cluster(base_directory / f"copy-{own_server.port}")
    copy_server.create(own_server.data)
    copy_server.configure(outbox__kafka_bootstrap_servers=embedded_broker.bootstrap, outbox__enabled="off")
    try:
        copy_server.start()
        copy = Database(copy_server, "app")
        assert copy.wait_for_state("disabled")["backlog"] == 20
        own_server.start(outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
        database.drain()
        assert not copy.value("SELECT outbox.wait_for_delivery('300 ms')")
        assert [m.value for m in embedded_broker.read("t")] == [b"%d" % n for n in range(20)]
    finally:
        copy_server.remove()


# -- no process to be had -----------------------------------------------------------------------------------


def test_a_worker_slot_that_becomes_free_is_used(make_cluster):
    """A database that found none gets its relay by itself."""
    server = make_cluster(max_worker_processes=3)
    databases = [to_file(server, f"db{n}") for n in range(2)]
    wait_for(lambda: len(server.workers("relay")) >= 1, "a relay")
    wait_for(lambda: "max_worker_processes" in server.log_text(), "a hint in the log")
    served = server.workers("relay")
    first = next(d for d in databases if d.name in served)
    second = next(d for d in databases if d is not first)
    second.emit("t", "k", "p")
    first.sql("DROP EXTENSION outbox")
    second.wait_for_relay(timeout=70)
    second.drain()
    assert values(second) == ["p"]
