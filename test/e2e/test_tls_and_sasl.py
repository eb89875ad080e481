"""TLS and SASL against the real broker: what must not be trusted is not, outbox.status says why, and a file that was
mended takes effect with a reload. Nobody restarts anything."""

import re
import shutil
import ssl
import time
from pathlib import Path

import confluent_kafka
import pytest

from support.cluster import CANARY
from support.guarded_kafka import PASSWORD, client_properties
from support.ledger import check
from support.processes import give_to_server_user
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger


@pytest.fixture
def secured(guarded_kafka, make_database, server, unique):
    """Makes a database, on the server `on`, that reaches the broker at `address` with these properties of the client.

    Its `write` replaces them, as an operator would: the file, then a reload.
    """

    def make(address, name="db", on=None, **properties):
        where = on or server
        path = where.directory / f"{unique(name)}.properties"
        client_properties(path, **properties)
        settings = {"outbox__kafka_bootstrap_servers": address, "outbox__kafka_config_file": path}
        database = on.database(unique(name), **settings) if on else make_database(name=name, **settings)

        def write(**others):
            client_properties(path, **others)
            where.sql("SELECT pg_reload_conf()")

        database.write = write
        return database

    return make


@pytest.fixture
def readable(server, unique):
    """Copies a PEM file to where the sink can read it; again with the same name, it replaces it."""

    def copy(source, name="file"):
        path = server.directory / f"{unique(name)}.pem"
        fresh = path.with_suffix(".new")
        shutil.copy(source, fresh)
        fresh.chmod(0o600)
        give_to_server_user(fresh)
        fresh.rename(path)
        return path

    return copy


def sasl(mechanism="PLAIN", user="app", password=PASSWORD, **others):
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_username": user,
        "sasl_password": password,
        **others,
    }


def works(database, broker, topic, first=1, count=50):
    """Emits and drains, and judges everything that was ever sent to the topic."""
    if first == 1:
        database.sql(SCHEMA)
    emit_many(database, topic, 4, first, first + count - 1)
    database.drain()
    check(ledger(database), broker.read(topic))
    database.wait_for_state("running")


def refused(database, broker, topic, *words):
    """Emits in vain; outbox.status names one of the words, and nothing arrives."""
    database.sql(SCHEMA)
    emit_many(database, topic, 4, 1, 50)

    def said():
        status = database.status()
        error = (status["last_error"] or "").lower()
        return status if any(word in error for word in words) else None

    try:
        status = wait_for(said, f"an error with one of {words}")
    except AssertionError:
        raise AssertionError(f"no word of {words} in {database.status()}") from None
    assert status["state"] == "connecting", status
    assert status["backlog"] == 50
    assert CANARY not in status["last_error"]
    assert broker.count(topic) == 0
    return status


def heals(database, broker, topic):
    database.drain()
    database.wait_for_state("running")
    check(ledger(database), broker.read(topic))


# -- TLS ------------------------------------------------------------------------------------------------------


def test_tls(guarded_kafka, secured, readable, make_topic):
    database = secured(guarded_kafka.tls, security_protocol="SSL", ssl_ca_location=readable(guarded_kafka.ca.certificate))
    works(database, guarded_kafka, make_topic(guarded_kafka))


def test_mutual_tls(guarded_kafka, secured, readable, make_topic):
    """With a certificate of its own; without one it is refused, and one that is put in place makes it work."""
    ca = readable(guarded_kafka.ca.certificate)
    own = readable(guarded_kafka.certificates["client"], "client")
    database = secured(guarded_kafka.at("MUTUAL"), security_protocol="SSL", ssl_ca_location=ca)
    topic = make_topic(guarded_kafka)
    refused(database, guarded_kafka, topic, "tls failed", "ssl")
    database.write(
        security_protocol="SSL", ssl_ca_location=ca, ssl_certificate_location=own, ssl_key_location=own
    )
    heals(database, guarded_kafka, topic)


@pytest.mark.parametrize("what", ["wrong host name", "unknown authority", "expired", "plaintext"])
def test_untrusted_broker_is_refused(guarded_kafka, secured, readable, make_topic, what):
    """Verification is on without anybody asking for it. Mended by the operator, everything arrives."""
    good = {"security_protocol": "SSL", "ssl_ca_location": readable(guarded_kafka.ca.certificate)}
    topic = make_topic(guarded_kafka)
    address, properties, words = {
        "wrong host name": (f"127.0.0.1:{guarded_kafka.tls_proxy.port}", good, ["certificate", "hostname"]),
        "unknown authority": (
            guarded_kafka.tls,
            {**good, "ssl_ca_location": readable(guarded_kafka.other_ca.certificate, "other")},
            ["certificate"],
        ),
        "expired": (guarded_kafka.at("EXPIRED"), good, ["expired", "certificate"]),
        "plaintext": (guarded_kafka.bootstrap, good, ["ssl", "tls"]),
    }[what]
    database = secured(address, **properties)
    status = refused(database, guarded_kafka, topic, *words)
    print(f"\n{what}: {status['last_error']}")
    database.write(**good)
    database.set(outbox__kafka_bootstrap_servers=guarded_kafka.tls)
    heals(database, guarded_kafka, topic)


