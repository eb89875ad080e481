"""What arrives is what was emitted: keys, payloads, headers, timestamps, to the byte."""

import json
import os

import psycopg
import pytest

from support.kafka import kcat

ALL_BYTES = bytes(range(256))


@pytest.fixture
def arrives(broker, database, make_topic):
    """Runs emit() with the SQL given, on a topic of one partition, and returns the message that arrives."""
    topic = make_topic(broker, partitions=1)
    count = 0

    def emit(arguments, *parameters, on=database):
        nonlocal count
        returned = str(on.value(f"SELECT outbox.emit(%s, {arguments})", topic, *parameters))
        count += 1
        message = {m.id: m for m in broker.wait_for_messages(topic, count)}[returned]
        assert message.headers[0] == ("id", returned.encode())
        assert message.topic == topic
        return message

    return emit


def test_payloads(arrives):
    text = 'Grüße,\t"quotes" \\ and\nlines, \u20ac, \U0001f600 '
    assert arrives("'k', %s", text).value == text.encode()
    assert arrives("'k', %s::bytea", ALL_BYTES * 3).value == ALL_BYTES * 3
    assert arrives("'k', ''").value == b""
    assert arrives("'k', ''::bytea").value == b""
    # json stays as it was written, jsonb arrives as the server prints it.
    assert arrives("""'k', '{"b":1,  "a": [ 1.50 ], "b":2}'::json""").value == b'{"b":1,  "a": [ 1.50 ], "b":2}'
    assert arrives("""'k', '{"b":1,  "a": [ 1.50 ], "c":"\\u00fc"}'::jsonb""").value == (
        '{"a": [1.50], "b": 1, "c": "ü"}'.encode()
    )
    assert arrives("'k', 'null'::jsonb").value == b"null"
    assert arrives("'k', '\"text\"'::jsonb").value == b'"text"'


def test_keys(arrives):
    assert arrives("'Schlüssel', 'p'").key == "Schlüssel".encode()
    assert arrives("'', 'p'").key == b""
    assert arrives("NULL, 'p'").key is None
    assert arrives("NULL::bigint, 'p'").key is None
    assert arrives("%s::bytea, 'p'", ALL_BYTES).key == ALL_BYTES
    assert arrives("'\\x'::bytea, 'p'").key == b""
    assert arrives("42, 'p'").key == b"42"
    assert arrives("-9223372036854775808, 'p'").key == b"-9223372036854775808"
    assert arrives("9223372036854775807, 'p'").key == b"9223372036854775807"
    assert arrives("'{A0EEBC999C0B4EF8BB6D6BB9BD380A11}'::uuid, 'p'").key == b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


def test_tombstones(arrives):
    message = arrives("'k', NULL")
    assert (message.key, message.value) == (b"k", None)
    assert arrives("7, NULL::jsonb").value is None
    assert arrives("NULL, NULL").value is None
    assert arrives("'k', NULL, '{\"reason\": \"gone\"}'").own_headers == (("reason", b"gone"),)


def test_headers(arrives):
    headers = """{
        "text": "Gr\u00fc\u00dfe", "empty": "", "number": 1.50, "large": 123456789012345678901234567890,
        "true": true, "false": false, "null": null, "object": {"b": [1, null],  "a": {"c": "d"}},
        "list": ["x", 1, null, true, {"c": 1}, ["nested", 2], ""], "nothing": [], "": "without a name"
    }"""
    message = arrives("'k', 'p', %s::jsonb", headers)
    assert message.headers[0][0] == "id"
    assert dict((name, value) for name, value in message.own_headers if name != "list") == {
        "text": "Grüße".encode(),
        "empty": b"",
        "number": b"1.50",
        "large": b"123456789012345678901234567890",
        "true": b"true",
        "false": b"false",
        "null": None,
        "object": b'{"a": {"c": "d"}, "b": [1, null]}',
        "": b"without a name",
    }
    # A list repeats its header, in its order.
    assert [value for name, value in message.own_headers if name == "list"] == [
        b"x", b"1", None, b"true", b'{"c": 1}', b'["nested", 2]', b"",
    ]  # fmt: skip
    assert arrives("'k', 'p', '{}'").own_headers == ()
    assert arrives("'k', 'p', NULL").own_headers == ()


def test_headers_come_in_the_order_of_jsonb(arrives, database):
    headers = {f"{'n' * (n % 5 + 1)}{n}": str(n) for n in range(50)}
    order = [row[0] for row in database.sql("SELECT jsonb_object_keys(%s::jsonb)", json.dumps(headers))]
    message = arrives("'k', 'p', %s::jsonb", json.dumps(headers))
    assert [name for name, _ in message.own_headers] == order


