"""Whatever fails, nothing is lost, nothing is invented, keys keep their order, and nobody has to help."""

import os
import signal
import time

import psycopg
import pytest

from support.kafka import Follower, RealKafka
from support.ledger import check, duplicates
from support.processes import alive
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger


@pytest.fixture
def wired(kafka, own_server):
    """A database of a server of its own, connected to the real broker."""
    return own_server.database("app", outbox__kafka_bootstrap_servers=kafka.bootstrap)


def started_at(database):
    return database.value("SELECT pg_postmaster_start_time()")


def kill_sink(database):
    pid = database.wait_for_sink()
    os.kill(pid, signal.SIGKILL)
    database.wait_for_sink(other_than=pid)


def signal_sink_like_a_service_manager(database):
    """Which tells every process of the service to stop; the sink goes when its relay does."""
    pid = database.wait_for_sink()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    assert database.wait_for_sink() == pid


def abort_sink(database):
    """As a failed assertion of the client library would."""
    pid = database.wait_for_sink()
    os.kill(pid, signal.SIGABRT)
    database.wait_for_sink(other_than=pid)


def terminate_relay(database):
    pid = database.wait_for_relay()
    database.sql("SELECT pg_terminate_backend(%s)", pid)
    database.wait_for_relay(other_than=pid)


def cancel_relay(database):
    database.sql("SELECT pg_cancel_backend(%s)", database.wait_for_relay())


def terminate_launcher(database):
    pid = wait_for(lambda: database.cluster.launcher_pid, "a launcher")
    database.sql("SELECT pg_terminate_backend(%s)", pid)
    wait_for(lambda: database.cluster.launcher_pid not in (None, pid), "another launcher")


def terminate_launcher_and_relay(database):
    """The relay dies while nobody is there to start another."""
    launcher, relay = database.cluster.launcher_pid, database.wait_for_relay()
    database.sql("SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[%s, %s]::int[]) AS pid", launcher, relay)
    database.wait_for_relay(other_than=relay)


@pytest.mark.parametrize(
    "fault, may_duplicate",
    [
        (kill_sink, True),
        (abort_sink, True),
        (signal_sink_like_a_service_manager, False),
        (terminate_relay, False),
        (cancel_relay, False),
        (terminate_launcher, False),
        (terminate_launcher_and_relay, False),
    ],
)
def test_a_process_dies(kafka, server, make_database, make_topic, workload, fault, may_duplicate):
    """Under load, three times over; the server itself never restarts."""
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=3)
    load = workload(database, topic, sessions=4, keys=8, rate=400)
    before = started_at(database)
    with load:
        for round_ in range(1, 4):
            wait_for(lambda target=round_ * 60: load.committed >= target, f"load before fault {round_}")
            fault(database)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 60, "load after the faults")
    assert not load.errors, "no session notices"
    database.drain()
    arrived = kafka.read(topic)
    check(load.sent(), arrived, duplicates_allowed=may_duplicate)
    print(f"\n{duplicates(arrived)} duplicates of {len(arrived)} messages")
    assert started_at(database) == before
    assert database.status()["backlog"] == 0


def test_relay_is_back_quickly(file_database):
    """A relay that was terminated after a healthy life is back within two seconds, and so is a sink."""
    database = file_database
    database.emit("t", "k", "p")
    database.drain()
    watch = Stopwatch()
    terminate_relay(database)
    assert watch.seconds < 2
    database.drain(5)
    watch = Stopwatch()
    kill_sink(database)
    assert watch.seconds < 2
    watch = Stopwatch()
    terminate_launcher(database)
    assert watch.seconds < 5