def test_authority_is_replaced(guarded_kafka, secured, readable, make_topic):
    """The broker gets a certificate of another authority. The file of authorities is replaced under its name, and a
    reload is all: the properties file is as it was."""
    ca = readable(guarded_kafka.ca.certificate)
    database = secured(guarded_kafka.at("ROTATED"), security_protocol="SSL", ssl_ca_location=ca)
    topic = make_topic(guarded_kafka, partitions=2)
    works(database, guarded_kafka, topic)
    before = database.wait_for_sink()
    key = "listener_name_rotated_ssl_keystore_location"
    renewed = guarded_kafka.certificates["renewed"]
    guarded_kafka.configure_broker(**{key: renewed})
    try:
        place = ("localhost", guarded_kafka.ports["ROTATED"])
        # Each of its network threads, which take connections in turn, gets to know the certificate by itself.
        shown = lambda: [ssl.get_server_certificate(place) in renewed.read_text() for _ in range(9)]  # noqa: E731
        wait_for(lambda: all(shown()), "the broker's new certificate")
        # The connection there is stays; a new one shows the new certificate.
        database.sql("SELECT outbox.pause()")
        database.wait_for_state("paused")
        database.sql("SELECT outbox.resume()")
        emit_many(database, topic, 4, 51, 100)
        status = database.wait_for_state("connecting")
        wait_for(lambda: "certificate" in (database.status()["last_error"] or ""), "an error about the certificate")
        assert status["backlog"] == 50
        readable(guarded_kafka.other_ca.certificate)
        database.cluster.sql("SELECT pg_reload_conf()")
        heals(database, guarded_kafka, topic)
        # And so is a certificate that is renewed before it matters; a reload without any change changes nothing.
        sink = database.wait_for_sink(other_than=before)
        database.cluster.sql("SELECT pg_reload_conf()")
        emit_many(database, topic, 4, 101, 110)
        heals(database, guarded_kafka, topic)
        assert database.sink_pid == sink
        readable(guarded_kafka.other_ca.certificate)
        database.cluster.sql("SELECT pg_reload_conf()")
        database.wait_for_sink(other_than=sink)
        emit_many(database, topic, 4, 111, 120)
        heals(database, guarded_kafka, topic)
    finally:
        guarded_kafka.configure_broker(**{key: guarded_kafka.certificates["broker"]})


def test_bits_flip_under_tls(guarded_kafka, secured, readable, make_topic):
    """Whichever bit it is: TLS notices, the connection ends, and nothing that was spoiled is ever stored."""
    proxy = guarded_kafka.tls_proxy
    database = secured(
        guarded_kafka.tls, security_protocol="SSL", ssl_ca_location=readable(guarded_kafka.ca.certificate),
        reconnect_backoff_max_ms=200,
    )  # fmt: skip
    topic = make_topic(guarded_kafka, partitions=3)
    works(database, guarded_kafka, topic)
    corrupted, number = proxy.corrupted, 50
    proxy.corrupt = 0.2
    try:
        while proxy.corrupted < corrupted + 8:
            emit_many(database, topic, 4, number + 1, number + 5)
            number += 5
            time.sleep(0.02)
            assert number < 50000
    finally:
        proxy.heal()
    database.drain(60)
    check(ledger(database), guarded_kafka.read(topic))
    assert database.value("SELECT count(*) FROM outbox.deferred") == 0


# -- SASL -----------------------------------------------------------------------------------------------------


