"""What the network does to the connection between sink and broker: nothing is lost, nothing comes twice, keys keep
their order, applications do not notice, and nobody has to help."""

import os
import signal
import threading
import time

import pytest

from support.guarded_kafka import client_properties
from support.ledger import check
from support.processes import cpu_seconds, peak_memory
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger


@pytest.fixture
def proxy(guarded_kafka):
    """What stands between the sink and the broker; as it was again after the test."""
    yield guarded_kafka.proxy
    guarded_kafka.proxy.heal()


@pytest.fixture
def behind_proxy(guarded_kafka, proxy, make_database, server, unique):
    """Makes a database that reaches the broker through the proxy only; arguments are properties of the client."""

    def make(name="db", **properties):
        options = {}
        if properties:
            options["outbox__kafka_config_file"] = client_properties(
                server.directory / f"{unique(name)}.properties", **properties
            )
        return make_database(name=name, outbox__kafka_bootstrap_servers=guarded_kafka.proxied, **options)

    return make


# After several connections that ended soon the client waits up to 5 s before it makes the next; not here.
IMPATIENT = {"reconnect_backoff_max_ms": 200}


def more(load, count=60):
    """Waits for that many more transactions."""
    reached = load.committed
    wait_for(lambda: load.committed >= reached + count, "load")


def delivers_again(database, what, timeout=60):
    """Something that is emitted now arrives."""
    before = database.status()["delivered"]
    wait_for(lambda: database.status()["delivered"] > before, f"deliveries after {what}", timeout)


def slowest_commit(database, topic, count=30):
    slowest = 0.0
    with database.connect() as session:
        for n in range(count):
            watch = Stopwatch()
            session.execute("SELECT outbox.emit(%s, 'slowest', %s)", (topic, f"{n}"))
            slowest = max(slowest, watch.seconds)
    return slowest


def finish(database, load, broker, *topics, duplicates_allowed=False, timeout=60):
    """The end of every test here."""
    assert not load.errors, "no session notices"
    database.drain(timeout)
    check(load.sent(), broker.read(*topics), duplicates_allowed=duplicates_allowed)
    status = wait_for(lambda: (s := database.status())["state"] == "running" and s, "state running")
    assert status["backlog"] == 0


def test_lost_acknowledgements(guarded_kafka, proxy, behind_proxy, make_topic, workload):
    """The broker has appended, its answer is lost with the connection: the client asks again, and the broker
    recognises what it has."""
    database = behind_proxy(**IMPATIENT)
    topic = make_topic(guarded_kafka, partitions=3)
    load = workload(database, topic, sessions=4, keys=8, rate=400)
    lost = proxy.lost
    with load:
        more(load)
        for _ in range(4):
            proxy.lose_replies = 2
            wait_for(lambda: proxy.lose_replies == 0, "replies that were lost")
            more(load, 30)
    assert proxy.lost == lost + 8
    finish(database, load, guarded_kafka, topic)


def test_first_acknowledgement_is_lost(guarded_kafka, proxy, behind_proxy, make_topic):
    """At a producer's first contact with a partition the broker knows nothing of it yet."""
    database = behind_proxy(**IMPATIENT)
    topic = make_topic(guarded_kafka, partitions=1)
    lost = proxy.lost
    proxy.lose_replies = 3
    for n in range(20):
        database.emit(topic, "k", f"{n}")
    database.drain()
    assert proxy.lost == lost + 3
    assert [int(m.value) for m in guarded_kafka.read(topic)] == list(range(20))


def test_connections_are_reset(guarded_kafka, proxy, behind_proxy, make_topic, workload):
    """By hand, and each after so many bytes, in the middle of whatever is passing."""
    database = behind_proxy(**IMPATIENT)
    topic = make_topic(guarded_kafka, partitions=3)
    load = workload(database, topic, sessions=4, keys=8, rate=400)
    with load:
        more(load)
        for _ in range(5):
            proxy.reset()
            more(load, 20)
        cut = proxy.cut
        proxy.cut_after = 30011
        wait_for(lambda: proxy.cut >= cut + 5, "connections that were cut")
        proxy.cut_after = 0
        more(load, 30)
    finish(database, load, guarded_kafka, topic)