def test_restart_in_the_middle_of_a_backlog(kafka, wired, own_server, make_topic):
    """A clean stop duplicates nothing, and does not wait for the backlog."""
    topic = make_topic(kafka, partitions=3)
    wired.sql(SCHEMA)
    wired.sql("SELECT outbox.pause()")
    for first in range(0, 300000, 50000):
        emit_many(wired, topic, 20, first + 1, first + 50000)
    wired.sql("SELECT outbox.resume()")
    for threshold in (1000, 100000):
        wait_for(lambda: wired.status()["delivered"] >= threshold, f"{threshold} delivered messages", pause=0.001)
        watch = Stopwatch()
        own_server.stop("fast")
        assert watch.seconds < 10
        own_server.start()
    backlog = wired.status()["backlog"]
    print(f"\nbacklog after the last restart: {backlog}")
    wired.drain(90)
    check(ledger(wired), kafka.read(topic, timeout=90))
    assert wired.status()["backlog"] == 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_under_load(kafka, wired, own_server, make_topic, workload, mode):
    topic = make_topic(kafka, partitions=3)
    load = workload(wired, topic, sessions=6, keys=8)
    with load:
        wait_for(lambda: load.committed >= 500, "load")
        own_server.restart(mode)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 500, "load after the restart")
    wired.drain()
    arrived = kafka.read(topic)
    check(load.sent(), arrived, duplicates_allowed=mode == "immediate")
    print(f"\n{duplicates(arrived)} duplicates of {len(arrived)} messages")


def test_postmaster_is_killed(kafka, wired, own_server, make_topic, workload):
    """The sink is gone within two seconds, and after the restart everything is as if nothing had happened."""
    topic = make_topic(kafka, partitions=3)
    load = workload(wired, topic, sessions=4, keys=8)
    with load:
        wait_for(lambda: load.committed >= 300, "load")
        sink, relay = wired.wait_for_sink(), wired.relay_pid
        os.kill(own_server.postmaster_pid, signal.SIGKILL)
        watch = Stopwatch()
        wait_for(lambda: not alive(sink) and not alive(relay), "the end of relay and sink", timeout=10)
        assert watch.seconds < 2
        load.stopping.set()
    own_server.recover_after_kill()
    wired.drain()
    check(load.sent(), kafka.read(topic), duplicates_allowed=True)


@pytest.mark.crash
def test_backend_is_killed_between_emit_and_commit(kafka, wired, own_server, make_topic):
    """The server restarts everything, as it does; of that transaction nothing is seen, of the others all."""
    own_server.expect_crash()
    topic = make_topic(kafka, partitions=1)
    wired.emit(topic, "k", "before")
    session = wired.connect(autocommit=False)
    session.execute("SELECT outbox.emit(%s, 'k', 'never')", (topic,))
    own_server.kill_process(session.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        session.commit()
    wired.emit(topic, "k", "after")
    wired.drain()
    arrived = [m.value for m in kafka.read(topic)]
    assert list(dict.fromkeys(arrived)) == [b"before", b"after"]


@pytest.mark.crash
def test_relay_is_killed_hard(kafka, wired, own_server, make_topic, workload):
    """kill -9 of a server process restarts the server, as with any of them; nothing else comes of it."""
    own_server.expect_crash()
    topic = make_topic(kafka, partitions=3)
    load = workload(wired, topic, sessions=3, keys=6)
    with load:
        wait_for(lambda: load.committed >= 200, "load")
        relay, sink = wired.wait_for_relay(), wired.wait_for_sink()
        own_server.kill_process(relay)
        wait_for(lambda: not alive(sink), "the end of the sink", timeout=2)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 200, "load after the server's recovery")
    wired.drain()
    check(load.sent(), kafka.read(topic), duplicates_allowed=True)


def test_no_phantom_with_synchronous_commit_off(kafka, make_cluster, make_topic, workload):
    """A commit that a crash takes back was not sent: WAL is flushed before a message leaves."""
    server = make_cluster(
        synchronous_commit="off", wal_writer_delay="10s", wal_writer_flush_after="1GB", wal_buffers="16MB"
    )
    database = server.database("app", outbox__kafka_bootstrap_servers=kafka.bootstrap)
    topic = make_topic(kafka, partitions=3)
    load = workload(database, topic, sessions=4, keys=6)
    with load:
        for round_ in range(3):
            reached = load.committed
            wait_for(lambda target=reached + 300: load.committed >= target, "load")
            try:
                server.stop("immediate")
            finally:
                server.start()
    database.drain()
    arrived = kafka.read(topic)
    check(load.sent(), arrived, duplicates_allowed=True)
    print(f"\n{load.committed} commits were reported, the ledger has {len(load.sent())} messages")


