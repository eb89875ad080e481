"""The ring of segments: it turns, it shrinks again, and nothing is lost on the way, whoever holds what."""

import threading

import psycopg
import pytest

from support.files import read_messages
from support.ledger import check
from support.waiting import Stopwatch, wait_for


@pytest.fixture
def small(make_database, server, unique):
    """A database with small segments that are emptied as soon as they can be."""
    path = server.directory / f"{unique('messages')}.jsonl"
    database = make_database(
        outbox__sink="file", outbox__file_path=path, outbox__segment_size="256kB", outbox__retention="0"
    )
    database.file = path
    return database


def stored_bytes(database):
    return database.value(
        "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class "
        "WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r'"
    )


def emit_a_megabyte(database, name):
    database.sql(
        "SELECT count(outbox.emit('t', %s, rpad(%s || ' ' || n, 1000, '.'))) FROM generate_series(1, 1000) AS n",
        name,
        name,
    )


def expected(*names):
    return [f"{name} {n}".ljust(1000, ".") for name in names for n in range(1, 1001)]


def values(database):
    return [message.value.decode() for message in read_messages(database.file)]


def wait_until_small(database, limit=1 << 20):
    wait_for(lambda: stored_bytes(database) < limit, f"less than {limit} bytes stored", timeout=30, pause=0.1)


def test_tables_shrink_again(small):
    names = [f"round {n}" for n in range(12)]
    for name in names:
        emit_a_megabyte(small, name)
    small.drain()
    wait_until_small(small)
    assert values(small) == expected(*names)
    # And go on being used.
    emit_a_megabyte(small, "more")
    small.drain()
    wait_until_small(small)
    assert values(small) == expected(*names, "more")


def test_every_segment_is_used(small):
    """Whoever reads the first ones keeps them from being emptied; the ring goes on as far as it reaches."""
    with small.connect(autocommit=False) as reader:
        reader.execute("LOCK TABLE outbox.segment_1, outbox.segment_2, outbox.segment_3 IN ACCESS SHARE MODE")
        names = []
        for segment in (1, 2, 3, 4):
            wait_for(lambda wanted=segment: small.status()["active_segment"] == wanted, f"segment {segment}")
            names.append(f"{segment}")
            emit_a_megabyte(small, names[-1])
            small.drain()
    small.emit("t", "k", "last")
    small.drain()
    assert values(small) == [*expected(*names), "last"]
    wait_until_small(small)


def test_with_an_old_snapshot(small):
    """A report that runs for hours keeps no segment."""
    with small.connect(autocommit=False) as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM pg_class").fetchone()
        names = [f"round {n}" for n in range(8)]
        for name in names:
            emit_a_megabyte(small, name)
            small.drain()
        wait_until_small(small, 2 << 20)
        assert values(small) == expected(*names)


def test_with_an_open_transaction_that_has_emitted(small):
    """It has no position yet, so it keeps no segment either; its message comes at its end."""
    with small.connect(autocommit=False) as session:
        session.execute("CREATE TABLE has_an_xid ()")
        session.execute("SELECT outbox.emit('t', 'slow', 'slow')")
        for n in range(8):
            emit_a_megabyte(small, f"{n}")
            small.drain()
        wait_until_small(small, 2 << 20)
    small.drain()
    assert values(small)[-1] == "slow"


def test_with_a_prepared_transaction(small):
    """It has rows in one segment, which stays; the rest of the ring turns, and its message comes in the end."""
    with small.connect(autocommit=False) as session:
        session.execute("SELECT outbox.emit('t', 'prepared', 'prepared')")
        session.execute("PREPARE TRANSACTION 'keeps a segment'")
    try:
        names = [f"round {n}" for n in range(10)]
        for name in names:
            emit_a_megabyte(small, name)
            small.drain()
            # Not everything into the segment that the prepared transaction keeps.
            wait_for(lambda: small.status()["active_segment"] != 1, "another segment")
        wait_until_small(small, 4 << 20)
    finally:
        small.sql("COMMIT PREPARED 'keeps a segment'")
    wait_for(lambda: values(small)[-1] == "prepared", "the prepared message")
    assert values(small)[:-1] == expected(*names)
    emit_a_megabyte(small, "last")
    small.drain()
    wait_until_small(small)


