"""What a broker may answer to a produce request: errors that pass, errors that end a producer, and messages that it
will never take. The embedded broker says what a real one cannot be brought to say."""

import pytest
from confluent_kafka import KafkaError

from support.guarded_kafka import client_properties
from support.ledger import check
from support.waiting import wait_for
from support.workload import SCHEMA, emit_many, ledger

INIT_PRODUCER_ID = 22  # Kafka's number of that request

PASSING = {
    "leader not available": KafkaError.LEADER_NOT_AVAILABLE,
    "not leader": KafkaError.NOT_LEADER_FOR_PARTITION,
    "request timed out": KafkaError.REQUEST_TIMED_OUT,
    "broker not available": KafkaError.BROKER_NOT_AVAILABLE,
    "replica not available": KafkaError.REPLICA_NOT_AVAILABLE,
    "not enough replicas": KafkaError.NOT_ENOUGH_REPLICAS,
    "not enough replicas after append": KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    "storage error": KafkaError.KAFKA_STORAGE_ERROR,
}
# Those that librdkafka does not try again by itself, whatever they mean.
FATAL = {
    "out of order": KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    "unknown producer": 59,
    "epoch": KafkaError.INVALID_PRODUCER_EPOCH,
    "fenced": 90,
    "unknown": -1,
    "leader epoch": 76,
    "network exception": KafkaError.NETWORK_EXCEPTION,
    "a number that nobody knows": 199,
}
POISON = {
    "too large": KafkaError.MSG_SIZE_TOO_LARGE,
    "invalid record": 87,
    "timestamp": KafkaError.INVALID_TIMESTAMP,
}


@pytest.fixture
def database(embedded_broker, make_database):
    database = make_database(embedded_broker)
    database.sql(SCHEMA)
    return database


@pytest.fixture
def topic(embedded_broker, make_topic):
    return make_topic(embedded_broker)


def nothing_parked(database):
    return database.value("SELECT count(*) FROM outbox.deferred WHERE state = 'parked'") == 0


def first_contact(database, topic):
    """So that the errors which follow meet a producer that is at work."""
    emit_many(database, topic, 4, 1, 40)
    database.drain()


def check_last_copies(sent, arrived):
    """Nothing is missing, and of each message the last copy stands in its place. That is all that can be asked of a
    broker which, as the embedded one, takes what stands behind a batch that it has just refused."""
    assert {m.id for m in arrived} == {m.id for m in sent}
    last = {m.id: n for n, m in enumerate(arrived)}
    check(sent, sorted((arrived[n] for n in last.values()), key=lambda m: last[m.id]))


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING.keys())
def test_error_that_passes(database, embedded_broker, topic, error):
    """Retried by the client, once and twice; nothing is put aside, nobody is told to do anything."""
    first_contact(database, topic)
    for times in (1, 2):
        embedded_broker.refuse_produce(*[error] * times)
        emit_many(database, topic, 4, 20 * times + 21, 20 * times + 40)
        database.drain(60)
    check_last_copies(ledger(database), embedded_broker.read(topic))
    assert nothing_parked(database)
    status = database.wait_for_state("running")
    assert status["backlog"] == 0 and status["deferred"] == 0


@pytest.mark.parametrize("error", FATAL.values(), ids=FATAL.keys())
def test_error_that_ends_a_producer(database, embedded_broker, topic, error):
    """Another one takes its place and sends what was not acknowledged, in order; the server does not restart."""
    relay = database.wait_for_relay()
    first_contact(database, topic)
    # A broker refuses what stands behind a refused batch: so does this one, if that is not more than five.
    embedded_broker.refuse_produce(*[error] * 5)
    emit_many(database, topic, 1, 41, 60)
    database.drain(60)
    check_last_copies(ledger(database), embedded_broker.read(topic))
    assert nothing_parked(database)
    status = wait_for(lambda: (s := database.status())["state"] == "running" and s, "state running")
    assert status["backlog"] == 0
    assert database.relay_pid == relay


def test_errors_under_load_at_a_broker_that_knows_no_producer(embedded_broker, topic, make_database, workload):
    """As after a topic was made anew: it takes what stands behind a batch that met an error. That batch is not lost
    for it, and not overtaken in the end."""
    database = make_database(embedded_broker)
    load = workload(database, topic, sessions=3, keys=6, rate=300)
    with load:
        wait_for(lambda: database.status()["delivered"] > 20, "deliveries")
        for error in PASSING.values():
            embedded_broker.refuse_produce(error)
            before = database.status()["delivered"]
            wait_for(lambda seen=before: database.status()["delivered"] > seen + 10, f"deliveries after error {error}")
    embedded_broker.command("accept", 0)
    assert not load.errors
    database.drain(60)
    check_last_copies(load.sent(), embedded_broker.read(topic))
    assert nothing_parked(database)


