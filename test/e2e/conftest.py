"""Fixtures: servers, brokers, databases, topics, and what a failed test shows."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from support import cluster as clusters
from support.guarded_kafka import GuardedKafka
from support.kafka import EmbeddedBroker, RealKafka
from support.processes import give_to_server_user
from support.workload import Workload


# The fixtures that start one or several real brokers.
REAL = {"kafka", "guarded_kafka", "three_brokers"}


def pytest_collection_modifyitems(items):
    """A test that needs the real broker says so by using it; every other one belongs to the quick half."""
    for item in items:
        if not any(item.get_closest_marker(mark) for mark in ("embedded", "kafka", "fault_points")):
            item.add_marker("kafka" if REAL.intersection(item.fixturenames) else "embedded")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if not report.failed:
        return
    for cluster in clusters.Cluster.alive:
        report.sections.append((f"log of the server in {cluster.directory}", cluster.log_tail()))
        for name in cluster.databases:
            try:
                status = cluster.sql("SELECT s.* FROM outbox.status AS s", database=name)
            except Exception as error:  # whatever it is, it belongs into the report
                status = error
            report.sections.append((f"outbox.status of {name}", str(status)))


# -- where things are kept ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def base_directory():
    """A folder with a short path (sockets!) that the server's user can read."""
    given = os.environ.get("OUTBOX_TEST_DIR")
    whole = Path(given or tempfile.mkdtemp(prefix="outbox-e2e.", dir="/tmp"))
    # Tests that run side by side have servers and brokers of their own.
    base = whole / os.environ.get("PYTEST_XDIST_WORKER", "")
    base.mkdir(exist_ok=True)
    for directory in (whole, base):
        directory.chmod(0o755)
    yield base
    if not given:
        shutil.rmtree(whole, ignore_errors=True)


@pytest.fixture(scope="session")
def template(base_directory):
    """The data of a freshly made cluster, to be copied."""
    directory = base_directory / "template"
    directory.mkdir()
    clusters.give_to_server_user(directory)
    clusters.initdb(directory / "data")
    return directory / "data"


# -- servers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_server(base_directory, template):
    server = clusters.Cluster(base_directory / "pg").create(template).start()
    yield server
    server.remove()


@pytest.fixture
def server(shared_server):
    """The server that tests share; each has databases of its own there."""
    if not shared_server.running:
        shared_server.start()
    before = len(shared_server.complaints())
    yield shared_server
    complaints = shared_server.complaints()[before:]
    assert not complaints, "the server's log shows:\n" + "\n".join(complaints)


@pytest.fixture
def make_cluster(base_directory, template):
    """Makes servers of the test's own; fresh=True gives one another identity."""
    made = []

    def make(fresh=False, start=True, **settings):
        number = len(list(base_directory.glob("pg-*")))
        cluster = clusters.Cluster(base_directory / f"pg-{number}")
        made.append(cluster)
        cluster.create(None if fresh else template).configure(**settings)
        return cluster.start() if start else cluster

    yield make
    complaints = []
    for cluster in reversed(made):
        try:
            cluster.remove()
        except AssertionError as error:
            complaints.append(str(error))
        shutil.rmtree(cluster.data, ignore_errors=True)
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def own_server(make_cluster):
    """A server that the test may stop, kill and reconfigure."""
    return make_cluster()


# -- brokers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def kafka(base_directory):
    """A real Kafka. Topics are not created by themselves."""
    broker = RealKafka(base_directory / "kafka").start()
    yield broker
    broker.stop(remove=True)


@pytest.fixture(scope="session")
def guarded_kafka(base_directory):
    """A real Kafka that is reached through proxies, TLS and SASL, and knows who may do what."""
    directory = base_directory / "guarded"
    directory.mkdir()
    broker = GuardedKafka(directory / "kafka")
    try:
        yield broker.start()
    finally:
        broker.stop(remove=True)


@pytest.fixture
def embedded_broker(base_directory):
    """A fresh one for each test: it takes milliseconds."""
    broker = EmbeddedBroker(base_directory / "embedded-broker.log").start()
    yield broker
    broker.stop()


@pytest.fixture(
    params=[pytest.param("embedded", marks=pytest.mark.embedded), pytest.param("kafka", marks=pytest.mark.kafka)]
)
def broker(request):
    """Both brokers, one after the other."""
    return request.getfixturevalue("kafka" if request.param == "kafka" else "embedded_broker")


@pytest.fixture
def unique(request):
    """Turns a short name into one that no other test uses."""
    test = re.sub(r"[^a-z0-9]+", "_", request.node.name.lower().removeprefix("test_"))[:40].strip("_")
    return lambda name: f"{test}.{name}"


@pytest.fixture
def make_topic(unique):
    """Creates a topic: make_topic(broker, "orders", partitions=1)."""
    return lambda on, name="topic", partitions=6, **config: on.create_topic(unique(name), partitions, **config)


@pytest.fixture
def topic(broker, make_topic):
    return make_topic(broker)


# -- databases ----------------------------------------------------------------------------------------------


@pytest.fixture
def make_database(server, unique):
    """Makes databases on the shared server, wired to a broker if one is given."""
    made = []

    def make(broker=None, name=None, **options):
        if broker:
            options.setdefault("outbox__kafka_bootstrap_servers", broker.bootstrap)
        database = server.database(unique(name or f"db{len(made)}"), **options)
        made.append(database)
        return database

    yield make
    if server.running:
        for database in made:
            database.drop(force=True)


@pytest.fixture
def database(broker, make_database):
    """A database of the test's own whose messages go to the broker."""
    return make_database(broker)


@pytest.fixture
def file_database(make_database, server, unique):
    """A database whose messages go to a file, and the path of that file as `file`."""
    path = server.directory / f"{unique('messages')}.jsonl"
    database = make_database(outbox__sink="file", outbox__file_path=path)
    database.file = path
    return database


@pytest.fixture
def options(file_database):
    """Writes the properties file of file_database's sink."""
    path = file_database.file.with_suffix(".properties")

    def write(*lines):
        # In one step, so that the sink never reads a half.
        fresh = path.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.chmod(0o600)
        give_to_server_user(fresh)
        fresh.rename(path)
        return path

    write("# nothing asked for")
    file_database.set(outbox__file_config_file=path)
    file_database.sql("SELECT pg_reload_conf()")
    return write


@pytest.fixture
def workload():
    """Makes workloads, and stops them whatever happens."""
    made = []

    def make(*arguments, **options):
        made.append(Workload(*arguments, **options))
        return made[-1]

    yield make
    for load in made:
        load.stopping.set()
