"""Disks fill up, memory, files, threads and processors run out: the sink may die of it, the promise does not."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest

from support import preload
from support.cluster import Cluster
from support.files import read_messages
from support.ledger import check
from support.processes import alive, as_server_user, give_to_server_user, run
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


# -- full disks ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(base_directory):
    """Makes small file systems: small_disk(name, megabytes) returns a folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = []

    def make(name, megabytes):
        folder = base_directory / f"disk-{name}"
        folder.mkdir()
        run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", folder])
        mounted.append(folder)
        give_to_server_user(folder)
        return folder

    yield make
    for folder in mounted:
        run(["umount", "-l", folder])


class Filler:
    """A file that takes what is left of a file system."""

    def __init__(self, folder):
        self.path = folder / "filler"

    def fill(self, leave_kb=0):
        free = os.statvfs(self.path.parent)
        size = free.f_bavail * free.f_frsize - leave_kb * 1024
        with self.path.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(size, 0))

    def remove(self):
        self.path.unlink(missing_ok=True)


@pytest.fixture
def server_on(base_directory, template):
    """Makes a server with its data, its pg_wal or its log in another folder. Asked for after small_disk, it ends before."""
    made = []

    def make(data=None, wal=None, log=None, environment=None, **settings):
        server = Cluster(base_directory / f"pg-full{len(list(base_directory.glob('pg-full*')))}")
        made.append(server)
        server.create(template)
        if data:
            run(["cp", "-a", server.data, data / "data"])
            run(["rm", "-r", server.data])
            server.data = data / "data"
        if wal:
            target = wal / "pg_wal"
            run(["cp", "-a", server.data / "pg_wal", target])
            run(["rm", "-r", server.data / "pg_wal"])
            (server.data / "pg_wal").symlink_to(target)
        if log:
            server.log = log / "postgres.log"
        server.environment = environment or {}
        return server.configure(**settings).start()

    yield make
    for server in made:
        server.remove()


def to_file(server, **settings):
    file = server.directory / "m.jsonl"
    database = server.database("app", outbox__sink="file", outbox__file_path=file, **settings)
    database.file = file
    return database


def fails_with(error, action, attempts=2000):
    for _ in range(attempts):
        try:
            action()
        except error as raised:
            return raised
    raise AssertionError(f"{attempts} times without {error}")


def test_disk_of_the_data_is_full(small_disk, server_on, base_directory):
    """The application's transactions fail cleanly, as any INSERT does; when there is space again all goes on."""
    disk = small_disk("data", 110)
    normal = base_directory / "wal-of-full"
    normal.mkdir()
    give_to_server_user(normal)
    server = server_on(data=disk, wal=normal)
    database = to_file(server)
    database.sql(SCHEMA)
    emit_many(database, "t", 5, 1, 100)
    database.drain()
    filler = Filler(disk)
    filler.fill(leave_kb=400)
    last = 100

    def emit_more():
        nonlocal last
        emit_many(database, "t", 5, last + 1, last + 50)
        last += 50

    refused = fails_with(psycopg.errors.DiskFull, emit_more)
    assert refused.sqlstate == "53100"
    filler.fill()
    # The relay cannot save its progress either. It may come and go; nobody else is disturbed.
    for _ in range(5):
        with contextlib.suppress(psycopg.Error):
            emit_more()
    assert database.value("SELECT 1") == 1
    filler.remove()
    wait_for(lambda: not _raises(emit_more), "transactions that work again")
    database.drain(60)
    check(ledger(database), read_messages(database.file), duplicates_allowed=True)
    wait_for(lambda: database.status()["state"] == "running", "the relay at work")


def _raises(action):
    try:
        action()
        return False
    except psycopg.Error:
        return True


@pytest.mark.crash
def test_disk_of_pg_wal_is_full(small_disk, server_on):
    """PostgreSQL stops with a PANIC, as it does; started again with space, it has everything it promised."""
    disk = small_disk("wal", 64)
    server = server_on(wal=disk, max_wal_size="32MB", min_wal_size="32MB", wal_recycle="off")
    server.expect_crash()
    database = to_file(server)
    database.sql(SCHEMA)
    emit_many(database, "t", 5, 1, 100)
    database.drain()
    filler = Filler(disk)
    filler.fill()
    last = 100
    try:
        for _ in range(400):
            emit_many(database, "t", 5, last + 1, last + 1000)
            last += 1000
            database.sql("SELECT count(outbox.emit('u', 'k', repeat('x', 10000))) FROM generate_series(1, 100)")
        raise AssertionError("pg_wal did not become full")
    except psycopg.Error:
        pass
    sinkless = Stopwatch()
    wait_for(lambda: not server.running or sinkless.seconds > 5, "the server's end")
    filler.remove()
    if server.running:
        server.stop("immediate")
    server.start()
    emit_many(database, "t", 5, last + 2001, last + 2100)
    database.drain(60)
    arrived = [m for m in read_messages(database.file) if m.topic == "t"]
    check(ledger(database), arrived, duplicates_allowed=True)