@pytest.mark.parametrize("error", [15, 16, 14, 53, 31, 51, 35], ids=str)
def test_producer_that_gets_no_id(embedded_broker, make_database, make_topic, error):
    """The coordinator moves or loads, or the right to write idempotently is lacking: it is asked again and again."""
    topic = make_topic(embedded_broker)
    embedded_broker.command("refuse", INIT_PRODUCER_ID, *[error] * 2)
    database = make_database(embedded_broker)
    database.sql(SCHEMA)
    emit_many(database, topic, 4, 1, 50)
    database.drain()
    check(ledger(database), embedded_broker.read(topic))


@pytest.mark.parametrize("error", POISON.values(), ids=POISON.keys())
def test_message_that_is_refused_for_good(database, embedded_broker, topic, error):
    """Refused with others, and refused alone: parked, with the broker's words, and what follows of its key with it."""
    first_contact(database, topic)
    embedded_broker.refuse_produce(error, error)
    database.emit(topic, "poison", "1")
    wait_for(lambda: not nothing_parked(database), "a parked message")
    database.emit(topic, "poison", "2")
    database.emit(topic, "innocent", "3")
    wait_for(lambda: embedded_broker.count(topic) == 41, "the innocent one")
    parked = wait_for(
        lambda: (rows := parked_messages(database)) and len(rows) == 2 and rows, "the one behind it"
    )
    assert [value for value, *_ in parked] == ["1", "2"]
    assert parked[0][1] == error and parked[0][2], parked


def parked_messages(database):
    return database.sql(
        "SELECT convert_from(payload, 'UTF8'), error_code, error FROM outbox.deferred WHERE state = 'parked'"
        " ORDER BY position"
    )


def test_leader_moves(base_directory, make_database, make_topic, workload):
    """Between three embedded brokers, under load."""
    from support.kafka import EmbeddedBroker

    cluster = EmbeddedBroker(base_directory / "embedded-brokers.log").start(brokers=3)
    try:
        database = make_database(cluster)
        topic = make_topic(cluster)
        load = workload(database, topic, sessions=3, keys=8, rate=300)
        with load:
            for turn in range(9):
                for partition in range(4):
                    cluster.command("leader", topic, partition, (turn + partition) % 3 + 1)
                before = database.status()["delivered"]
                wait_for(lambda seen=before: database.status()["delivered"] > seen + 10, "deliveries")
            for broker in (1, 2, 3):
                cluster.command("down", broker)
                before = load.committed
                wait_for(lambda seen=before: load.committed > seen + 20, "load")
                cluster.command("up", broker)
        assert not load.errors
        database.drain(60)
        check_last_copies(load.sent(), cluster.read(topic))
        assert nothing_parked(database)
    finally:
        cluster.stop()


# -- the real broker ------------------------------------------------------------------------------------------


def test_producer_that_the_broker_has_forgotten(guarded_kafka, make_database, make_topic):
    """A producer that was idle for longer than the broker remembers it goes on as if nothing had happened."""
    database = make_database(guarded_kafka)
    database.sql(SCHEMA)
    topic = make_topic(guarded_kafka, partitions=2)
    guarded_kafka.configure_broker(producer_id_expiration_ms=1000)
    try:
        for number in range(0, 80, 20):
            emit_many(database, topic, 4, number + 1, number + 20)
            database.drain()
            wait_for(lambda: guarded_kafka.remembered_producers(topic) == 0, "that the broker forgets the producer")
    finally:
        guarded_kafka.configure_broker(producer_id_expiration_ms=None)
    check(ledger(database), guarded_kafka.read(topic), duplicates_allowed=True)
    assert database.status()["last_error"] is None


def test_messages_that_the_broker_refuses_for_good(guarded_kafka, make_database, make_topic):
    """A compacted topic takes no message without a key, one with a policy for timestamps none that is too old, a topic
    may take only small ones: each is parked with the broker's words, and the others flow."""
    database = make_database(guarded_kafka)
    compacted = make_topic(guarded_kafka, "compacted", 1, cleanup_policy="compact")
    strict = make_topic(guarded_kafka, "strict", 1, message_timestamp_before_max_ms=1000)
    small = make_topic(guarded_kafka, "small", 1, max_message_bytes=1500)
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")
    database.emit(strict, "a", "too old")
    with database.transaction() as session:
        for topic, key, payload in (
            (compacted, "a", "1"), (compacted, None, "no key"), (compacted, "a", None), (compacted, "b", "2"),
            (small, "a", "1"), (small, "b", "x" * 3000), (small, "b", "behind"), (small, "a", "2"),
        ):  # fmt: skip
            session.execute("SELECT outbox.emit(%s, %s::text, %s::text)", (topic, key, payload))
    wait_for(lambda: database.value("SELECT now() - status.oldest > '1.5 s' FROM outbox.status"), "age", pause=0.1)
    database.sql("SELECT outbox.resume()")
    guarded_kafka.wait_for_messages(compacted, 3)
    guarded_kafka.wait_for_messages(small, 2)
    database.emit(strict, "b", "young enough")
    guarded_kafka.wait_for_messages(strict, 1)
    parked = wait_for(lambda: len(rows := parked_words(database)) == 4 and rows, "parked messages")
    print(parked)
    assert [topic for topic, _, _ in parked] == sorted([compacted, strict, small, small])
    words = {topic: error for topic, payload, error in parked if payload != "behind"}
    assert "compacted" in words[compacted]
    assert "imestamp" in words[strict]
    assert "too large" in words[small]
    assert [(m.key, m.value) for m in guarded_kafka.read(compacted)] == [(b"a", b"1"), (b"a", None), (b"b", b"2")]
    assert [(m.key, m.value) for m in guarded_kafka.read(small)] == [(b"a", b"1"), (b"a", b"2")]
    assert [m.value for m in guarded_kafka.read(strict)] == [b"young enough"]


