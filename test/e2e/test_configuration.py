"""Storms of reloads, wrong values, and servers that lose the library or the sink for a while."""

import psycopg
import pytest

from support.files import read_messages
from support.ledger import check
from support.waiting import Stopwatch, wait_for


def values(path):
    return [m.value.decode() for m in read_messages(path)]


def test_a_thousand_reloads_under_load(own_server, workload):
    """Every tenth one changes something that the relay works by; nothing is lost or sent twice, and the log says
    each change once, as the server does with any of them, and nothing of ours."""
    path = own_server.directory / "m.jsonl"
    database = own_server.database("app", outbox__sink="file", outbox__file_path=path)
    load = workload(database, "t", sessions=2, rate=300)
    database.wait_for_relay()
    before = len(own_server.log_text().splitlines())
    with load, own_server.connect() as session:
        for n in range(1000):
            if n % 10 == 0:
                size = ("64kB", "128kB")[n // 10 % 2]
                own_server.configure(outbox__segment_size=size, outbox__max_in_flight_messages=100 + n).write_configuration()
            session.execute("SELECT pg_reload_conf()")
        reached = load.committed
        wait_for(lambda: load.committed > reached + 20, "load afterwards")
    assert not load.errors
    database.drain()
    check(load.sent(), read_messages(path))
    lines = [line for line in own_server.log_text().splitlines()[before:] if "outbox relay" in line or "outbox sink" in line]
    assert len(lines) < 300, lines[:10]
    assert not [line for line in lines if "ERROR" in line or "FATAL" in line], lines[:10]


WRONG = {
    "outbox.segment_size": "1 bushel",
    "outbox.retention": "-5min",
    "outbox.max_message_bytes": "2TB",
    "outbox.max_in_flight_messages": "0",
    "outbox.enabled": "perhaps",
    "outbox.stop_timeout": "never",
}


def test_wrong_values_change_nothing(own_server):
    """The old value stays, the server's log names the wrong one once per reload, the relay is not disturbed."""
    path = own_server.directory / "m.jsonl"
    database = own_server.database("app", outbox__sink="file", outbox__file_path=path)
    relay, sink = database.wait_for_relay(), database.wait_for_sink()
    for number, (name, value) in enumerate(WRONG.items()):
        old = database.value(f"SHOW {name}")
        before = own_server.log_text()
        own_server.reload(**{name: value})
        wait_for(lambda n=name, b=before: own_server.log_text()[len(b) :].count(f'"{n}"'), "the server to complain")
        database.emit("t", "k", f"{number}")
        database.drain()
        assert database.value(f"SHOW {name}") == old
        complaints = own_server.log_text()[len(before) :]
        assert complaints.count(f'parameter "{name}"') == 1, complaints
        own_server.reload(**{name: None})
    own_server.reload(outbox__no_such_setting="1")
    database.emit("t", "k", "last")
    database.drain()
    assert (database.relay_pid, database.sink_pid) == (relay, sink)
    assert values(path) == [*(str(n) for n in range(len(WRONG))), "last"]


def test_library_removed_with_a_backlog(make_cluster):
    """Without the library emit() says what is missing and nothing is sent; readers see what is stored; once it is back
    the backlog goes, in order, and a prepared transaction too that was finished meanwhile."""
    server = make_cluster()
    path = server.directory / "m.jsonl"
    database = server.database("app", outbox__sink="file", outbox__file_path=path)
    database.emit("t", "k", "delivered")
    database.drain()
    with database.connect(autocommit=False) as session:
        session.execute("SELECT outbox.emit('t', 'prepared', 'prepared')")
        session.execute("PREPARE TRANSACTION 'finished without the library'")
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 100) AS n")
    server.restart(shared_preload_libraries="")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        database.emit("t", "k", "refused")
    assert "shared_preload_libraries" in refusal.value.diag.message_hint
    assert database.value("SELECT count(*) FROM outbox.messages WHERE NOT settled") == 100
    status = database.status()
    assert (status["state"], status["backlog"] >= 100) == ("stopped", True)
    database.sql("COMMIT PREPARED 'finished without the library'")
    # Settings that the server does not know any more are kept for it.
    assert database.value("SHOW outbox.sink") == "file"
    database.sql("SELECT outbox.resume()")
    server.restart(shared_preload_libraries="outbox")
    database.emit("t", "k", "101")
    database.drain()
    assert [v for v in values(path) if v != "prepared"] == ["delivered", *(str(n) for n in range(1, 102))]
    assert values(path).count("prepared") == 1


def test_sink_program_missing(own_server):
    """Named once in the status and in the log, tried again by itself, no storm; emit() is not concerned; with the
    right name everything goes."""
    path = own_server.directory / "m.jsonl"
    database = own_server.database("app", outbox__sink="gone", outbox__file_path=path)
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 50) AS n")
    assert "outbox-gone" in database.wait_for_state("failed")["last_error"]
    watch = Stopwatch()
    wait_for(lambda: watch.seconds > 2, "two seconds of a log without a storm")
    assert own_server.log_text().count("outbox-gone") <= 4, own_server.log_tail(20)
    database.emit("t", "k", "51")
    database.set(outbox__sink="file")
    database.drain()
    assert values(path) == [str(n) for n in range(1, 52)]


def test_settings_of_a_database_flip_under_load(own_server, workload):
    """ALTER DATABASE ... SET makes the relay begin anew each time: a clean restart duplicates nothing."""
    path = own_server.directory / "m.jsonl"
    database = own_server.database("app", outbox__sink="file", outbox__file_path=path)
    load = workload(database, "t", sessions=2, keys=5, rate=400)
    with load:
        for n in range(15):
            database.set(outbox__enabled=("off", "on")[n % 2])
            reached = load.committed
            wait_for(lambda reached=reached: load.committed > reached + 10, "load")
        database.set(outbox__enabled="on")
    assert not load.errors
    database.drain()
    check(load.sent(), read_messages(path))
