"""A key goes to the partition that a Java producer would choose for it."""

import os
import random
import subprocess
from pathlib import Path

import pytest

JAVA = Path(__file__).parent / "java"
JARS = Path(os.environ.get("OUTBOX_CACHE", Path.home() / ".cache/outbox")) / "kafka-4.1.1"


def java_partitions(keys, partitions):
    """What org.apache.kafka.common.utils.Utils makes of the keys."""
    client = f"{JARS}/*"
    done = subprocess.run(
        ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", JAVA / "Partitions.java", str(partitions)],
        input="\n".join(key.hex() for key in keys) + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [int(line) for line in done.stdout.split()]


def some_keys():
    """1,000 of them: text of every length, other scripts, numbers, UUIDs, bytes of no text."""
    chance = random.Random(20)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-_ äöüß€漢字\U0001f600"
    keys = {bytes([n]) for n in range(256)} | {b"%d" % n for n in range(200)} | {b"-1", b""}
    while len(keys) < 700:
        keys.add("".join(chance.choices(letters, k=chance.randint(1, 60))).encode())
    while len(keys) < 1000:
        keys.add(chance.randbytes(chance.randint(2, 40)))
    return sorted(keys)


@pytest.mark.parametrize("partitions", [1, 6, 7])
def test_a_thousand_keys(kafka, make_database, make_topic, partitions):
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=partitions)
    keys = some_keys()
    assert len(keys) == 1000
    with database.transaction() as session:
        session.cursor().executemany(
            "SELECT outbox.emit(%s, %s::bytea, 'p')", [(topic, key) for key in keys]
        )
    database.drain()
    arrived = {message.key: message.partition for message in kafka.read(topic)}
    # Java's client and librdkafka's murmur2_random agree that an empty key is a key.
    assert arrived == dict(zip(keys, java_partitions(keys, partitions)))


def test_keys_of_each_type(kafka, make_database, make_topic):
    """The type of a key does not matter, its bytes do."""
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=5)
    with database.transaction() as session:
        session.execute("SELECT count(outbox.emit(%s, n, 'p')) FROM generate_series(1, 100) AS n", (topic,))
        session.execute("SELECT count(outbox.emit(%s, n::text, 'p')) FROM generate_series(1, 100) AS n", (topic,))
        session.execute(
            "SELECT count(outbox.emit(%s, convert_to(n::text, 'UTF8'), 'p')) FROM generate_series(1, 100) AS n", (topic,)
        )
        session.execute("SELECT count(outbox.emit(%s, gen_random_uuid(), 'p')) FROM generate_series(1, 100)", (topic,))
    database.drain()
    arrived = {}
    for message in kafka.read(topic):
        arrived.setdefault(message.key, set()).add(message.partition)
    keys = sorted(arrived)
    assert len(keys) == 200
    assert [arrived[key] for key in keys] == [{partition} for partition in java_partitions(keys, 5)]


def test_messages_without_key_spread(kafka, make_database, make_topic):
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=3)
    # One partition is kept for some milliseconds, so that batches fill. After sixty choices at random, one of three
    # is left out with a probability of 1 in 10^10.
    for _ in range(60):
        database.sql("SELECT count(outbox.emit(%s, NULL, 'p')), pg_sleep(0.012) FROM generate_series(1, 40)", topic)
    database.drain()
    messages = kafka.read(topic)
    assert len(messages) == 2400
    assert {message.partition for message in messages} == {0, 1, 2}