def test_largest_message(broker, database, make_topic):
    """One of exactly outbox.max_message_bytes leaves with Kafka's own default limit, incompressible or not."""
    topic = make_topic(broker, partitions=1)
    limit = int(database.value("SELECT setting FROM pg_settings WHERE name = 'outbox.max_message_bytes'"))
    noise = os.urandom(limit)
    ids = [
        str(database.value(f"SELECT outbox.emit(%s, {arguments})", topic, *parameters))
        for arguments, parameters in [
            ("NULL::text, %s::bytea", (noise,)),
            ("%s::bytea, %s::bytea", (noise[:1000], noise[1000:])),
            ("'k', repeat('x', %s)", (limit - 1,)),
        ]
    ]
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        database.sql("SELECT outbox.emit(%s, 'k', %s::bytea)", topic, noise)
    database.drain()
    arrived = {message.id: message for message in broker.read(topic)}
    first, second, third = (arrived[message_id] for message_id in ids)
    assert first.value == noise
    assert second.key + second.value == noise
    assert third.value == b"x" * (limit - 1)


def test_largest_headers(broker, database, make_topic):
    """What emit() accepts the broker takes, also where much of the size is the framing of headers."""
    topic = make_topic(broker, partitions=1)
    limit = int(database.value("SELECT setting FROM pg_settings WHERE name = 'outbox.max_message_bytes'"))
    list_of = limit // 20
    accepted = 0
    for count in (list_of, list_of * 9 // 10, list_of // 2):
        try:
            database.emit(topic, "k", "p", {"h": ["v" * 18] * count})
            accepted = accepted or count
        except psycopg.errors.ProgramLimitExceeded:
            continue
    assert accepted
    database.drain()
    assert len(broker.read(topic)[0].own_headers) == accepted
    assert database.status()["deferred"] == 0


def test_large_values_stored_out_of_line(broker, database, make_topic):
    topic = make_topic(broker, partitions=1)
    sizes = [1, 127, 1900, 2100, 8000, 8160, 8200, 16000, 70000, 500000]
    with database.transaction() as session:
        for size in sizes:
            session.execute("SELECT outbox.emit(%s, 'k', %s::bytea)", (topic, os.urandom(size)))
            session.execute("SELECT outbox.emit(%s, 'k', repeat('y', %s))", (topic, size))
    stored = database.sql("SELECT key, payload FROM outbox.messages ORDER BY position")
    assert [len(payload) for _, payload in stored] == [size for size in sizes for _ in (1, 2)]
    database.drain()
    assert [(m.key, m.value) for m in broker.read(topic)] == stored


def test_timestamp_is_the_rows_time(broker, database, topic):
    with database.transaction() as session:
        session.execute("SELECT outbox.emit(%s, 'k', 'p')", (topic,))
        session.execute("SELECT pg_sleep(0.05)")
        before = session.execute("SELECT extract(epoch FROM clock_timestamp()) * 1000").fetchone()[0]
    row_time = database.value("SELECT floor(extract(epoch FROM time) * 1000)::bigint FROM outbox.messages")
    database.drain()
    assert broker.read(topic)[0].timestamp == row_time
    assert row_time + 1 >= before, "the row is made when the transaction commits"


def test_explicit_partition(broker, database, make_topic):
    topic = make_topic(broker, partitions=4)
    for partition in (3, 0, 2, 1, None):
        database.emit(topic, "same key", f"{partition}", partition=partition)
    database.drain()
    messages = broker.read(topic)
    assert {m.partition for m in messages if m.value != b"None"} == {0, 1, 2, 3}
    assert all(m.partition == int(m.value) for m in messages if m.value != b"None")


@pytest.mark.parametrize("encoding, text", [("LATIN1", "Grüße ÿ"), ("SQL_ASCII", "Grüße \u20ac")])
def test_other_server_encodings(broker, make_database, make_topic, encoding, text):
    """Text arrives in UTF-8 whatever the database's encoding; bytes stay bytes."""
    topic = make_topic(broker, partitions=1)
    database = make_database(
        broker, options=f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    with database.connect() as session:
        session.execute("SET client_encoding = 'UTF8'")
        session.execute(
            "SELECT outbox.emit(%s, %s, %s, %s::jsonb)",
            (topic, text, text, json.dumps({text: text, "o": {text: text}}, ensure_ascii=False)),
        )
        session.execute("SELECT outbox.emit(%s, %s::bytea, %s::bytea)", (topic, ALL_BYTES, ALL_BYTES))
    database.drain()
    first, second = sorted(broker.read(topic), key=lambda message: message.key == ALL_BYTES)
    assert (first.key, first.value) == (text.encode(), text.encode())
    assert set(first.own_headers) == {(text, text.encode()), ("o", f'{{"{text}": "{text}"}}'.encode())}
    assert (second.key, second.value) == (ALL_BYTES, ALL_BYTES)


def test_kcat_sees_the_same(broker, database, make_topic):
    """A second consumer that is not ours, and a tool that people have at hand."""
    topic = make_topic(broker, partitions=1)
    message_id = database.emit(topic, "k1", "payload", {"type": "Created", "none": None})
    database.emit(topic, None, None)
    database.drain()
    lines = kcat("-C", "-b", broker.bootstrap, "-t", topic, "-o", "beginning", "-e", "-q", "-J").splitlines()
    first, second = sorted(map(json.loads, lines), key=lambda message: message["key"] is None)
    assert (first["key"], first["payload"]) == ("k1", "payload")
    pairs = list(zip(first["headers"][::2], first["headers"][1::2]))
    assert pairs[0] == ("id", message_id)
    assert ("type", "Created") in pairs
    assert (second["key"], second["payload"]) == (None, None)