def test_with_the_locks_of_a_dump(small):
    """Whoever reads all tables for a long time stalls no writer; once he is gone the tables shrink."""
    with small.connect(autocommit=False) as dump:
        dump.execute("LOCK TABLE outbox.segment_1, outbox.segment_2, outbox.segment_3, outbox.segment_4 IN ACCESS SHARE MODE")
        slowest = 0.0
        names = [f"round {n}" for n in range(8)]
        for name in names:
            emit_a_megabyte(small, name)
            watch = Stopwatch()
            small.emit("u", "k", "p")
            slowest = max(slowest, watch.seconds)
            small.drain()
        print(f"\nslowest commit beside the locks: {slowest * 1000:.0f} ms")
        assert slowest < 1.0
    emit_a_megabyte(small, "after")
    small.drain()
    wait_until_small(small)
    assert [v for v in values(small) if v != "p"] == expected(*names, "after")


def test_no_writer_ever_waits_for_the_ring(small, workload):
    """Commits stay quick while segments are emptied all the time and somebody takes locks in between."""
    load = workload(small, "w", sessions=3, keys=6)
    stop = threading.Event()

    def lock_now_and_then():
        with small.connect(autocommit=False) as session:
            while not stop.wait(0.01):
                for n in range(1, 5):
                    session.execute(f"LOCK TABLE outbox.segment_{n} IN ACCESS SHARE MODE")
                session.execute("SELECT pg_sleep(0.05)")
                session.rollback()

    locker = threading.Thread(target=lock_now_and_then)
    locker.start()
    slowest = 0.0
    try:
        with load:
            for n in range(15):
                emit_a_megabyte(small, f"{n}")
                watch = Stopwatch()
                small.emit("u", "k", "p")
                slowest = max(slowest, watch.seconds)
    finally:
        stop.set()
        locker.join()
    print(f"\nslowest commit: {slowest * 1000:.0f} ms")
    assert slowest < 1.0
    assert not load.errors
    small.drain()
    check(load.sent(), [m for m in read_messages(small.file) if m.topic == "w"])


def test_segment_switch_behind_a_writers_back(small):
    """A writer has looked which segment is active and waits for its lock; meanwhile the ring goes on."""
    small.set(outbox__segment_size="10MB")
    small.sql("SELECT pg_reload_conf()")
    emit_a_megabyte(small, "before")
    small.drain()
    active = small.status()["active_segment"]
    blocker = small.connect(autocommit=False)
    blocker.execute(f"LOCK TABLE outbox.segment_{active} IN SHARE MODE")
    writer = small.connect()
    done = threading.Thread(target=lambda: writer.execute("SELECT outbox.emit('t', 'late', 'late')"))
    done.start()
    wait_for(
        lambda: small.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", writer.info.backend_pid),
        "the writer to wait",
    )
    small.set(outbox__segment_size="64kB")
    small.sql("SELECT pg_reload_conf()")
    wait_for(lambda: small.status()["active_segment"] != active, "the switch")
    small.emit("t", "k", "in the new segment")
    blocker.rollback()
    done.join(10)
    assert not done.is_alive()
    small.drain()
    assert values(small)[-2:] == ["in the new segment", "late"]
    for n in range(4):
        emit_a_megabyte(small, f"{n}")
        small.drain()
    wait_until_small(small)


def test_truncate_by_hand_while_a_writer_waits(small):
    """A superuser empties a segment: what was delivered is gone from the log, what comes later is not."""
    emit_a_megabyte(small, "before")
    small.drain()
    small.emit("t", "k", "delivered")
    small.drain()
    active = small.status()["active_segment"]
    with small.connect(autocommit=False) as truncater:
        truncater.execute(f"TRUNCATE outbox.segment_{active}")
        writer = small.connect()
        waiting = threading.Thread(target=lambda: writer.execute("SELECT outbox.emit('t', 'k', 'after')"))
        waiting.start()
        wait_for(
            lambda: small.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", writer.info.backend_pid),
            "the writer to wait",
        )
        truncater.commit()
    waiting.join(10)
    small.drain()
    assert values(small)[-2:] == ["delivered", "after"]