def test_broker_absent_and_appearing_and_dying(kafka, own_server, make_topic, base_directory, workload):
    """emit() works without a broker; when there is one, everything goes there. Nobody restarts anything."""
    broker = RealKafka(base_directory / "kafka-of-faults")
    database = own_server.database(
        "app", outbox__kafka_bootstrap_servers=f"127.0.0.1:{broker.port}"
    )
    topic = "absent"
    load = workload(database, topic, sessions=3, keys=6, rate=300)
    try:
        with load:
            status = database.wait_for_state("connecting")
            wait_for(lambda: load.committed >= 100, "commits without a broker")
            assert not database.value("SELECT outbox.wait_for_delivery('100 ms')")
            status = wait_for(
                lambda: (s := database.status())["last_error"] and s, "an error in outbox.status"
            )
            assert status["state"] == "connecting"
            assert status["backlog"] > 0 and status["oldest"] is not None
            assert status["last_error_at"] is not None
            assert "127.0.0.1" in status["last_error"] or "broker" in status["last_error"].lower()

            broker.start()
            broker.create_topic(topic, 3)
            database.wait_for_state("running")
            reached = load.committed
            wait_for(lambda: load.committed > reached + 100, "load with the broker")
            wait_for(lambda: database.status()["delivered"] > 100, "deliveries")

            # The broker dies without a word, and comes back.
            os.kill(int((broker.directory / "pid").read_text()), signal.SIGKILL)
            database.wait_for_state("connecting")
            reached = load.committed
            wait_for(lambda: load.committed > reached + 100, "commits without the broker")
            wait_for(lambda: not alive(int((broker.directory / "pid").read_text())), "the broker's end")
            broker.start()
            database.wait_for_state("running")
        assert not load.errors
        database.drain()
        check(load.sent(), broker.read(topic))
        assert database.status()["backlog"] == 0
    finally:
        broker.stop(remove=True)


def test_broker_hangs(kafka, make_database, make_topic):
    """A broker that answers nothing for a while: nothing expires, nothing is sent twice."""
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=1)
    database.emit(topic, "k", "0")
    database.drain()
    broker = int((kafka.directory / "pid").read_text())
    os.kill(broker, signal.SIGSTOP)
    try:
        for n in range(1, 51):
            database.emit(topic, "k", f"{n}")
        assert not database.value("SELECT outbox.wait_for_delivery('1 s')")
    finally:
        os.kill(broker, signal.SIGCONT)
    database.drain()
    assert [m.value for m in kafka.read(topic)] == [b"%d" % n for n in range(51)]


def test_missing_topic_beside_a_good_one(kafka, make_database, make_topic, unique):
    """The good one flows; the missing one waits, and once it exists gets its messages in order, each once."""
    database = make_database(kafka)
    good, missing = make_topic(kafka, "good"), unique("missing")
    for n in range(100):
        with database.transaction() as session:
            for topic in (good, missing):
                session.execute("SELECT outbox.emit(%s, %s, %s)", (topic, f"k{n % 3}", f"{n}"))
    assert len(kafka.wait_for_messages(good, 100)) == 100
    status = database.wait_for_state("waiting")
    assert missing in status["last_error"]
    assert status["backlog"] == 100
    assert not database.value("SELECT outbox.wait_for_delivery('100 ms')")
    # It goes on flowing while the other goes on waiting.
    watch = Stopwatch()
    for n in range(100, 120):
        database.emit(good, f"k{n % 3}", f"{n}")
        database.emit(missing, f"k{n % 3}", f"{n}")
    kafka.wait_for_messages(good, 120, timeout=5)
    print(f"\n20 more messages beside the missing topic took {watch.seconds:.2f} s")
    assert database.status()["backlog"] == 120

    kafka.create_topic(missing, 2)
    database.drain()
    for topic in (good, missing):
        arrived = kafka.read(topic)
        assert len(arrived) == 120
        for key in (b"k0", b"k1", b"k2"):
            numbers = [int(m.value) for m in arrived if m.key == key]
            assert numbers == sorted(set(numbers)), f"{topic} {key}"
    assert database.wait_for_state("running")["backlog"] == 0


def test_missing_topic_survives_a_restart_of_the_relay(kafka, make_database, unique):
    database = make_database(kafka)
    missing = unique("missing")
    for n in range(50):
        database.emit(missing, "k", f"{n}")
    database.wait_for_state("waiting")
    terminate_relay(database)
    for n in range(50, 100):
        database.emit(missing, "k", f"{n}")
    kill_sink(database)
    database.wait_for_state("waiting")
    assert database.status()["backlog"] == 100
    kafka.create_topic(missing, 1)
    database.drain()
    assert [int(m.value) for m in kafka.read(missing)] == list(range(100))


