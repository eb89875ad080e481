"""A sink without work is stopped by its relay, so that the timers of its client wake nobody; nothing else changes."""

import os
import re
import signal
import time
from pathlib import Path

import psycopg
import pytest

from support.kafka import Follower, RealKafka
from support.ledger import check
from support.processes import alive, give_to_server_user
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger

# Six of them without any activity are half a minute of the client's usual ones. Who loses its connections every second
# would wait longer each time.
QUICK = "statistics.interval.ms=20\nreconnect.backoff.ms=10\nreconnect.backoff.max.ms=20\n"
TROUBLE = re.compile(r"outbox (sink|waits|has reached|cannot)|the sink outbox-")


def state_of(pid):
    return re.search(r"^State:\s+(\w)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1)


def wake_ups(pid):
    """How often the threads of the process have been woken, in all."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M).group(1)) for text in statuses)


def wait_for_rest(database):
    """Until the sink is stopped; its process id."""
    pid = database.wait_for_sink()
    wait_for(lambda: state_of(pid) == "T", "that the sink is stopped")
    return pid


def write_properties(path, text):
    """In one step, so that no sink reads a half."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    give_to_server_user(fresh)
    return fresh.rename(path)


@pytest.fixture
def properties(base_directory, unique):
    """A properties file for sinks that rest soon."""
    return write_properties(base_directory / unique("properties"), QUICK)


@pytest.fixture
def idle(make_database, embedded_broker, properties, unique):
    """A database whose sink has delivered something and rests."""
    database = make_database(embedded_broker, outbox__kafka_config_file=properties)
    database.topic = embedded_broker.create_topic(unique("t"))
    database.emit(database.topic, "k", "0")
    database.drain()
    wait_for_rest(database)
    return database


def values(broker, topic):
    return [message.value.decode() for message in broker.read(topic)]


def test_nothing_wakes_it_but_a_message(idle, embedded_broker, server):
    sink = idle.sink_pid
    log = len(server.log_text())
    for number in range(1, 4):
        before, watch = wake_ups(sink), Stopwatch()
        wait_for(lambda: watch.seconds > 0.3, "a while without work")  # noqa: B023
        assert wake_ups(sink) == before
        idle.emit(idle.topic, "k", str(number))
        idle.drain()
        wait_for_rest(idle)
    assert idle.sink_pid == sink
    assert values(embedded_broker, idle.topic) == [str(number) for number in range(4)]
    status = idle.status()
    assert (status["state"], status["last_error"], status["delivered"]) == ("running", None, 4)
    assert not TROUBLE.search(server.log_text()[log:])


def test_the_ring_turns_once_and_rests(make_database, embedded_broker, properties, unique):
    """What was sent is removed when its time is over; then nothing wakes the relay, though the segments grow old."""
    database = make_database(
        embedded_broker, outbox__kafka_config_file=properties, outbox__segment_max_age="1s", outbox__retention="1s"
    )
    database.emit(embedded_broker.create_topic(unique("t")), "k", "0")
    database.drain()
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.messages") == 0, "the segment to be emptied")
    sink, relay = wait_for_rest(database), database.relay_pid

    def still(seconds):
        before, watch = wake_ups(relay), Stopwatch()
        wait_for(lambda: watch.seconds > seconds, "a while without work")
        return wake_ups(relay) == before

    wait_for(lambda: still(0.3), "the relay to rest")
    assert still(2.5), "an empty segment is not replaced because of its age"
    assert state_of(sink) == "T"


def test_each_message_finds_it_awake(idle, embedded_broker):
    """Messages at the very moment at which it is stopped, time after time."""
    idle.sql(SCHEMA)
    for turn in range(20):
        emit_many(idle, idle.topic, 2, turn * 3 + 1, turn * 3 + 3)
        idle.drain()
        # From before the sixth statistics to behind it.
        time.sleep(0.08 + turn * 0.004)
    idle.drain()
    arrived = [m for m in embedded_broker.read(idle.topic) if m.value != b"0"]
    check(ledger(idle), arrived)


def test_it_ends_at_once_when_its_relay_says_so(idle, server, properties):
    first = idle.sink_pid
    watch = Stopwatch()
    idle.sql("SELECT outbox.pause()")
    wait_for(lambda: not alive(first), "its end after a pause")
    idle.sql("SELECT outbox.resume()")
    second = idle.wait_for_sink(other_than=first)
    wait_for_rest(idle)
    # What does not reach it leaves it alone; what does replaces it.
    server.sql("SELECT pg_reload_conf()")
    idle.emit(idle.topic, "k", "after a reload")
    idle.drain()
    assert wait_for_rest(idle) == second
    write_properties(properties, "linger.ms=1\n" + QUICK)
    server.sql("SELECT pg_reload_conf()")
    third = idle.wait_for_sink(other_than=second)
    assert not alive(second)
    wait_for_rest(idle)
    idle.sql("DROP EXTENSION outbox")
    wait_for(lambda: not alive(third), "its end after DROP EXTENSION")
    idle.sql("CREATE EXTENSION outbox")
    idle.emit(idle.topic, "k", "another extension")
    idle.drain()
    fourth = wait_for_rest(idle)
    idle.drop()
    wait_for(lambda: not alive(fourth), "its end after DROP DATABASE")
    assert watch.seconds < 25


def test_one_that_is_killed_or_woken_by_others(idle, embedded_broker):
    first = idle.sink_pid
    os.kill(first, signal.SIGCONT)
    wait_for_rest(idle)
    idle.emit(idle.topic, "k", "1")
    idle.drain()
    wait_for_rest(idle)
    os.kill(first, signal.SIGKILL)
    second = idle.wait_for_sink(other_than=first)
    idle.emit(idle.topic, "k", "2")
    idle.drain()
    assert wait_for_rest(idle) == second
    assert values(embedded_broker, idle.topic) == ["0", "1", "2"]


@pytest.mark.crash
def test_no_end_of_its_relay_leaves_it_behind(make_cluster, embedded_broker, properties):
    """One that is stopped cannot notice that its relay is gone: the kernel ends it."""
    server = make_cluster(
        outbox__kafka_bootstrap_servers=embedded_broker.bootstrap, outbox__kafka_config_file=properties
    )
    server.expect_crash()
    database = server.database("app")

    ways = {
        "smart": lambda: server.stop("smart"),
        "fast": lambda: server.stop("fast"),
        "immediate": lambda: server.stop("immediate"),
        "the relay is terminated": lambda: server.sql("SELECT pg_terminate_backend(%s)", database.relay_pid),
        "the relay is killed": lambda: server.kill_process(database.relay_pid),
        "the postmaster is killed": lambda: os.kill(server.postmaster_pid, signal.SIGKILL),
    }
    for way, end in ways.items():
        if not server.running:
            server.start()
        database.emit("t", "k", way)
        database.drain()
        sink = wait_for_rest(database)
        watch = Stopwatch()
        end()
        wait_for(lambda: not alive(sink), f"the end of the sink ({way})", timeout=10)  # noqa: B023
        print(f"\n{way}: {watch.seconds:.2f} s", end="")
    server.recover_after_kill()
    database.drain()
    assert set(values(embedded_broker, "t")) == set(ways)


def test_connections_that_were_closed_meanwhile_are_no_trouble(idle, embedded_broker, server):
    """The next message takes a new one, once, and nobody calls that trouble."""
    log = len(server.log_text())
    for turn in range(1, 6):
        embedded_broker.command("down", 1)
        embedded_broker.command("up", 1)
        idle.emit(idle.topic, "k", str(turn))
        idle.drain()
        wait_for_rest(idle)
    assert values(embedded_broker, idle.topic) == [str(turn) for turn in range(6)]
    assert not TROUBLE.search(server.log_text()[log:])
    assert (idle.status()["state"], idle.status()["last_error"]) == ("running", None)


def test_a_broker_that_went_meanwhile_is_noticed_with_the_next_message(idle, embedded_broker):
    embedded_broker.command("down", 1)
    assert idle.status()["state"] == "running"
    idle.emit(idle.topic, "k", "1")
    status = idle.wait_for_state("connecting")
    assert embedded_broker.bootstrap in status["last_error"], status["last_error"]
    embedded_broker.command("up", 1)
    idle.drain()
    idle.wait_for_state("running")
    wait_for_rest(idle)
    assert list(dict.fromkeys(values(embedded_broker, idle.topic))) == ["0", "1"]


# -- the real broker ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient_kafka(base_directory):
    """One that soon closes connections on which nothing happens."""
    broker = RealKafka(base_directory / "impatient-kafka").start("connections.max.idle.ms=2000")
    yield broker
    broker.stop(remove=True)


def connections(pid, port):
    """States of the process's connections to the port, as the kernel numbers them: 1 established, 8 the other side has
    closed."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    mine = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()}
    return [int(row[3], 16) for row in rows if f"socket:[{row[9]}]" in mine and int(row[2].split(":")[1], 16) == port]


@pytest.mark.kafka
def test_the_broker_has_closed_the_connections_meanwhile(impatient_kafka, make_database, make_topic, server, properties):
    """As brokers do after ten minutes; what the client knew of the topic is too old by then as well."""
    write_properties(properties, QUICK + "metadata.max.age.ms=1000\n")
    database = make_database(impatient_kafka, outbox__kafka_config_file=properties)
    database.sql(SCHEMA)
    topic = make_topic(impatient_kafka, partitions=3)
    emit_many(database, topic, 4, 1, 30)
    database.drain()
    sink = wait_for_rest(database)
    log = len(server.log_text())
    follower = Follower(impatient_kafka.bootstrap, topic)
    took = []
    for turn in range(3):
        wait_for(lambda: set(connections(sink, impatient_kafka.port)) == {8}, "that the broker closes the connections")
        first = 31 + turn * 10
        watch = Stopwatch()
        emit_many(database, topic, 4, first, first + 9)
        follower.take(10 * (turn + 1))
        took.append(watch.seconds)
        database.drain()
        wait_for_rest(database)
    follower.close()
    print(f"\nuntil ten messages had arrived: {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    assert max(took) < 5
    assert database.sink_pid == sink
    check(ledger(database), impatient_kafka.read(topic))
    status = database.status()
    assert (status["state"], status["last_error"]) == ("running", None)
    assert not TROUBLE.search(server.log_text()[log:])
