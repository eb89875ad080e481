"""outbox.backlog_limit: at the limit emit() refuses, nothing is dropped, and it heals by itself."""

import datetime
import signal
import threading

import psycopg
import pytest

from support.files import read_messages
from support.waiting import Stopwatch, wait_for

MB = 1 << 20
KILOBYTE = "x" * 1000
LimitExceeded = psycopg.errors.ConfigurationLimitExceeded
NOWHERE = "127.0.0.1:1"


def fill(database, most=100000, **options):
    """Emits messages of a kilobyte, each in a transaction of its own, until one is refused: the payloads, the error."""
    stored = []
    with database.connect(**options) as session:
        for n in range(most):
            payload = f"{n} {KILOBYTE}"
            try:
                session.execute("SELECT outbox.emit('t', 'k', %s)", (payload,))
            except LimitExceeded as error:
                return stored, error
            stored.append(payload)
    raise AssertionError(f"{most} messages were emitted and none was refused: {database.status()}")


def emit_bulk(session, count, topic="t"):
    session.execute("SELECT count(outbox.emit(%s, 'k', %s)) FROM generate_series(1, %s)", (topic, KILOBYTE, count))


def refused(database, count=1):
    try:
        with database.connect() as session:
            emit_bulk(session, count)
    except LimitExceeded:
        return True
    return False


def limited(make_database, limit="2MB", **options):
    options.setdefault("outbox__kafka_bootstrap_servers", NOWHERE)
    return make_database(outbox__backlog_limit=limit, **options)


# -- at the limit -------------------------------------------------------------------------------------------