def test_connections_are_refused_and_come_back(guarded_kafka, proxy, behind_proxy, make_topic, workload):
    """outbox.status says what is wrong while it is, the server's log once."""
    database = behind_proxy()
    topic = make_topic(guarded_kafka, partitions=3)
    load = workload(database, topic, sessions=4, keys=8, rate=400)
    with load:
        more(load)
        proxy.refuse()
        database.wait_for_state("connecting")
        wait_for(lambda: guarded_kafka.proxied in database.status()["last_error"], "the address in outbox.status")
        assert slowest_commit(database, topic) < 1
        more(load)
        proxy.listen()
        database.wait_for_state("running")
        more(load)
    load_sent = load.sent()
    database.drain()
    arrived = [m for m in guarded_kafka.read(topic) if m.key != b"slowest"]
    check(load_sent, arrived)
    relay = database.relay_pid
    ours = [line for line in database.cluster.log_text().splitlines() if f"[{relay}]" in line]
    assert sum("waits for its broker" in line for line in ours) == 1
    assert len(ours) < 20, "\n".join(ours)


def test_half_open_connections(guarded_kafka, proxy, behind_proxy, make_topic, workload):
    """Nothing passes and nothing is closed. Nothing expires either, and what was held back is not sent twice."""
    database = behind_proxy()
    topic = make_topic(guarded_kafka, partitions=3)
    load = workload(database, topic, sessions=4, keys=8, rate=400)
    with load:
        more(load)
        proxy.hang()
        more(load, 100)
        assert database.status()["backlog"] > 0
        assert not database.value("SELECT outbox.wait_for_delivery('300 ms')")
        proxy.heal()
        delivers_again(database, "the hang")
    finish(database, load, guarded_kafka, topic)


def test_black_hole(guarded_kafka, proxy, behind_proxy, make_topic, workload):
    """Packets vanish: the client has to give up its connections by itself. Its patience is cut short here."""
    database = behind_proxy(socket_timeout_ms=1500)
    topic = make_topic(guarded_kafka, partitions=3)
    load = workload(database, topic, sessions=4, keys=8, rate=400)
    with load:
        more(load)
        proxy.black_hole()
        status = wait_for(
            lambda: (s := database.status())["state"] == "connecting" and s["last_error"] and s, "state connecting"
        )
        assert guarded_kafka.proxied in status["last_error"] or "timed out" in status["last_error"], status
        more(load)
        proxy.heal()
        delivers_again(database, "the black hole")
    finish(database, load, guarded_kafka, topic)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", ["black_hole", "stop"])
def test_long_silence_of_the_broker(guarded_kafka, proxy, behind_proxy, make_topic, workload, fault):
    """Longer than every patience of the client's (a request waits for a minute): connections are given up, no
    message is."""
    database = behind_proxy()
    topic = make_topic(guarded_kafka, partitions=3)
    load = workload(database, topic, sessions=2, keys=8, rate=100)
    broker = int((guarded_kafka.directory / "pid").read_text())
    with load:
        more(load)
        if fault == "stop":
            os.kill(broker, signal.SIGSTOP)
        else:
            proxy.black_hole()
        try:
            database.wait_for_state("connecting", timeout=150)
            watch = Stopwatch()
            wait_for(lambda: watch.seconds > 15, "more silence", pause=0.5)
        finally:
            if fault == "stop":
                os.kill(broker, signal.SIGCONT)
            else:
                proxy.heal()
        delivers_again(database, "the silence", 120)
    finish(database, load, guarded_kafka, topic, timeout=120)


def test_flapping_link_costs_nothing(guarded_kafka, proxy, behind_proxy, make_topic):
    """A second on, a second off: relay and sink do not spin, neither then nor while nothing can be reached."""
    database = behind_proxy()
    topic = make_topic(guarded_kafka, partitions=3)
    database.sql(SCHEMA)
    emit_many(database, topic, 4, 1, 100)
    database.drain()
    pids = [database.wait_for_sink(), database.relay_pid]
    flapping = threading.Event()

    def flap():
        while not flapping.wait(1):
            proxy.refuse()
            flapping.wait(1)
            proxy.listen()

    thread = threading.Thread(target=flap)
    thread.start()
    used, watch = sum(map(cpu_seconds, pids)), Stopwatch()
    try:
        number = 100
        while watch.seconds < 6:
            emit_many(database, topic, 4, number + 1, number + 10)
            number += 10
            time.sleep(0.2)
        share = (sum(map(cpu_seconds, pids)) - used) / watch.seconds
    finally:
        flapping.set()
        thread.join()
        proxy.heal()
    print(f"\nrelay and sink used {share * 100:.1f} % of a core while the link flapped")
    assert share < 0.05
    database.drain()
    check(ledger(database), guarded_kafka.read(topic))

    proxy.refuse()
    emit_many(database, topic, 4, number + 1, number + 1000)
    database.wait_for_state("connecting")
    used, watch = sum(map(cpu_seconds, pids)), Stopwatch()
    wait_for(lambda: watch.seconds > 4, "a while", pause=0.2)
    share = (sum(map(cpu_seconds, pids)) - used) / watch.seconds
    print(f"and {share * 100:.1f} % while the broker was away")
    assert share < 0.02
    proxy.heal()
    database.drain()
    check(ledger(database), guarded_kafka.read(topic))
    assert [database.sink_pid, database.relay_pid] == pids, "nobody had to begin anew"