def test_disk_of_the_log_is_full(small_disk, server_on):
    """Nobody waits for the log: messages flow while it takes nothing."""
    disk = small_disk("log", 1)
    server = server_on(log=disk)
    database = to_file(server)
    database.sql(SCHEMA)
    Filler(disk).fill()
    emit_many(database, "t", 5, 1, 200)
    database.drain()
    # What makes the relay and its sink say something.
    os.kill(database.wait_for_sink(), signal.SIGKILL)
    relay = database.wait_for_relay()
    server.sql("SELECT pg_terminate_backend(%s)", relay)
    database.wait_for_relay(other_than=relay)
    emit_many(database, "t", 5, 201, 400)
    database.drain()
    check(ledger(database), read_messages(database.file), duplicates_allowed=True)


def test_disk_of_the_sinks_file_is_full(file_database, small_disk):
    """The sink says so, the messages wait, and are written when there is space."""
    disk = small_disk("sink", 1)
    disk.chmod(0o777)
    file_database.set(outbox__file_path=disk / "m.jsonl")
    file_database.emit("t", "k", "0")
    file_database.drain()
    filler = Filler(disk)
    filler.fill()
    # Beyond what is left of the last page that the file has.
    file_database.sql("SELECT count(outbox.emit('t', 'k', rpad(n::text, 1000))) FROM generate_series(1, 50) AS n")
    status = wait_for(lambda: (s := file_database.status())["last_error"] and s, "an error")
    assert "No space left" in status["last_error"]
    assert not file_database.value("SELECT outbox.wait_for_delivery('100 ms')")
    filler.remove()
    file_database.drain()
    assert [m.value.decode().strip() for m in read_messages(disk / "m.jsonl")] == [str(n) for n in range(51)]
    file_database.set(outbox__file_path=file_database.file)


@pytest.mark.crash
def test_fsync_fails(server_on, base_directory):
    """PostgreSQL gives up with a PANIC; when the disk is well again nothing is lost, and nothing was invented."""
    system = preload.System(base_directory / "fsync-faults", preload.build(base_directory))
    server = server_on(environment=system.environment, fsync="on", restart_after_crash="off")
    server.expect_crash()
    database = to_file(server)
    database.sql(SCHEMA)
    emit_many(database, "t", 5, 1, 200)
    database.drain()
    system.break_("fsync-fails")
    with pytest.raises(psycopg.Error):
        for n in range(10):
            emit_many(database, "t", 5, 201 + n * 10, 210 + n * 10)
    wait_for(lambda: not server.running, "the server's end")
    system.mend("fsync-fails")
    server.start()
    emit_many(database, "t", 5, 1001, 1100)
    database.drain()
    check(ledger(database), read_messages(database.file), duplicates_allowed=True)


# -- memory -------------------------------------------------------------------------------------------------


@pytest.fixture
def memory_group(request):
    """A control group with little memory, for a sink."""
    group = MEMORY_GROUPS / f"outbox-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(2 << 20))
    except OSError as error:
        pytest.skip(f"no control group for memory can be made here: {error}")
    yield group
    for task in (group / "tasks").read_text().split():
        with contextlib.suppress(OSError):
            (MEMORY_GROUPS / "tasks").write_text(task)
    wait_for(lambda: _removed(group), "the end of the control group")


def _removed(group):
    try:
        group.rmdir()
        return True
    except FileNotFoundError:
        return True
    except OSError:
        return False


def large_backlog(database):
    database.sql("SELECT outbox.pause()")
    database.sql("SELECT count(outbox.emit('t', 'k', rpad(n::text, 5000))) FROM generate_series(1, 600) AS n")


def all_arrived_in_order(messages):
    own = [m for m in messages if m.key == b"k" and m.value != b"0"]
    return list(dict.fromkeys(int(m.value) for m in own)) == list(range(1, 601))


def test_sink_is_killed_for_lack_of_memory(make_database, server, embedded_broker, unique, memory_group):
    """By the kernel: only the sink dies, its successor does the work, the server does not notice."""
    database = make_database(embedded_broker)
    embedded_broker.create_topic("t")
    large_backlog(database)
    broker = embedded_broker.process.pid
    # So that the sink has to keep what it gets.
    os.kill(broker, signal.SIGSTOP)
    try:
        database.sql("SELECT outbox.resume()")
        sink = database.wait_for_sink()
        (memory_group / "tasks").write_text(str(sink))
        for thread in os.listdir(f"/proc/{sink}/task"):
            with contextlib.suppress(OSError):
                (memory_group / "tasks").write_text(thread)
        # What it was given before may already have found room: it gets more.
        wait_for(lambda: not alive(sink) or not database.emit("t", "more", "x" * 100000), "the sink's end")
    finally:
        os.kill(broker, signal.SIGCONT)
    database.wait_for_sink(other_than=sink)
    database.drain(60)
    assert all_arrived_in_order(embedded_broker.read("t"))