def test_limit_while_the_broker_hangs(embedded_broker, make_database):
    """The whole story: the broker stops answering, the limit is reached, it answers again, all arrives."""
    topic = embedded_broker.create_topic("t")
    database = limited(make_database, outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
    database.sql("CREATE ROLE limit_app LOGIN")
    database.sql("SELECT outbox.grant_emit('limit_app')")
    database.sql("CREATE TABLE orders (n integer)")
    database.sql("GRANT INSERT ON orders TO limit_app")
    try:
        database.emit(topic, "k", "first")
        database.drain()
        embedded_broker.process.send_signal(signal.SIGSTOP)
        stored, error = fill(database, user="limit_app")
        # As much as was allowed, counted as disk space, and hardly more.
        assert 1000 < len(stored) < 2 * MB / 1000
        status = database.status()
        assert status["backlog"] == len(stored)
        assert 0.95 * 2 * MB < status["backlog_bytes"] <= 2 * MB + 65536, status
        assert status["backlog_limit"] == 2 * MB
        assert status["limit_reached_at"] is None or status["limit_reached_at"] <= datetime.datetime.now(
            datetime.timezone.utc
        ) + datetime.timedelta(minutes=1)
        assert error.sqlstate == "53400"
        assert "reached its limit" in str(error)
        assert "outbox.backlog_limit is 2048 kB" in error.diag.message_detail
        assert "delivered nothing since 20" in error.diag.message_detail
        assert "outbox.status" in error.diag.message_hint
        # The rest of the transaction is the application's own business.
        with database.connect(user="limit_app", autocommit=False) as session:
            session.execute("INSERT INTO orders VALUES (1)")
            session.execute("SAVEPOINT s")
            with pytest.raises(LimitExceeded):
                session.execute("SELECT outbox.emit('t', 'k', %s)", (KILOBYTE,))
            session.execute("ROLLBACK TO s")
            session.execute("INSERT INTO orders VALUES (2)")
        assert database.value("SELECT count(*) FROM orders") == 2
        # Nothing was dropped for it.
        assert database.value("SELECT count(*) FROM outbox.messages WHERE NOT settled") == len(stored)

        embedded_broker.process.send_signal(signal.SIGCONT)
        wait_for(lambda: not refused(database), "room for another message")
        database.drain()
        received = embedded_broker.wait_for_messages(topic, len(stored) + 2)
        values = [m.value.decode() for m in received]
        assert values[:-1] == ["first", *stored] and values[-1] == KILOBYTE
        status = wait_for(lambda: (s := database.status())["backlog_bytes"] == 0 and s, "an empty backlog")
        assert (status["backlog"], status["limit_reached_at"]) == (0, None)
    finally:
        embedded_broker.process.send_signal(signal.SIGCONT)
        database.sql("DROP TABLE orders")
        database.sql("DROP OWNED BY limit_app; DROP ROLE limit_app")


def test_limit_while_paused_with_many_sessions(make_database, server, unique):
    """Nobody at work and many writers: together they stop at the limit. It resumes where it was."""
    path = server.directory / f"{unique('messages')}.jsonl"
    database = limited(make_database, outbox__sink="file", outbox__file_path=path)
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")
    stored = []
    threads = [threading.Thread(target=lambda: stored.extend(fill(database)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    status = database.status()
    print(f"\n{len(stored)} messages in {status['backlog_bytes']} bytes")
    assert status["backlog"] == len(stored)
    # Each may have been about to write one more; and where they contend for a table's end the server adds up to
    # twenty pages for each of them at once, which are empty at first.
    assert 1000 < len(stored) < 2 * MB / 1000 + 8
    assert 0.95 * 2 * MB < status["backlog_bytes"] < 2 * MB + 8 * 20 * 8192
    database.sql("SELECT outbox.resume()")
    wait_for(lambda: not refused(database), "room for another message")
    database.drain()
    assert sorted(m.value.decode() for m in read_messages(path)) == sorted([*stored, KILOBYTE])


def test_limit_survives_restarts_and_needs_no_relay(make_cluster):
    """Nothing but the tables tells how much there is: after a stop, after a crash, without a relay, without a slot."""
    cluster = make_cluster(outbox__max_databases=1, outbox__enabled="off", outbox__backlog_limit="2MB")
    first = cluster.database("first")
    first.wait_for_state("disabled")
    second = cluster.database("second")
    stored = {}
    for database in (first, second):
        stored[database], _ = fill(database)
        assert 0.95 * 2 * MB < database.status()["backlog_bytes"] < 2 * MB + 65536
        assert refused(database)
    assert second.status()["state"] == "stopped" and second.status()["relay_pid"] is None
    cluster.expect_crash()
    for mode in ("fast", "immediate"):
        cluster.restart(mode)
        for database in (first, second):
            assert refused(database), mode
            assert database.status()["backlog"] == len(stored[database])
    # Sessions that no slot connects notice one another a moment later.
    cluster.reload(outbox__backlog_limit="3MB")
    wait_for(lambda: second.value("SHOW outbox.backlog_limit") == "3MB", "the new limit")
    with second.connect() as old:
        old.execute("SELECT outbox.emit('t', 'k', 'old')")
        fill(second)

        def noticed():
            try:
                old.execute("SELECT outbox.emit('t', 'k', %s)", (KILOBYTE,))
            except LimitExceeded:
                return True
            return False

        # Five a second: by its own messages it would reach the limit in minutes.
        wait_for(noticed, "the other session's messages being noticed", pause=0.2)


def test_limit_is_raised_and_lowered(make_cluster):
    cluster = make_cluster(outbox__kafka_bootstrap_servers=NOWHERE)
    database = cluster.database("app")
    with database.connect() as session:
        # Written while there was none: counts when there is one.
        emit_bulk(session, 1500)
        assert database.status()["backlog_limit"] is None
        cluster.reload(outbox__backlog_limit="1MB")
        wait_for(lambda: session.execute("SHOW outbox.backlog_limit").fetchone() == ("1MB",), "the new limit")
        with pytest.raises(LimitExceeded):
            emit_bulk(session, 1)
        cluster.reload(outbox__backlog_limit="3MB")
        wait_for(lambda: session.execute("SHOW outbox.backlog_limit").fetchone() == ("3MB",), "the new limit")
        emit_bulk(session, 1)
        # A database's own wins, for new sessions.
        database.set(outbox__backlog_limit="1MB")
        emit_bulk(session, 1)
        assert refused(database)
        database.set(outbox__backlog_limit="0")
        assert not refused(database, 3000)
        # Who has a limit learns what others wrote who had none.
        with pytest.raises(LimitExceeded):
            emit_bulk(session, 1)


# -- transactions -------------------------------------------------------------------------------------------


def test_one_transaction_cannot_slip_through(make_database):
    """What it has emitted itself counts, and what it rolls back does not."""
    database = limited(make_database, "4MB")
    watch = Stopwatch()
    with pytest.raises(LimitExceeded) as error, database.connect() as session:
        emit_bulk(session, 1000000)
    assert watch.seconds < 10
    assert "this transaction has emitted 4" in error.value.diag.message_detail
    assert database.status()["backlog"] == 0
    for isolation in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        with database.connect(autocommit=False) as session:
            session.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
            emit_bulk(session, 500)
            for _ in range(5):
                session.execute("SAVEPOINT s")
                emit_bulk(session, 1500)
                session.execute("SAVEPOINT t")
                with pytest.raises(LimitExceeded):
                    emit_bulk(session, 3000)
                session.execute("ROLLBACK TO s")
            # Caught by the application.
            session.execute(
                """
                DO $$ BEGIN
                    FOR n IN 1..10000 LOOP PERFORM outbox.emit('t', n, repeat('y', 1000)); END LOOP;
                EXCEPTION WHEN configuration_limit_exceeded THEN NULL; END $$
                """
            )
            assert session.execute("SELECT count(*) FROM outbox.uncommitted()").fetchone() == (500,)
            # A look at the tables keeps none of them: the relay has to be able to empty them.
            assert session.execute("SELECT backlog_bytes < 4194304 FROM outbox.status").fetchone() == (True,)
            locked = session.execute(
                "SELECT array_agg(relation::regclass::text) FROM pg_locks WHERE pid = pg_backend_pid() "
                "AND mode <> 'SIReadLock' "
                "AND relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'outbox'::regnamespace) "
                "AND relation::regclass::text ~ 'segment|progress|deferred'"
            ).fetchone()
            assert locked == (None,)
    wait_for(lambda: database.status()["backlog"] == 1500, "three transactions of 500")


def test_prepared_transactions_count(file_database):
    """They take their room, and give it back when they are rolled back."""
    database = file_database
    database.set(outbox__backlog_limit="2MB")
    with database.connect(autocommit=False) as session:
        emit_bulk(session, 1500)
        session.execute("PREPARE TRANSACTION 'takes room'")
    database.emit("t", "k", "small")
    assert refused(database, 1000)
    database.sql("ROLLBACK PREPARED 'takes room'")
    wait_for(lambda: not refused(database, 1000), "the room of the transaction that was rolled back")
    database.drain()
    assert len(read_messages(database.file)) == 1001


def test_backlog_counts_what_was_committed_while_nothing_can_be_sent(embedded_broker, make_database):
    """The relay met a transaction that had not ended, and then its window was full: it does not look again."""
    database = make_database(
        outbox__kafka_bootstrap_servers=embedded_broker.bootstrap, outbox__max_in_flight_messages="10"
    )
    database.emit("t", "k", "first")
    database.drain()
    embedded_broker.process.send_signal(signal.SIGSTOP)
    try:
        with database.connect(autocommit=False) as session:
            emit_bulk(session, 5)
            session.execute("PREPARE TRANSACTION 'meanwhile'")
        with database.connect() as session:
            emit_bulk(session, 20)
        wait_for(lambda: database.status()["watermark"] >= 16, "a full window")
        database.sql("COMMIT PREPARED 'meanwhile'")
        status = database.status()
        assert status["backlog"] == 25, status
    finally:
        embedded_broker.process.send_signal(signal.SIGCONT)
    database.drain()
    assert embedded_broker.count("t") == 26 and database.status()["backlog"] == 0


# -- the status ---------------------------------------------------------------------------------------------


def test_when_the_limit_will_be_reached(make_database, server, unique):
    path = server.directory / f"{unique('messages')}.jsonl"
    database = limited(make_database, "64MB", outbox__sink="file", outbox__file_path=path)
    assert database.status()["limit_reached_at"] is None
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")

    def growing():
        with database.connect() as session:
            emit_bulk(session, 200)
        status = database.status()
        return status if status["limit_reached_at"] else None

    status = wait_for(growing, "an estimate")
    now = database.value("SELECT now()")
    # Some hundred kilobytes within some seconds are a long way from 64 MB.
    assert now + datetime.timedelta(seconds=2) < status["limit_reached_at"] < now + datetime.timedelta(days=1), status
    database.sql("SELECT outbox.resume()")
    database.drain()
    status = wait_for(lambda: (s := database.status())["backlog_bytes"] == 0 and s, "an empty backlog")
    assert status["limit_reached_at"] is None


def test_delivered_messages_do_not_count(make_database, server, unique):
    """Nor where the segments keep them: outbox.retention is not a backlog."""
    path = server.directory / f"{unique('messages')}.jsonl"
    database = limited(make_database, outbox__sink="file", outbox__file_path=path, outbox__segment_size="1GB")
    for _ in range(8):
        with database.connect() as session:
            emit_bulk(session, 1000)
        database.drain()
        wait_for(lambda: database.status()["backlog_bytes"] == 0, "an empty backlog")
    assert database.value("SELECT pg_total_relation_size('outbox.segment_1')") > 8 * MB
    # And beside them what does wait is weighed by itself.
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")
    stored, _ = fill(database)
    assert 1000 < len(stored) < 2 * MB / 1000


def test_deferred_messages_count_and_parked_ones_do_not(kafka, make_database, make_topic, unique):
    missing = unique("missing")
    database = limited(make_database, outbox__kafka_bootstrap_servers=kafka.bootstrap)
    with database.connect() as session:
        emit_bulk(session, 1500, missing)
    # All of them wait apart, and the log itself holds nothing that is not settled.
    wait_for(lambda: database.status()["deferred"] == 1500, "1500 deferred messages")
    status = wait_for(
        lambda: (s := database.status())["watermark"] >= 1500 and 1.4 * MB < s["backlog_bytes"] < 1.9 * MB and s,
        "the size of the deferred messages",
    )
    print(f"\n1500 messages deferred: {status['backlog_bytes']} bytes")
    assert refused(database, 700)
    # Much that is parked takes disk, and is nobody's hindrance: only an operator can remove it.
    database.sql(
        """
        INSERT INTO outbox.deferred (position, time, id, topic, key, payload, state, attempts, deferred_at, parked_at)
        SELECT -n, now(), gen_random_uuid(), 'parked', 'k', convert_to(repeat('z', 1000), 'UTF8'), 'parked', 1, now(), now()
        FROM generate_series(1, 8000) AS n
        """
    )
    assert database.status()["backlog_bytes"] < 1.9 * MB
    other = make_topic(kafka)
    database.emit(other, "k", "goes on")
    kafka.create_topic(missing)
    wait_for(lambda: database.status()["backlog_bytes"] == 0, "an empty backlog", timeout=60)
    with database.connect() as session:
        emit_bulk(session, 1500, other)
    database.drain()
    assert kafka.count(missing) == 1500 and kafka.count(other) == 1501
