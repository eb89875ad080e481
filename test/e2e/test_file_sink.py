"""outbox-file, the second sink: the relay and its frames know nothing of Kafka."""

import base64
import json
import os

import pytest

from support.files import read_lines, read_messages
from support.ledger import check
from support.processes import command_line
from support.waiting import Stopwatch, wait_for


def values(path):
    return [message.value.decode() for message in read_messages(path)]


def test_half_a_line_is_all_that_may_be_between_lines(tmp_path):
    """What these tests read with: of a sink that was killed, a first half; of one that goes on behind it, nothing."""
    file = tmp_path / "m.jsonl"
    text = '"timestamp":1} Grüße {"topic":"t",'
    whole = json.dumps({"topic": "t", "payload": text, "timestamp": 17}, separators=(",", ":"), ensure_ascii=False).encode()
    for length in range(1, len(whole)):
        piece = whole[:length]
        file.write_bytes(piece + b"\n" + whole + b"\n" + piece)
        assert [line["payload"] for line in read_lines(file)] == [text]
        file.write_bytes(piece + whole + b"\n")
        with pytest.raises(ValueError):
            read_lines(file)
    for damaged in (b"", b"nothing of ours", whole[1:], b"\xff" + whole, whole + b"}"):
        file.write_bytes(whole + b"\n" + damaged + b"\n")
        with pytest.raises(ValueError):
            read_lines(file)


def test_lines_are_what_was_emitted(file_database):
    everything = bytes(range(256))
    ids = [
        file_database.emit("orders", "k1", 'Grüße "x"\n', {"type": "Created", "list": [1, None], "o": {"a": 1}}, 3),
        file_database.emit("orders", None, None),
        str(file_database.value("SELECT outbox.emit('orders', %s::bytea, %s::bytea)", everything, everything)),
        file_database.emit("orders", "", ""),
    ]
    file_database.drain()
    first, second, third, fourth = read_lines(file_database.file)
    assert isinstance(first.pop("timestamp"), int)
    assert first == {
        "topic": "orders",
        "partition": 3,
        "key": "k1",
        "payload": 'Grüße "x"\n',
        "headers": [["id", ids[0]], ["o", '{"a": 1}'], ["list", "1"], ["list", None], ["type", "Created"]],
        "id": ids[0],
    }
    assert (second["partition"], second["key"], second["payload"], second["headers"]) == (None, None, None, [["id", ids[1]]])
    assert base64.b64decode(third["key"]["base64"]) == base64.b64decode(third["payload"]["base64"]) == everything
    assert (fourth["key"], fourth["payload"]) == ("", "")
    assert [line["id"] for line in (first, second, third, fourth)] == ids


def test_sink_is_a_child_of_its_relay(file_database):
    file_database.emit("t", "k", "p")
    file_database.drain()
    sink = file_database.sink_pid
    program, database = command_line(sink)[:2]
    assert os.path.basename(program) == "outbox-file"
    assert database == file_database.name
    assert f"PPid:\t{file_database.relay_pid}\n" in open(f"/proc/{sink}/status").read()


def test_load_in_order(file_database, workload):
    load = workload(file_database, "t", sessions=6)
    with load:
        wait_for(lambda: load.committed >= 1000, "1,000 transactions")
    file_database.drain()
    check(load.sent(), read_messages(file_database.file))


def test_slow_sink(file_database, options):
    """A sink that takes its time holds up no session, and is not given more than it can hold."""
    options("delay.ms=20")
    watch = Stopwatch()
    file_database.sql("SELECT count(outbox.emit('t', n % 5, n::text)) FROM generate_series(1, 100) AS n")
    assert watch.seconds < 1.5
    assert not file_database.value("SELECT outbox.wait_for_delivery('200 ms')")
    assert 0 < file_database.status()["backlog"] <= 100
    file_database.drain()
    assert values(file_database.file) == [str(n) for n in range(1, 101)]


def test_refused_topic_waits_and_others_flow(file_database, options):
    options("refuse.topic=closed")
    for n in range(30):
        file_database.emit("closed", "k", f"closed {n}")
        file_database.emit("open", "k", f"open {n}")
    wait_for(lambda: len(values(file_database.file)) == 30, "the messages of the other topic")
    status = file_database.wait_for_state("waiting")
    assert status["backlog"] == 30 and "closed" in status["last_error"]
    options("# open again")
    file_database.drain()
    assert values(file_database.file) == [f"open {n}" for n in range(30)] + [f"closed {n}" for n in range(30)]
    file_database.wait_for_state("running")


def test_refused_message_parks_its_key_only(file_database, options):
    options("refuse.message.containing=poison")
    for n in range(10):
        file_database.emit("t", "bad", "poison" if n == 3 else f"bad {n}")
        file_database.emit("t", "good", f"good {n}")
        file_database.emit("t", None, f"none {n}")
        file_database.emit("other", "bad", f"other {n}")
    file_database.drain()
    arrived = values(file_database.file)
    assert sorted(arrived) == sorted(
        [f"{kind} {n}" for n in range(10) for kind in ("good", "none", "other")] + [f"bad {n}" for n in range(3)]
    )
    for kind in ("good", "none", "other", "bad"):
        own = [text for text in arrived if text.startswith(kind)]
        assert own == sorted(own)
    kept = file_database.sql(
        "SELECT convert_from(payload, 'UTF8'), state FROM outbox.deferred ORDER BY position"
    )
    assert kept == [("poison", "parked")] + [(f"bad {n}", "parked") for n in range(4, 10)]
    assert file_database.value("SELECT count(*) FROM outbox.messages WHERE topic = 't' AND key = 'bad'") >= 7


def test_sink_that_dies_again_and_again(file_database, options):
    """Each time it is started anew and given what it had not acknowledged."""
    file_database.emit("t", "k", "0")
    file_database.drain()
    options("die.after=20")
    file_database.sql(
        "CREATE TABLE ledger AS SELECT outbox.emit('t', 'k', n::text) AS id, n FROM generate_series(1, 100) AS n"
    )
    wait_for(lambda: file_database.status()["state"] == "failed", "the relay to give up hope for its sink")
    options("# live")
    file_database.drain(90)
    arrived = values(file_database.file)
    assert list(dict.fromkeys(arrived)) == [str(n) for n in range(101)]
    assert "outbox-file" in (file_database.status()["last_error"] or "")


def test_file_that_cannot_be_written(file_database, options):
    """A transient trouble: it is named, and it heals by itself."""
    file_database.emit("t", "k", "0")
    file_database.drain()
    directory = file_database.file.with_suffix(".d")
    directory.mkdir()
    file_database.set(outbox__file_path=directory)
    file_database.sql("SELECT pg_reload_conf()")
    file_database.emit("t", "k", "1")
    status = wait_for(lambda: (s := file_database.status())["last_error"] and s, "an error")
    assert str(directory) in status["last_error"]
    assert status["state"] in ("failed", "connecting")
    file_database.set(outbox__file_path=file_database.file)
    file_database.sql("SELECT pg_reload_conf()")
    file_database.drain()
    assert values(file_database.file) == ["0", "1"]


def test_unknown_sink(file_database):
    """A name without a program is said to be wrong, and a reload with a right one is enough."""
    file_database.set(outbox__sink="nobody-wrote-it")
    file_database.sql("SELECT pg_reload_conf()")
    file_database.emit("t", "k", "p")
    status = file_database.wait_for_state("failed")
    assert "outbox-nobody-wrote-it" in status["last_error"]
    file_database.set(outbox__sink="file")
    file_database.sql("SELECT pg_reload_conf()")
    file_database.drain()
    assert values(file_database.file) == ["p"]
