"""Configuration files, what they may say, and that neither payloads nor secrets reach a log."""

import os
import signal

import psycopg
import pytest

from support.cluster import CANARY
from support.processes import command_line, give_to_server_user
from support.waiting import wait_for


@pytest.fixture
def properties(make_database, embedded_broker, server, unique):
    """A database, and a function that writes the client's properties file for it."""
    path = server.directory / f"{unique('kafka')}.properties"

    def write(text, mode=0o600):
        # In one step, so that nobody reads a half or somebody else's.
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(mode)
        give_to_server_user(fresh)
        fresh.rename(path)
        server.sql("SELECT pg_reload_conf()")

    write("linger.ms=1\n")
    database = make_database(embedded_broker, outbox__kafka_config_file=path)
    database.properties = path
    database.write = write
    return database


def test_properties_are_used(properties, make_topic, embedded_broker):
    first = properties.wait_for_sink()
    properties.write("# a comment\n\n client.id = somebody \ncompression.type=lz4\n")
    properties.wait_for_sink(other_than=first)
    topic = make_topic(embedded_broker, partitions=1)
    properties.emit(topic, "k", "p")
    properties.drain()
    assert embedded_broker.count(topic) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_file_that_others_can_read_is_refused(properties, make_topic, embedded_broker, mode):
    properties.wait_for_sink()
    properties.write("linger.ms=2\n", mode=mode)
    status = properties.wait_for_state("failed")
    assert str(properties.properties) in status["last_error"]
    topic = make_topic(embedded_broker, partitions=1)
    properties.emit(topic, "k", "stored")
    assert embedded_broker.count(topic) == 0
    properties.properties.chmod(0o600)
    properties.sql("SELECT pg_reload_conf()")
    properties.drain()
    assert embedded_broker.count(topic) == 1


@pytest.mark.parametrize(
    "line",
    [
        "plugin.library.paths=/tmp/evil.so",
        "sasl.kerberos.kinit.cmd=touch /tmp/outbox-evil",
        "ssl.engine.location=/tmp/evil.so",
        "ssl.providers=evil",
        "sasl.oauthbearer.token.endpoint.url=http://169.254.169.254/token",
        "debug=all",
        "no.such.property=1",
        "linger.ms=many",
        "acks=0",
    ],
)
def test_dangerous_and_wrong_properties_are_refused(properties, line):
    """By name, in outbox.status, without the value."""
    name, value = line.split("=")
    properties.wait_for_sink()
    properties.write(f"{line}\n")
    status = properties.wait_for_state("failed")
    assert name in status["last_error"]
    assert value not in status["last_error"] or len(value) < 5
    properties.write("linger.ms=1\n")
    properties.wait_for_state("running", "connecting")


def test_missing_file(properties):
    properties.wait_for_sink()
    properties.properties.unlink()
    properties.sql("SELECT pg_reload_conf()")
    status = properties.wait_for_state("failed")
    assert str(properties.properties) in status["last_error"]


def test_no_secret_anywhere(make_cluster, embedded_broker):
    """A password that does not work, or stands where none belongs, is in no log, no view, no command line."""
    server = make_cluster(log_min_messages="debug1")
    path = server.directory / "kafka.properties"

    def write(text):
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        give_to_server_user(fresh)
        fresh.rename(path)

    write(
        f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=app\nsasl.password={CANARY}\n"
    )
    database = server.database(
        "app", outbox__kafka_bootstrap_servers=embedded_broker.bootstrap, outbox__kafka_config_file=path
    )
    database.emit("t", "k", "p")
    wait_for(lambda: database.status()["last_error"], "the refused authentication")
    sink = database.wait_for_sink()
    assert CANARY not in " ".join(command_line(sink))
    assert CANARY not in open(f"/proc/{sink}/environ").read()
    shown = str(database.status()) + str(database.sql("SELECT * FROM pg_settings WHERE name LIKE 'outbox%'"))
    assert CANARY not in shown
    assert CANARY not in str(database.sql("SELECT * FROM pg_stat_activity"))
    # Lines that the client would quote when it refuses them.
    for wrong in (f"sasl.pasword={CANARY}", f"ssl.key.password={CANARY}\nssl.key.pem={CANARY}", f"debug={CANARY}",
                  f"sasl.password {CANARY}", f"linger.ms={CANARY}"):  # fmt: skip
        write(f"security.protocol=SASL_SSL\n{wrong}\n")
        before = database.status()["last_error_at"]
        database.sql("SELECT pg_reload_conf()")
        wait_for(lambda seen=before: database.status()["last_error_at"] != seen, f"an error about {wrong!r}")
        assert CANARY not in str(database.status())
    assert CANARY not in server.log_text()


def test_no_payload_in_the_log(make_cluster, embedded_broker, kafka, make_topic):
    """Whatever happens to a message, its bytes are in no line of the log, at any level up to debug1."""
    server = make_cluster(log_min_messages="debug1", log_error_verbosity="verbose")
    database = server.database("app", outbox__kafka_bootstrap_servers=kafka.bootstrap)
    small = make_topic(kafka, "small", partitions=1, max_message_bytes=2000)
    good = make_topic(kafka, "good", partitions=1)
    with database.transaction() as session:
        for topic in (good, small, "missing.topic"):
            session.execute(
                "SELECT outbox.emit(%s, %s, %s, %s::jsonb)",
                (topic, f"key {CANARY}", CANARY * 500, f'{{"{CANARY}": "{CANARY}"}}'),
            )
    kafka.wait_for_messages(good, 1)
    database.wait_for_state("waiting")
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.deferred") == 2, "deferred messages")
    os.kill(database.wait_for_sink(), signal.SIGKILL)
    database.sql("SELECT pg_terminate_backend(%s)", database.wait_for_relay())
    database.emit(good, "k", "later")
    kafka.wait_for_messages(good, 2)
    with database.connect() as session, pytest.raises(psycopg.Error):
        session.execute("SELECT outbox.emit(%s, %s, %s, '[]')", (good, CANARY, CANARY))
    database.sql("CREATE ROLE bound")
    database.sql("SELECT outbox.grant_emit('bound', 'nothing')")
    with database.connect() as session:
        session.execute("SET ROLE bound")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("SELECT outbox.emit(%s, %s, %s)", (good, CANARY, CANARY))
    assert CANARY not in str(database.status())
    server.stop()
    assert CANARY not in server.log_text()
