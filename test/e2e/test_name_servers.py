"""Names of brokers: a name server that is dead, slow, or says something new. The server of these tests lives in a
network of its own, in which names are asked for as a test wants."""

import pytest

from support import cluster as clusters
from support.ledger import check
from support.nameserver import NameServer, Network
from support.processes import cpu_seconds
from support.proxy import Proxy
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger

pytestmark = pytest.mark.skipif(bool(Network.possible()), reason=str(Network.possible()))


@pytest.fixture(scope="module")
def network():
    network = Network(7)
    try:
        yield network.start()
    finally:
        network.stop()


@pytest.fixture
def names(network):
    server = NameServer(network.outside, network.outside)
    yield server
    server.stop()


@pytest.fixture
def roads(guarded_kafka, network):
    """Two proxies at two addresses, before the listener whose name is broker.outbox.test."""
    target = ("127.0.0.1", guarded_kafka.ports["NAMED"])
    made = [Proxy(target, host, guarded_kafka.name_port).start() for host in (network.outside, network.second)]
    yield made
    for proxy in made:
        proxy.stop()


@pytest.fixture
def far_server(make_cluster, network):
    """A server inside the network; sessions reach it by its socket, which is a file."""
    plain = clusters.as_server_user
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "as_server_user", lambda argv: network.wrap(plain(argv)))
        yield make_cluster()


@pytest.fixture
def database(guarded_kafka, far_server, names, roads):
    database = far_server.database(
        "app", outbox__kafka_bootstrap_servers=f"{guarded_kafka.name}:{guarded_kafka.name_port}"
    )
    database.sql(SCHEMA)
    return database


def judge(database, broker, topic):
    database.drain(60)
    check(ledger(database), broker.read(topic))
    database.wait_for_state("running")


def test_broker_gets_another_address(database, guarded_kafka, names, roads, network, make_topic):
    topic = make_topic(guarded_kafka)
    emit_many(database, topic, 4, 1, 50)
    database.drain()
    assert roads[0].accepted and not roads[1].accepted
    roads[0].refuse()
    names.answer = network.second
    emit_many(database, topic, 4, 51, 100)
    judge(database, guarded_kafka, topic)
    assert roads[1].accepted


def test_name_is_not_known_yet(database, guarded_kafka, names, roads, make_topic):
    """outbox.status names it, nothing spins, and when the name is there everything arrives."""
    topic = make_topic(guarded_kafka)
    emit_many(database, topic, 4, 1, 10)
    database.drain()
    names.answer = None
    roads[0].refuse()
    emit_many(database, topic, 4, 11, 50)
    wait_for(lambda: "resolve" in (database.status()["last_error"] or ""), "the reason in outbox.status")
    assert guarded_kafka.name in database.status()["last_error"]
    assert database.wait_for_state("connecting")["backlog"] == 40
    asked, used, watch = names.asked, cpu_seconds(database.sink_pid), Stopwatch()
    wait_for(lambda: watch.seconds > 2, "a while", pause=0.2)
    print(f"\n{names.asked - asked} questions in {watch.seconds:.0f} s")
    assert names.asked - asked < 60
    assert cpu_seconds(database.sink_pid) - used < 0.2
    names.answer = roads[0].host
    roads[0].listen()
    judge(database, guarded_kafka, topic)


def test_dead_name_server(database, far_server, guarded_kafka, names, roads, make_topic):
    """Nobody answers: applications go on, and neither a stop of the server nor of the relay waits for the resolver."""
    topic = make_topic(guarded_kafka)
    emit_many(database, topic, 4, 1, 10)
    database.drain()
    names.dead = True
    roads[0].refuse()
    emit_many(database, topic, 4, 11, 50)
    asked = names.asked
    wait_for(lambda: names.asked > asked, "a question")
    watch = Stopwatch()
    emit_many(database, topic, 4, 51, 60)
    assert watch.seconds < 2
    relay = database.relay_pid
    watch = Stopwatch()
    database.sql("SELECT pg_terminate_backend(%s)", relay)
    database.wait_for_relay(other_than=relay)
    print(f"\nanother relay after {watch.seconds:.1f} s")
    assert watch.seconds < 8
    wait_for(lambda n=names.asked: names.asked > n, "a question of the other relay's sink")
    # Until the resolver has given up, the last error is that of the sink before.
    wait_for(lambda: "resolve" in (database.status()["last_error"] or ""), "a word on it", 60)
    assert database.status()["state"] == "connecting"
    watch = Stopwatch()
    far_server.stop("fast")
    print(f"stop -m fast took {watch.seconds:.1f} s")
    assert watch.seconds < 8
    names.dead = False
    roads[0].listen()
    far_server.start()
    judge(database, guarded_kafka, topic)


def test_slow_name_server(database, guarded_kafka, names, roads, make_topic):
    topic = make_topic(guarded_kafka)
    emit_many(database, topic, 4, 1, 10)
    database.drain()
    names.delay = 2
    asked = names.asked
    roads[0].refuse()
    emit_many(database, topic, 4, 11, 50)
    wait_for(lambda: names.asked > asked, "a question")
    roads[0].listen()
    watch = Stopwatch()
    judge(database, guarded_kafka, topic)
    print(f"\nwith a name server that takes 2 s: delivered after {watch.seconds:.1f} s")
    assert watch.seconds < 20


def test_link_goes_down(database, guarded_kafka, network, roads, make_topic):
    """Not even a reset comes back."""
    topic = make_topic(guarded_kafka)
    emit_many(database, topic, 4, 1, 50)
    database.drain()
    network.link_down()
    try:
        emit_many(database, topic, 4, 51, 100)
        assert not database.value("SELECT outbox.wait_for_delivery('1 s')")
    finally:
        network.link_up()
    judge(database, guarded_kafka, topic)