def test_refused_message_blocks_nobody(kafka, make_database, make_topic):
    """A message too large for its topic: it stays where an operator sees it, what follows of its key stays
    behind it, everything else goes on."""
    database = make_database(kafka)
    small = make_topic(kafka, "small", partitions=1, max_message_bytes=2000)
    normal = make_topic(kafka, "normal", partitions=1)
    database.emit(small, "a", "1")
    database.emit(small, "a", "x" * 50000)
    database.emit(small, "a", "2")
    database.emit(small, "b", "1")
    database.emit(small, None, "1")
    database.emit(normal, "a", "1")
    kafka.wait_for_messages(normal, 1)
    kafka.wait_for_messages(small, 3)
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.messages WHERE settled") == 6, "settled or parked")
    arrived = [(m.key, m.value) for m in kafka.read(small)]
    assert arrived == [(b"a", b"1"), (b"b", b"1"), (None, b"1")]
    # Nothing vanished: the two that were held back are still there, and said to be.
    kept = database.sql(
        "SELECT convert_from(key, 'UTF8'), length(payload), state FROM outbox.deferred ORDER BY position"
    )
    assert kept == [("a", 50000, "parked"), ("a", 1, "parked")]
    assert database.status()["last_error"]
    # And later messages of other keys go on.
    database.emit(small, "b", "2")
    kafka.wait_for_messages(small, 4)


def test_unknown_partition_blocks_nobody(kafka, make_database, make_topic):
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=2)
    database.emit(topic, "a", "nowhere", partition=9)
    database.emit(topic, "b", "1")
    other = make_topic(kafka, "other")
    database.emit(other, "a", "1")
    kafka.wait_for_messages(other, 1)
    kafka.wait_for_messages(topic, 1)
    assert database.value("SELECT count(*) FROM outbox.messages WHERE convert_from(payload, 'UTF8') = 'nowhere'") == 1
    assert database.status()["last_error"]


def test_suspended_sink_and_relay(kafka, make_database, make_topic):
    """SIGSTOP: applications go on, and afterwards everything arrives once."""
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=1)
    database.emit(topic, "k", "0")
    database.drain()
    number = 0
    for pid in (database.wait_for_sink(), database.relay_pid):
        os.kill(pid, signal.SIGSTOP)
        try:
            watch = Stopwatch()
            for _ in range(100):
                number += 1
                database.emit(topic, "k", f"{number}")
            assert watch.seconds < 5
        finally:
            os.kill(pid, signal.SIGCONT)
        database.drain()
    assert [int(m.value) for m in kafka.read(topic)] == list(range(number + 1))


def test_maintenance_of_the_tables_under_load(kafka, make_database, make_topic, workload):
    """VACUUM FULL, REINDEX by a superuser: no crash, no loss."""
    database = make_database(kafka)
    topic = make_topic(kafka)
    load = workload(database, topic, sessions=3, keys=6, rate=300)
    with load:
        for command in ("VACUUM FULL outbox.segment_{}", "REINDEX TABLE outbox.segment_{}",
                        "VACUUM (FREEZE, ANALYZE) outbox.segment_{}"):  # fmt: skip
            for n in range(1, 5):
                database.sql(command.format(n))
        for n in (1, 2):
            database.sql(f"VACUUM FULL outbox.progress_{n}")
        reached = load.committed
        wait_for(lambda: load.committed > reached + 50, "load afterwards")
    database.drain()
    check(load.sent(), kafka.read(topic))


def test_latency_is_of_milliseconds(kafka, make_database, make_topic):
    """From commit to consumer when nothing else happens; a bound far above what is usual, to catch polling."""
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=1)
    database.emit(topic, "k", "warm-up")
    database.drain()
    follower = Follower(kafka.bootstrap, topic)
    try:
        times = []
        with database.connect() as session:
            for n in range(30):
                session.execute("SELECT outbox.emit(%s, 'k', 'p')", (topic,))
                began = time.monotonic()
                follower.take(n + 1)
                times.append(time.monotonic() - began)
        times.sort()
        print(f"\ncommit to consumer: median {times[15] * 1000:.1f} ms, slowest {times[-1] * 1000:.1f} ms")
        assert times[15] < 0.1
    finally:
        follower.close()
