"""The time of day jumps and the relay does not mind: no stall, no hot loop, nothing given up for its age."""

import itertools
import os
import signal
import threading

import pytest

from support import preload
from support.cluster import Cluster
from support.files import read_messages
from support.kafka import EmbeddedBroker
from support.ledger import check
from support.processes import cpu_seconds, give_to_server_user
from support.waiting import Stopwatch, wait_for

HOUR, MONTH = 3600, 30 * 86400


@pytest.fixture(scope="module")
def system(base_directory):
    return preload.System(base_directory / "clock-faults", preload.build(base_directory))


@pytest.fixture(scope="module")
def clocked(base_directory, template, system):
    """A server whose clock the tests set."""
    server = Cluster(base_directory / "pg-clock").create(template)
    server.environment = system.environment
    server.start()
    yield server
    server.remove()


numbers = itertools.count(1)


@pytest.fixture
def database(clocked, system):
    system.set_clock(0)
    name = f"d{next(numbers)}"
    file = clocked.directory / f"{name}.jsonl"
    options = clocked.directory / f"{name}.properties"
    write(options, "# nothing asked for")
    database = clocked.database(
        name, outbox__sink="file", outbox__file_path=file, outbox__file_config_file=options
    )
    database.file, database.options = file, options
    yield database
    system.set_clock(0)
    database.drop(force=True)


def write(path, text):
    new = path.with_suffix(".new")
    new.write_text(text + "\n")
    new.chmod(0o600)
    give_to_server_user(new)
    new.rename(path)


def values(database):
    return [message.value.decode() for message in read_messages(database.file)]


def test_the_clock_can_be_set(clocked, database, system):
    real = database.value("SELECT extract(epoch FROM clock_timestamp())::float8")
    system.set_clock(MONTH)
    assert abs(database.value("SELECT extract(epoch FROM clock_timestamp())::float8") - real - MONTH) < 60


@pytest.mark.parametrize("jump", [-HOUR, HOUR, -MONTH, MONTH])
def test_everything_goes_on_after_a_jump(clocked, database, system, workload, jump):
    """Under load; then sink, relay and launcher die, and are back as quickly as ever."""
    load = workload(database, "t", sessions=2, keys=5, rate=200)
    with load:
        wait_for(lambda: load.committed >= 40, "load")
        # Whatever is due soon was reckoned before the jump.
        os.kill(database.wait_for_sink(), signal.SIGKILL)
        system.set_clock(jump)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 40, "load after the jump")
        watch = Stopwatch()
        sink = database.wait_for_sink()
        os.kill(sink, signal.SIGKILL)
        database.wait_for_sink(other_than=sink, timeout=10)
        relay = database.wait_for_relay()
        clocked.sql("SELECT pg_terminate_backend(%s)", relay)
        system.set_clock(0)
        database.wait_for_relay(other_than=relay, timeout=10)
        launcher = clocked.launcher_pid
        clocked.sql("SELECT pg_terminate_backend(%s)", launcher)
        wait_for(lambda: clocked.launcher_pid not in (None, launcher), "a launcher", timeout=10)
        print(f"\nsink, relay and launcher were back after {watch.seconds:.1f} s in all")
    database.drain()
    check(load.sent(), read_messages(database.file), duplicates_allowed=True)


def test_progress_is_saved_after_the_clock_went_back(database, system):
    """Otherwise a crash would send again what has been delivered since."""
    saved = "SELECT max(watermark) FROM (TABLE outbox.progress_1 UNION ALL TABLE outbox.progress_2) AS p"
    for round_, offset in enumerate((0, -HOUR, -MONTH), 1):
        system.set_clock(offset)
        database.emit("t", "k", "p")
        database.drain()
        wait_for(lambda least=round_: database.value(saved) >= least, "saved progress", timeout=5)


@pytest.mark.parametrize("jump", [-HOUR, MONTH])
def test_a_topic_in_trouble_is_tried_again_after_a_jump(database, system, jump):
    write(database.options, "refuse.topic=moody")
    database.emit("moody", "k", "1")
    database.wait_for_state("waiting")
    system.set_clock(jump)
    write(database.options, "# no trouble any more")
    database.drain(20)
    assert values(database) == ["1"]


def test_waiting_for_delivery_ends_when_it_should(database, system):
    """A timeout is a length of time, not a time of day."""
    database.sql("SELECT outbox.pause()")
    database.emit("t", "k", "p")
    with database.connect() as session:
        watch = Stopwatch()
        session.execute("SELECT 1")
        # The jump happens while it waits.
        setter = threading.Timer(0.3, system.set_clock, (-HOUR,))
        setter.start()
        assert session.execute("SELECT outbox.wait_for_delivery('1 s')").fetchone() == (False,)
        assert watch.seconds < 10
        setter.join()


def test_segments_of_a_wrong_future_are_emptied(database, system):
    """Rows were written while the clock was a month ahead: that does not keep them for a month."""
    database.set(outbox__segment_size="64kB", outbox__segment_max_age="1s", outbox__retention="1s")
    relay = database.wait_for_relay()
    system.set_clock(MONTH)
    for _ in range(3):
        database.sql("SELECT count(outbox.emit('t', n, repeat('x', 500))) FROM generate_series(1, 400) AS n")
        database.drain()
    system.set_clock(0)
    assert relay

    def emptied():
        database.emit("t", "k", "p")
        return database.value("SELECT count(*) FROM outbox.messages WHERE time > now() + interval '1 day'") == 0

    wait_for(emptied, "the end of rows from the future", timeout=20, pause=0.3)


def test_nothing_is_given_up_for_its_age(database, system):
    """A backlog that seems to be a month old, then to come from the future, is delivered all the same."""
    database.sql("SELECT outbox.pause()")
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 500) AS n")
    system.set_clock(MONTH)
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(501, 1000) AS n")
    system.set_clock(-HOUR)
    database.sql("SELECT outbox.resume()")
    database.drain()
    assert values(database) == [str(n) for n in range(1, 1001)]


def test_kafka_sink_and_a_strobing_clock(clocked, system, base_directory, workload):
    """The time of day jumps to and fro all the time, under load: delivery goes on, and costs no more than usual."""
    broker = EmbeddedBroker(base_directory / "clock-broker.log").start()
    database = clocked.database("strobe", outbox__kafka_bootstrap_servers=broker.bootstrap)
    try:
        broker.create_topic("strobe")
        load = workload(database, "strobe", sessions=2, keys=5, rate=200)
        with load:
            for offset in itertools.islice(itertools.cycle((HOUR, -HOUR, 0, MONTH, -10, 10)), 60):
                system.set_clock(offset)
                reached = load.committed
                wait_for(lambda least=reached + 3: load.committed >= least, "load beside the strobing clock")
            database.drain()
        system.set_clock(0)
        database.drain()
        check(load.sent(), broker.read("strobe"))
        # And at rest: nobody spins because a deadline seems to be over, or to be never.
        for offset in (-HOUR, MONTH):
            system.set_clock(offset)
            processes = [database.wait_for_relay(), database.wait_for_sink(), clocked.launcher_pid]
            before = [cpu_seconds(pid) for pid in processes]
            watch = Stopwatch()
            wait_for(lambda began=watch: began.seconds > 1, "a second at rest", pause=0.2)
            used = [cpu_seconds(pid) - b for pid, b in zip(processes, before)]
            assert max(used) <= 0.1, f"relay, sink, launcher used {used} s of a second"
    finally:
        system.set_clock(0)
        database.drop(force=True)
        broker.stop()