def parked_words(database):
    return database.sql(
        "SELECT topic, convert_from(payload, 'UTF8'), error FROM outbox.deferred WHERE state = 'parked'"
        " ORDER BY topic, position"
    )


# -- topics that come, go and grow ----------------------------------------------------------------------------


def test_topic_is_deleted_and_made_again(guarded_kafka, make_database, make_topic, unique):
    """What comes while it is not there waits for it, and goes to the new one in order, each once."""
    database = make_database(guarded_kafka)
    database.sql(SCHEMA)
    topic, other = make_topic(guarded_kafka, partitions=2), make_topic(guarded_kafka, "other", partitions=2)
    emit_many(database, topic, 4, 1, 50)
    database.drain()
    guarded_kafka.delete_topic(topic)
    database.sql("TRUNCATE ledger")
    emit_many(database, topic, 4, 51, 100)
    emit_many(database, other, 4, 1, 50)
    guarded_kafka.wait_for_messages(other, 50)
    status = database.wait_for_state("waiting")
    assert topic in status["last_error"]
    guarded_kafka.create_topic(topic, 3)
    emit_many(database, topic, 4, 101, 150)
    database.drain(60)
    sent = ledger(database)
    for name in (topic, other):
        check([m for m in sent if m.topic == name], guarded_kafka.read(name))
    database.wait_for_state("running")


def test_topic_is_made_anew_under_load(guarded_kafka, make_database, make_topic, workload):
    """Deleted and made again before anybody looks: of what the new one got nothing is missing in between.

    A broker that has forgotten the producer may take a batch behind one that it has just sent away. Both are then sent
    again, so it is the last copies that are in order.
    """
    database = make_database(guarded_kafka)
    topic = make_topic(guarded_kafka, partitions=2)
    load = workload(database, topic, sessions=3, keys=6, rate=300)
    with load:
        for _ in range(2):
            wait_for(lambda n=load.committed + 60: load.committed >= n, "load")
            guarded_kafka.delete_topic(topic)
            guarded_kafka.create_topic(topic, 2)
        wait_for(lambda n=load.committed + 60: load.committed >= n, "load")
    assert not load.errors
    database.drain(60)
    arrived, sent = guarded_kafka.read(topic), load.sent()
    # Of each key, the new topic has the last ones, from some number on.
    expected = []
    for key in {m.key for m in sent}:
        of_key = [m for m in sent if m.key == key]
        there = {m.id for m in arrived if m.key == key}
        first = next((n for n, m in enumerate(of_key) if m.id in there), len(of_key))
        expected += of_key[first:]
    assert expected
    last_copies = {}
    for message in arrived:
        last_copies.pop(message.id, None)
        last_copies[message.id] = message
    check(expected, list(last_copies.values()))


def test_partitions_are_added(guarded_kafka, make_database, make_topic, workload, server, unique):
    """Under load: nothing is lost or doubled, and the new ones get their share as soon as the client looks again."""
    config = client_properties(
        server.directory / f"{unique('client')}.properties", topic_metadata_refresh_interval_ms=500
    )
    database = make_database(guarded_kafka, outbox__kafka_config_file=config)
    topic = make_topic(guarded_kafka, partitions=2)
    load = workload(database, topic, sessions=3, keys=20, rate=300)
    with load:
        wait_for(lambda: load.committed >= 100, "load")
        guarded_kafka.add_partitions(topic, 6)
        wait_for(lambda: len({m.partition for m in guarded_kafka.read(topic)}) > 4, "messages in new partitions")
        # One that is asked for by its number is found at once.
        guarded_kafka.add_partitions(topic, 8)
        database.emit(topic, "by number", "p", partition=7)
    assert not load.errors
    database.drain()
    arrived = guarded_kafka.read(topic)
    assert [m.partition for m in arrived if m.key == b"by number"] == [7]
    arrived = [m for m in arrived if m.key != b"by number"]
    sent = load.sent()
    assert sorted(m.id for m in arrived) == sorted(m.id for m in sent)
    place = {m.id: n for n, m in enumerate(sent)}
    for key in {m.key for m in sent}:
        for partition in range(8):
            places = [place[m.id] for m in arrived if m.key == key and m.partition == partition]
            assert places == sorted(places), f"{key} in partition {partition}"
    assert nothing_parked(database)