def test_slow_link(guarded_kafka, proxy, behind_proxy, make_topic):
    """64 kbit/s and two seconds there and back. Memory stays bounded, the link is used, and databases that go
    another way are not held up."""
    database = behind_proxy("slow")
    topic = make_topic(guarded_kafka, partitions=3)
    database.emit(topic, "first", "first")
    database.drain()
    database.sql(SCHEMA)
    proxy.delay, proxy.rate = 1.0, 8000
    database.sql(
        "SELECT outbox.emit(%s, concat('k', n %% 50), repeat(md5(n::text), 62)) FROM generate_series(1, 30000) AS n",
        topic,
    )
    before, watch = proxy.passed[0], Stopwatch()
    wait_for(lambda: proxy.passed[0] - before > 40000, "bytes through the slow link")
    rate = (proxy.passed[0] - before) / watch.seconds
    memory = peak_memory(database.wait_for_sink())
    print(f"\n{rate:.0f} bytes/s of 8000 through the slow link, {memory >> 20} MB in the sink")
    assert memory < 200 << 20
    assert database.status()["last_error"] is None
    assert database.status()["backlog"] > 20000
    proxy.heal()
    database.drain(60)
    arrived = guarded_kafka.read(topic)
    assert len(arrived) == 30001 and len({m.id for m in arrived}) == 30001


def test_bits_flip_in_batches(guarded_kafka, proxy, behind_proxy, make_topic):
    """Kafka's checksum covers the records: the broker refuses a batch that was spoiled on its way, the same bytes
    are sent again, nobody's message is called poison for it, and no spoiled one is ever stored."""
    database = behind_proxy()
    topic = make_topic(guarded_kafka, partitions=3)
    database.sql(SCHEMA)
    corrupted = proxy.corrupted
    proxy.corrupt_batches = 0.3
    number = 0
    while proxy.corrupted < corrupted + 10:
        database.sql(
            """
            INSERT INTO ledger
            SELECT outbox.emit(%s, concat('k', n %% 8), repeat(n::text, 200)), %s, concat('k', n %% 8), n
            FROM generate_series(%s::bigint, %s::bigint) AS n
            """,
            topic, topic, number + 1, number + 10,
        )  # fmt: skip
        number += 10
        time.sleep(0.05)
        assert number < 5000
    proxy.heal()
    database.drain(60)
    print(f"\n{proxy.corrupted - corrupted} batches were spoiled on their way, of {number} messages")
    arrived = guarded_kafka.read(topic)
    sent = database.sql("SELECT id::text, key, n FROM ledger ORDER BY n")
    assert database.value("SELECT count(*) FROM outbox.deferred") == 0
    assert {m.id: m.value for m in arrived} == {i: (str(n) * 200).encode() for i, _, n in sent}
    assert len(arrived) == len(sent), "and none twice"
    for key in {key for _, key, _ in sent}:
        order = [m.id for m in arrived if m.key == key.encode()]
        assert order == [i for i, k, _ in sent if k == key]


def test_quota(guarded_kafka, behind_proxy, make_topic):
    """A broker that throttles us is not one that is away; and when it no longer does, nothing lags behind."""
    database = behind_proxy()
    topic = make_topic(guarded_kafka, partitions=3)
    other = make_topic(guarded_kafka, partitions=1, name="other")
    client_id = f"outbox/{database.name}"
    database.sql(SCHEMA)
    guarded_kafka.limit(20000)
    try:
        # The broker takes a batch as it comes, however large, and lets the client wait for its answer to the next.
        emit_many(database, topic, 8, 1, 6000)
        wait_for(lambda: guarded_kafka.throttles(client_id, other), "a broker that throttles")
        emit_many(database, topic, 8, 6001, 7000)
        wait_for(lambda: guarded_kafka.throttles(client_id, other), "a broker that still throttles")
        assert database.status()["state"] == "running"
        assert database.status()["last_error"] is None
    finally:
        guarded_kafka.limit(None)
    database.drain(60)
    emit_many(database, topic, 8, 7001, 8000)
    database.drain(60)
    check(ledger(database), guarded_kafka.read(topic))