@pytest.mark.parametrize("kind", ["file", "kafka"])
def test_sink_cannot_get_memory(make_database, file_database, embedded_broker, kind):
    """An allocation fails: the sink ends, and another one does the work."""
    database = make_database(embedded_broker, name="k") if kind == "kafka" else file_database
    embedded_broker.create_topic("t")
    database.emit("t", "k", "0")
    database.drain()
    sink = database.wait_for_sink()
    used = int(Path(f"/proc/{sink}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    set_limit(sink, "as", used + (256 << 10))
    large_backlog(database)
    database.sql("SELECT outbox.resume()")
    database.drain(60)
    messages = embedded_broker.read("t") if kind == "kafka" else read_messages(file_database.file)
    assert all_arrived_in_order(messages)


# -- files, threads, processes, processors ------------------------------------------------------------------


def set_limit(pid, what, value):
    """As the server's user: not every root may do that to processes of others."""
    run(as_server_user(["prlimit", "--pid", pid, f"--{what}={value}:"]))


@contextlib.contextmanager
def limited(pid, what, value):
    """The soft limit of a process, for the time of the block."""
    before = run(as_server_user(["prlimit", "--pid", pid, f"--{what}", "--raw", "--noheadings", "--output", "SOFT"]))
    set_limit(pid, what, value)
    try:
        yield
    finally:
        if alive(pid):
            set_limit(pid, what, before.strip())


def test_sink_has_no_file_left(file_database):
    """Its file was moved away, as who rotates logs does, and it cannot open another: it says so, and does when it can."""
    database = file_database
    database.emit("t", "k", "0")
    database.drain()
    moved = database.file.with_suffix(".1")
    with limited(database.wait_for_sink(), "nofile", 3):
        database.file.rename(moved)
        for n in range(1, 21):
            database.emit("t", "k", f"{n}")
        wait_for(lambda: "Too many open files" in (database.status()["last_error"] or ""), "an error")
    database.drain()
    assert [int(m.value) for file in (moved, database.file) for m in read_messages(file)] == list(range(21))


def test_relay_has_no_file_left_for_a_sink(file_database):
    """It says so; it may end of that, and another one does the work."""
    file_database.emit("t", "k", "0")
    file_database.drain()
    relay, sink = file_database.wait_for_relay(), file_database.wait_for_sink()
    with limited(relay, "nofile", 5):
        os.kill(sink, signal.SIGKILL)
        file_database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 20) AS n")
        wait_for(lambda: "Too many open files" in (file_database.status()["last_error"] or ""), "an error")
    file_database.drain(60)
    arrived = [m.value.decode() for m in read_messages(file_database.file)]
    assert list(dict.fromkeys(arrived)) == [str(n) for n in range(21)]


def test_no_process_left_for_a_sink(file_database):
    """fork() fails: that is said, and tried again."""
    file_database.emit("t", "k", "0")
    file_database.drain()
    relay, sink = file_database.wait_for_relay(), file_database.wait_for_sink()
    with limited(relay, "nproc", 1):
        os.kill(sink, signal.SIGKILL)
        file_database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 20) AS n")
        wait_for(lambda: "could not start the sink" in (file_database.status()["last_error"] or ""), "an error")
        assert file_database.status()["state"] in ("connecting", "failed")
    file_database.drain(60)
    assert [m.value.decode() for m in read_messages(file_database.file)] == [str(n) for n in range(21)]


def test_sink_has_no_thread_left(make_cluster, base_directory, embedded_broker):
    """The Kafka client cannot start its threads: that is said, and tried again."""
    system = preload.System(base_directory / "thread-faults", preload.build(base_directory))
    server = make_cluster(start=False, outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
    server.environment = system.environment
    server.start()
    embedded_broker.create_topic("t")
    system.break_("threads-fail")
    database = server.database("app")
    for n in range(20):
        database.emit("t", "k", f"{n}")
    status = wait_for(lambda: (s := database.status())["last_error"] and s, "an error")
    print(f"\n{status['state']}: {status['last_error']}")
    assert status["backlog"] == 20
    system.mend("threads-fail")
    database.drain(60)
    assert [m.value for m in embedded_broker.read("t")] == [b"%d" % n for n in range(20)]


def test_one_processor_and_hogs_beside_it(own_server, workload):
    """Everything of the server on one processor that others use too: slower, and right; then it catches up."""
    database = to_file(own_server)
    load = workload(database, "t", sessions=8, keys=8)
    hogs = [
        subprocess.Popen(["taskset", "-c", "0", "sh", "-c", "while :; do :; done"]) for _ in range(2)
    ]
    try:
        for pid in own_server._processes():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(pid, {0})
        with load:
            wait_for(lambda: load.committed >= 300, "load", timeout=60)
            delivered = database.status()["delivered"]
            wait_for(lambda: database.status()["delivered"] > delivered, "deliveries beside the load")
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    watch = Stopwatch()
    database.drain()
    print(f"\nthe backlog was gone {watch.seconds:.1f} s after the load")
    check(load.sent(), read_messages(database.file))