@pytest.fixture
def newer_client(make_cluster, base_directory):
    """Makes the sinks of a server of the test's own use the client library that came with confluent-kafka."""
    libraries = base_directory / "librdkafka"
    if not libraries.exists():
        # The server's user may not be able to read where it comes from.
        shutil.copytree(Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs"), libraries)
        (libraries / "librdkafka.so.1").symlink_to(next(libraries.glob("librdkafka-*.so.1")).name)
    server = make_cluster(start=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", str(libraries))
        server.start()
    return server


def test_sasl_plain(guarded_kafka, secured, make_topic):
    database = secured(guarded_kafka.at("SASL"), **sasl())
    works(database, guarded_kafka, make_topic(guarded_kafka))


def test_scram(guarded_kafka, newer_client, secured, readable, make_topic, workload):
    """Both kinds, over TLS too, and each changed for the next under load: a new file, a reload, none lost or doubled."""
    ca = readable(guarded_kafka.ca.certificate)
    over_tls = {"security_protocol": "SASL_SSL", "ssl_ca_location": ca}
    topic = make_topic(guarded_kafka, partitions=3)
    database = secured(guarded_kafka.at("SASL"), on=newer_client, **sasl("SCRAM-SHA-256"))
    load = workload(database, topic, sessions=3, keys=8, rate=300)
    with load:
        for number, properties in enumerate((sasl("SCRAM-SHA-512"), sasl(), sasl("SCRAM-SHA-256"))):
            before = database.status()["delivered"]
            wait_for(lambda seen=before: database.status()["delivered"] > seen + 50, f"deliveries {number}")
            sink = database.wait_for_sink()
            database.write(**properties)
            database.wait_for_sink(other_than=sink)
    assert not load.errors
    database.drain()
    check(load.sent(), guarded_kafka.read(topic))

    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        tls = secured(guarded_kafka.at("SECURE"), mechanism, on=newer_client, **sasl(mechanism, **over_tls))
        works(tls, guarded_kafka, make_topic(guarded_kafka, f"tls-{mechanism}"))
    wrong = secured(guarded_kafka.at("SASL"), "wrong", on=newer_client, **sasl("SCRAM-SHA-512", password="wrong"))
    topic = make_topic(guarded_kafka, "wrong")
    refused(wrong, guarded_kafka, topic, "authentication failed")
    wrong.write(**sasl("SCRAM-SHA-512"))
    heals(wrong, guarded_kafka, topic)


def test_client_that_cannot_use_scram_says_so(guarded_kafka, secured, make_topic):
    """librdkafka before 2.6.1 fails at brokers of Kafka 4, which speak of a wrong password."""
    database = secured(guarded_kafka.at("SASL"), **sasl("SCRAM-SHA-512"))
    database.wait_for_sink()
    version = wait_for(lambda: re.search(r"librdkafka ([\d.]+)", database.status()["sink"] or ""), "its version")
    topic = make_topic(guarded_kafka)
    if tuple(map(int, version.group(1).split("."))) >= (2, 6, 1):
        works(database, guarded_kafka, topic)
        return
    status = refused(database, guarded_kafka, topic, "2.6.1")
    assert "cannot use SCRAM with Kafka 4" in status["last_error"]
    database.write(**sasl())
    heals(database, guarded_kafka, topic)


def test_wrong_password(guarded_kafka, secured, make_topic):
    """It is named as what it is, tried with growing pauses, and logged once, not once for each attempt."""
    database = secured(guarded_kafka.at("SASL"), **sasl(password=f"{CANARY}-wrong"))
    topic = make_topic(guarded_kafka)
    refused(database, guarded_kafka, topic, "authentication failed")
    watch = Stopwatch()
    wait_for(lambda: watch.seconds > 5, "more attempts", pause=0.2)
    assert database.status()["state"] == "connecting"
    assert "authentication failed" in database.status()["last_error"]
    database.write(**sasl())
    heals(database, guarded_kafka, topic)
    relay = database.relay_pid
    lines = [line for line in database.cluster.log_text().splitlines() if f"[{relay}]" in line]
    print("\n" + "\n".join(lines))
    assert sum("uthentication" in line for line in lines) <= 2, "\n".join(lines)
    assert len(lines) <= 8, "\n".join(lines)


# -- rights ---------------------------------------------------------------------------------------------------


def test_topic_that_may_not_be_written_to(guarded_kafka, secured, make_topic):
    """It waits and says so, others flow, nothing is parked; once it is granted, its messages follow in order."""
    database = secured(guarded_kafka.at("SASL"), **sasl(user="limited"))
    granted, denied = make_topic(guarded_kafka, "granted", 2), make_topic(guarded_kafka, "denied", 2)
    guarded_kafka.allow("limited", granted)
    database.sql(SCHEMA)
    for first in range(1, 200, 10):
        emit_many(database, granted, 4, first, first + 9)
        emit_many(database, denied, 4, first, first + 9)
    guarded_kafka.wait_for_messages(granted, 200)
    status = database.wait_for_state("waiting")
    assert denied in status["last_error"] and "uthoriz" in status["last_error"], status
    assert guarded_kafka.count(denied) == 0
    assert database.value("SELECT count(*) FROM outbox.deferred WHERE state = 'parked'") == 0
    guarded_kafka.allow("limited", denied)
    database.drain(60)
    database.wait_for_state("running")
    sent = ledger(database)
    for topic in (granted, denied):
        check([m for m in sent if m.topic == topic], guarded_kafka.read(topic))


def test_right_that_is_revoked_under_load(guarded_kafka, secured, make_topic, workload):
    """And given back: in order, each once."""
    database = secured(guarded_kafka.at("SASL"), **sasl(user="limited"))
    topics = [make_topic(guarded_kafka, name, 2) for name in ("one", "two")]
    for topic in topics:
        guarded_kafka.allow("limited", topic)
    load = workload(database, topics, sessions=3, keys=8, rate=300)
    with load:
        for _ in range(2):
            wait_for(lambda n=load.committed + 60: load.committed >= n, "load")
            guarded_kafka.forbid("limited", topics[1])
            status = database.wait_for_state("waiting")
            assert topics[1] in status["last_error"]
            before = guarded_kafka.count(topics[0])
            wait_for(lambda n=before + 40: guarded_kafka.count(topics[0]) >= n, "the other topic's messages")
            guarded_kafka.allow("limited", topics[1])
            database.wait_for_state("running")
    assert not load.errors
    database.drain(60)
    check(load.sent(), guarded_kafka.read(*topics))