def test_commit_that_is_given_up(small):
    """A commit that waits for its lock can be cancelled, and obeys lock_timeout: its transaction is undone."""
    with small.connect(autocommit=False) as blocker, small.connect() as writer:
        blocker.execute("LOCK TABLE outbox.segment_1 IN SHARE MODE")
        writer.execute("CREATE TABLE done (what text)")

        def emit_in_a_transaction():
            writer.execute("BEGIN")
            writer.execute("INSERT INTO done VALUES ('undone')")
            writer.execute("SELECT outbox.emit('t', 'k', 'undone')")

        emit_in_a_transaction()
        cancel = threading.Thread(target=_cancel_when_it_waits, args=(small, writer.info.backend_pid))
        cancel.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            writer.execute("COMMIT")
        cancel.join()
        writer.execute("SET lock_timeout = '50ms'")
        emit_in_a_transaction()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            writer.execute("COMMIT")
        blocker.rollback()
        assert writer.execute("SELECT count(*) FROM outbox.uncommitted()").fetchone() == (0,)
        writer.execute("SELECT outbox.emit('t', 'k', 'after')")
        assert writer.execute("SELECT count(*) FROM done").fetchone() == (0,)
    small.drain()
    assert values(small) == ["after"]


def _cancel_when_it_waits(database, pid):
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
    wait_for(lambda: database.value(waiting, pid), "the commit to wait")
    database.sql("SELECT pg_cancel_backend(%s)", pid)


def test_retention_keeps_what_it_says(make_database, server, unique):
    path = server.directory / f"{unique('messages')}.jsonl"
    database = make_database(
        outbox__sink="file", outbox__file_path=path, outbox__segment_size="64kB", outbox__retention="1h"
    )
    for n in range(10):
        database.sql("SELECT count(outbox.emit('t', n, repeat('x', 900))) FROM generate_series(1, 200) AS n")
        database.drain()
    assert database.value("SELECT count(*) FROM outbox.messages") == 2000
    wait_for(lambda: database.value("SELECT bool_and(settled) FROM outbox.messages"), "all settled")
    # The relay looks at its segments several times a second while there is something to do.
    watch = Stopwatch()
    while watch.seconds < 1:
        database.emit("t", "k", "p")
        database.drain()
    assert database.value("SELECT count(*) FROM outbox.messages WHERE key <> 'k'") == 2000
    database.set(outbox__retention="0")
    database.sql("SELECT pg_reload_conf()")
    database.emit("t", "k", "p")
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.messages") < 1000, "emptied segments")


def test_full_outage_keeps_everything(small):
    """Nothing unsettled is ever emptied, however small the segments are meant to be."""
    small.sql("SELECT outbox.pause()")
    names = [f"round {n}" for n in range(6)]
    for name in names:
        emit_a_megabyte(small, name)
    assert small.value("SELECT count(*) FROM outbox.messages") == 6000
    small.sql("SELECT outbox.resume()")
    small.drain()
    assert values(small) == expected(*names)
    wait_until_small(small)


def test_progress_leaves_nothing_behind(small):
    """No dead row versions under an old snapshot, and no growth, however often progress is written."""
    with small.connect(autocommit=False) as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM pg_class").fetchone()
        for n in range(300):
            small.emit("t", "k", f"{n}")
            if n % 10 == 0:
                small.drain()
        small.drain()
        dead = small.value(
            "SELECT sum(pg_stat_get_dead_tuples(oid)) FROM pg_class "
            "WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r'"
        )
        size = small.value("SELECT pg_total_relation_size('outbox.progress_1') + pg_total_relation_size('outbox.progress_2')")
        print(f"\n{dead} dead rows, {size} bytes of progress")
        assert dead <= 2
        assert size < 1 << 20


def test_superusers_trigger_cannot_break_the_log(small):
    """Whatever a superuser attaches to a segment, emit() writes as before."""
    small.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'")
    small.sql("CREATE TRIGGER refuse BEFORE INSERT ON outbox.segment_1 FOR EACH ROW EXECUTE FUNCTION refuse()")
    try:
        small.emit("t", "k", "p")
    except psycopg.Error:
        # Being refused loudly would do as well.
        small.sql("DROP TRIGGER refuse ON outbox.segment_1")
        small.emit("t", "k", "p")
    small.drain()
    assert values(small) == ["p"]
