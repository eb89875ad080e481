"""Single moments at which a promise is kept or broken, each brought about on purpose.

Most of them end with the judge (support/ledger.py). test/mutants holds the patches that these tests must notice.
"""

import os
import signal
import threading

import pytest

from support.cluster import CANARY
from support.files import read_messages
from support.ledger import Received, check
from support.processes import give_to_server_user, sleeps
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger, payload_of

# Messages of one key, numbered from the first to the last.
INSERT_HELD = f"""
    INSERT INTO ledger SELECT outbox.emit('t', 'held', concat('{CANARY} held:', n)), 't', 'held', n
    FROM generate_series(%s::int, %s::int) AS n
"""
# One message of an only key.
INSERT_ONE = f"INSERT INTO ledger VALUES (outbox.emit('t', 'p', '{CANARY} p:1'), 't', 'p', 1)"


@pytest.fixture
def database(file_database):
    """Its messages go to a file; its ledger is empty."""
    file_database.sql(SCHEMA)
    return file_database


def settings(database, **values):
    database.set(**values)
    database.sql("SELECT pg_reload_conf()")


def arrived(database):
    return read_messages(database.file)


def lines(database):
    return database.file.read_bytes().count(b"\n") if database.file.exists() else 0


def wait_for_arrivals(database, count):
    wait_for(lambda: len(arrived(database)) >= count, f"{count} messages")


def kill_sink(database):
    pid = database.wait_for_sink()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: database.sink_pid != pid, "the end of the sink")


def end_relay(database):
    pid = database.wait_for_relay()
    database.sql("SELECT pg_terminate_backend(%s)", pid)
    database.wait_for_relay(other_than=pid)


def passes_over_the_log(database, count):
    """The relay looks at the log at least `count` times more, and has settled all that it can."""
    for _ in range(count):
        database.emit("passes", "k", "p")
        database.drain()


def compare(database, received, **options):
    """Waits until everything is settled, and compares; what is wrong says more than that it takes too long."""
    settled = database.value("SELECT outbox.wait_for_delivery('15 s')")
    check(ledger(database), received(), **options)
    assert settled, f"not settled: {database.status()}"


def drain_and_check(database, **options):
    compare(database, lambda: [m for m in arrived(database) if m.topic == "t"], **options)


# -- positions without a row --------------------------------------------------------------------------------


@pytest.fixture
def held_writer(database):
    """A transaction in the middle of its commit: it has its positions, but an index lacks most of its rows."""
    database.sql(
        """
        CREATE FUNCTION wait_here(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
        BEGIN
            IF current_setting('test.wait', true) = 'on' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
            RETURN $1;
        END $$
        """
    )
    # Evaluated for each row after its entry in the index on position was made, and before that of the next row.
    database.sql("CREATE INDEX held ON outbox.segment_1 (wait_here(position))")
    holder, writer = database.connect(), database.connect()
    holder.execute("SELECT pg_advisory_lock(7)")
    writer.execute("SET test.wait = on")
    thread = threading.Thread(target=writer.execute, args=(INSERT_HELD, (1, 3)))
    thread.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s"
    wait_for(lambda: database.value(waiting, writer.info.backend_pid), "the writer to wait")

    def release():
        holder.execute("SELECT pg_advisory_unlock(7)")
        thread.join(30)
        assert not thread.is_alive()

    yield release
    holder.close()
    thread.join(30)
    writer.close()


@pytest.mark.parametrize("meanwhile", [None, end_relay, kill_sink])
def test_positions_whose_rows_come_late(database, held_writer, meanwhile):
    """Others go on meanwhile, and however often the relay looks, it does not take the positions for dead."""
    emit_many(database, "t", 3, 1, 30)
    passes_over_the_log(database, 5)
    if meanwhile:
        meanwhile(database)
        passes_over_the_log(database, 5)
    assert len([m for m in arrived(database) if m.topic == "t"]) == 30
    held_writer()
    drain_and_check(database)


@pytest.mark.parametrize("meanwhile", [None, end_relay])
def test_prepared_transaction_and_a_restart(database, meanwhile):
    """What was passed over is written down, so that the next relay looks at it again."""
    with database.connect(autocommit=False) as session:
        session.execute(INSERT_ONE)
        session.execute("PREPARE TRANSACTION 'moment'")
    emit_many(database, "t", 3, 1, 30)
    passes_over_the_log(database, 3)
    if meanwhile:
        meanwhile(database)
        passes_over_the_log(database, 3)
    database.sql("COMMIT PREPARED 'moment'")
    drain_and_check(database)


@pytest.mark.parametrize("outcome, backlog", [("COMMIT", 5), ("ROLLBACK", 2)])
@pytest.mark.parametrize("window", [100, 2])
def test_status_counts_what_was_committed_since_the_relay_looked(database, options, window, outcome, backlog):
    """Also while the relay does not look: it keeps its distance, its window is full, or it hangs."""
    settings(database, outbox__max_in_flight_messages=window)
    options("delay.ms=60000")
    database.emit("t", "k", "first")
    wait_for(lambda: database.status()["watermark"] == 1, "the relay to read the first message")
    with database.connect(autocommit=False) as session:
        session.execute("SELECT outbox.emit('t', 'held', concat('p', n)) FROM generate_series(1, 3) AS n")
        session.execute("PREPARE TRANSACTION 'not looked at again'")
    database.emit("t", "k", "last")
    wait_for(lambda: database.status()["watermark"] == 5, "the relay to pass by")
    assert database.status()["backlog"] == 2
    relay = database.wait_for_relay()
    os.kill(relay, signal.SIGSTOP)
    try:
        database.sql(f"{outcome} PREPARED 'not looked at again'")
        assert database.status()["backlog"] == backlog
    finally:
        os.kill(relay, signal.SIGCONT)
    options("# quick")
    kill_sink(database)
    database.drain()
    assert database.status()["backlog"] == 0


def test_writer_that_waits_for_its_segment(database):
    """It has looked which one is active, and owns no position before it has the lock: nobody would know."""
    settings(database, outbox__segment_size="64kB")
    emit_many(database, "t", 1, 1, 1)
    database.drain()
    blocker, writer = database.connect(autocommit=False), database.connect()
    blocker.execute("LOCK TABLE outbox.segment_1 IN SHARE MODE")
    thread = threading.Thread(target=writer.execute, args=(INSERT_ONE,))
    thread.start()
    try:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        wait_for(lambda: database.value(waiting, writer.info.backend_pid), "the writer to wait")
        settings(database, outbox__segment_max_age="1s")
        wait_for(lambda: database.status()["active_segment"] != 1, "the next segment")
        passes_over_the_log(database, 5)
    finally:
        blocker.close()
        thread.join(30)
    drain_and_check(database)


def test_sessions_that_take_turns(database):
    """Each transaction sees the one before. Positions follow, whoever has taken some before."""
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")
    with database.connect() as one, database.connect() as two:
        for n in range(1, 21):
            (one if n % 3 else two).execute(
                "INSERT INTO ledger VALUES (outbox.emit('t', 'k', %s), 't', 'k', %s)", (payload_of("k", n), n)
            )
    database.sql("SELECT outbox.resume()")
    drain_and_check(database)


def test_commit_wakes_an_idle_relay(database):
    """Nothing else does: there is no polling that would find the message sooner or later."""
    for n in range(1, 6):
        emit_many(database, "t", 1, n, n)
        wait_for(lambda wanted=n: len(arrived(database)) == wanted, f"message {n}", timeout=5)
    drain_and_check(database)


def test_no_wake_up_is_lost_while_a_topic_catches_up(database, options):
    """The relay does not wait between its turns then; what is committed meanwhile is seen all the same."""
    options("refuse.topic=t")
    emit_many(database, "t", 3, 1, 5000)
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.deferred") == 5000, "deferred messages")
    options("# takes everything")

    def others():
        return database.file.read_bytes().count(b'"other"') if database.file.exists() else 0

    with database.connect() as session:
        emitted = 0
        while lines(database) < 5000 + emitted:
            session.execute("SELECT outbox.emit('other', 'k', 'p')")
            emitted += 1
            wait_for(lambda wanted=emitted: others() == wanted, f"message {emitted}", timeout=5, pause=0.001)
    drain_and_check(database)


# -- pace ---------------------------------------------------------------------------------------------------


def test_transactions_close_together_are_read_many_at_once(database):
    """One message in each of many transactions does not mean that the relay wakes up for each, or each millisecond."""
    database.emit("t", "k", "p")
    database.drain()
    relay = database.wait_for_relay()
    count = 20_000
    before, watch = sleeps(relay), Stopwatch()
    database.sql(f"""
        DO $$ BEGIN
            SET LOCAL synchronous_commit = off;
            FOR n IN 1..{count} LOOP
                PERFORM outbox.emit('t', 'k', n::text);
                COMMIT;
            END LOOP;
        END $$
    """)
    milliseconds, slept = watch.seconds * 1000, sleeps(relay) - before
    rate = min(count / milliseconds, 10)
    print(f"\n{count / milliseconds:.1f} transactions a millisecond; the relay slept {slept / milliseconds:.2f} times in one")
    database.drain()
    assert [message.value for message in arrived(database)] == [b"p"] + [b"%d" % n for n in range(1, count + 1)]
    # A pass sleeps twice or so; a machine that is too slow for a load proves nothing.
    assert slept < 3 * milliseconds / rate + 20


# -- messages in flight -------------------------------------------------------------------------------------


def test_sink_is_killed_with_messages_in_flight(database, options):
    """What it had goes again, before what comes behind it, with the same id and the same bytes."""
    settings(database, outbox__max_in_flight_messages=50)
    options("delay.ms=20")
    emit_many(database, "t", 3, 1, 150)
    wait_for_arrivals(database, 5)
    options("# quick")
    kill_sink(database)
    drain_and_check(database, duplicates_allowed=True)


def test_window_is_kept(database, options):
    """The relay reads no further ahead than the sink may have messages: memory is bounded, and so are duplicates."""
    settings(database, outbox__max_in_flight_messages=5)
    options("delay.ms=20")
    emit_many(database, "t", 3, 1, 60)
    for enough in (5, 20, 40):
        wait_for_arrivals(database, enough)
        status = database.status()
        assert status["watermark"] - status["delivered"] <= 5 + 1
    drain_and_check(database)


def test_wait_for_delivery_waits_for_a_slow_sink(database, options):
    """What is read and sent is not delivered yet."""
    options("delay.ms=200")
    for n in range(1, 4):
        emit_many(database, "t", 1, n, n)
        assert database.value("SELECT outbox.wait_for_delivery()")
        assert lines(database) == n
    drain_and_check(database)


def test_server_crash_with_messages_in_flight(make_cluster):
    """The progress that is on disk calls nothing settled that was only sent."""
    server = make_cluster()
    properties = server.directory / "sink.properties"
    properties.write_text("delay.ms=200\n")
    properties.chmod(0o600)
    give_to_server_user(properties)
    database = server.database("app", outbox__sink="file", outbox__file_path=server.directory / "messages.jsonl",
                               outbox__file_config_file=properties)  # fmt: skip
    database.file = server.directory / "messages.jsonl"
    database.sql(SCHEMA)
    emit_many(database, "t", 3, 1, 100)
    wait_for_arrivals(database, 3)
    read_up_to = "SELECT max(watermark) FROM (TABLE outbox.progress_1 UNION ALL TABLE outbox.progress_2) AS p"
    wait_for(lambda: (database.value(read_up_to) or 0) >= 100, "progress to be written")
    # Any commit that waits for the disk takes that row along.
    database.sql("CREATE TABLE flushed ()")
    server.stop("immediate")
    assert len(arrived(database)) < 100
    properties.write_text("# quick\n")
    server.start()
    drain_and_check(database, duplicates_allowed=True)


def test_relay_is_stopped_with_messages_in_flight(database, options):
    """A clean stop hears all answers, those of before and those of after it, and writes them down."""
    settings(database, outbox__stop_timeout="60s")
    options("delay.ms=20")
    emit_many(database, "t", 3, 1, 100)
    for enough in (20, 60):
        wait_for_arrivals(database, 1)
        relay = database.wait_for_relay()
        os.kill(relay, signal.SIGSTOP)
        try:
            # Their answers wait in the socket when the relay is told to stop.
            wait_for_arrivals(database, enough)
            database.sql("SELECT pg_terminate_backend(%s)", relay)
        finally:
            os.kill(relay, signal.SIGCONT)
        database.wait_for_relay(other_than=relay)
    options("# quick")
    emit_many(database, "t", 3, 101, 120)
    drain_and_check(database)


# -- topics in trouble --------------------------------------------------------------------------------------


def test_sink_is_killed_while_it_gets_what_was_deferred(database, options):
    """A deferred message is there until it was delivered."""
    options("refuse.topic=t")
    emit_many(database, "t", 3, 1, 60)
    database.wait_for_state("waiting")
    options("delay.ms=20")
    wait_for_arrivals(database, 5)
    options("# quick")
    kill_sink(database)
    drain_and_check(database, duplicates_allowed=True)
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.deferred") == 0, "the removal of their rows")


def test_deferred_messages_stay_behind_those_that_come_back(database, options):
    """The sink dies with messages of a closed topic; what was deferred since waits until they were looked at."""
    options("delay.ms=300", "refuse.message.containing=held:6")
    database.emit("before", "k", "the relay is at work")
    database.drain()
    # More than one pass over the log hands out stands before them.
    database.sql("SELECT count(outbox.emit('before', 'k', repeat('x', 100000))) FROM generate_series(1, 30)")
    database.sql(INSERT_HELD, 1, 6)
    wait_for(lambda: database.status()["last_error"], "the refusal")
    database.sql(INSERT_HELD, 7, 9)
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.deferred") >= 3, "deferred messages")
    options("# healed")
    kill_sink(database)
    drain_and_check(database, duplicates_allowed=True)


def test_new_messages_stay_behind_those_that_are_deferred(database, options):
    """Also while their topic catches up, and takes messages again."""
    settings(database, outbox__max_in_flight_messages=4)
    options("refuse.topic=t")
    emit_many(database, "t", 3, 1, 40)
    database.wait_for_state("waiting")
    options("delay.ms=20")
    for first in range(41, 61, 5):
        wait_for_arrivals(database, (first - 36) // 2)
        emit_many(database, "t", 3, first, first + 4)
    drain_and_check(database)


def test_what_follows_a_refused_message_in_its_batch(database, options):
    """It is on its way already when the refusal comes; of the same key nothing of it arrives, of others all."""
    options("refuse.message.containing=held:6")
    database.sql(
        """
        SELECT count(outbox.emit('t', key, key || ':' || n))
        FROM generate_series(1, 20) AS n, unnest(ARRAY['held', 'free']) AS key
        """
    )
    database.drain()
    values = [m.value.decode() for m in arrived(database)]
    assert [v for v in values if v.startswith("held")] == [f"held:{n}" for n in range(1, 6)]
    assert [v for v in values if v.startswith("free")] == [f"free:{n}" for n in range(1, 21)]


def test_retry_and_emit_in_one_transaction(database, options):
    """What is emitted together with the retry comes behind what is retried."""
    options("refuse.message.containing=held:2")
    database.sql(INSERT_HELD, 1, 4)
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.parked") == 3, "parked messages")
    end_relay(database)
    options("# takes everything")
    with database.transaction() as session:
        session.execute("SELECT outbox.retry()")
        session.execute(INSERT_HELD, (5, 6))
    drain_and_check(database)


def test_key_stays_parked_when_the_relay_was_replaced(database, options):
    options("refuse.message.containing=held:2")
    database.sql(INSERT_HELD, 1, 4)
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.parked") == 3, "parked messages")
    end_relay(database)
    database.sql(INSERT_HELD, 5, 6)
    database.drain()
    assert database.value("SELECT count(*) FROM outbox.parked") == 5
    options("# takes everything")
    database.sql("SELECT outbox.retry()")
    drain_and_check(database)


def test_message_that_is_deferred_behind_what_has_gone(database, options):
    """An old transaction ends while its topic catches up: its message, with a low position, goes too."""
    settings(database, outbox__max_in_flight_messages=4)
    options("refuse.topic=t")
    with database.connect(autocommit=False) as session:
        session.execute(INSERT_ONE)
        session.execute("PREPARE TRANSACTION 'old'")
    emit_many(database, "t", 3, 1, 60)
    database.wait_for_state("waiting")
    options("delay.ms=30")
    wait_for_arrivals(database, 5)
    database.sql("COMMIT PREPARED 'old'")
    wait_for(lambda: any(m.key == b"p" for m in arrived(database)), "the old transaction's message", timeout=15)
    drain_and_check(database)


def test_relay_gives_up_waiting_for_an_operators_lock(database, options):
    """It would not hear anything meanwhile, not even that it is to stop; it begins anew, as often as it takes."""
    options("refuse.topic=t")
    database.emit("passes", "k", "p")
    database.drain()
    relay = database.relay_pid
    with database.connect(autocommit=False) as operator:
        operator.execute("LOCK TABLE outbox.deferred IN ACCESS EXCLUSIVE MODE")
        emit_many(database, "t", 3, 1, 10)
        database.wait_for_relay(other_than=relay)
        database.sql("SELECT pg_cancel_backend(%s)", database.wait_for_relay())
    options("# takes everything")
    drain_and_check(database, duplicates_allowed=True)


def test_sink_that_cannot_start_is_not_tried_all_the_time(database):
    """The pauses between attempts grow."""
    settings(database, outbox__sink="nobody-wrote-it")
    database.wait_for_state("failed")
    seen = set()

    def three_seconds_of_attempts():
        seen.add(database.status()["last_error_at"])
        return (max(seen) - min(seen)).total_seconds() > 3

    wait_for(three_seconds_of_attempts, "attempts over three seconds")
    assert len(seen) <= 8, "attempts without a pause"


# -- segments that are emptied ------------------------------------------------------------------------------


def emit_large(database, first, last):
    """In one transaction, about a kilobyte each."""
    database.sql(
        """
        INSERT INTO ledger
        SELECT outbox.emit('t', key, concat(%s::text, ' ', key, ':', n), json), 't', key, n
        FROM (SELECT concat('large ', mod(n, 3)) AS key, n, jsonb_build_object('pad', repeat('x', 1000)) AS json
              FROM generate_series(%s::bigint, %s::bigint) AS n) AS s
        """,
        CANARY,
        first,
        last,
    )


def drain_and_check_large(database, **options):
    """The ledger does not tell of the header that makes the messages large."""

    def without_pad():
        own = [m for m in arrived(database) if m.topic == "t"]
        assert all(m.own_headers == (("pad", b"x" * 1000),) for m in own)
        return [Received(m.topic, m.partition, m.offset, m.key, m.value, m.headers[:1]) for m in own]

    compare(database, without_pad, **options)


@pytest.fixture
def small_segments(database):
    settings(database, outbox__segment_size="64kB", outbox__retention="0", outbox__stop_timeout="100ms")
    return database


def test_segment_with_messages_in_flight_is_kept(small_segments, options):
    database = small_segments
    options("delay.ms=50")
    emit_large(database, 1, 100)
    wait_for(lambda: database.status()["active_segment"] != 1, "the next segment")
    # The relay has had a second look at the first one.
    wait_for_arrivals(database, 10)
    options("# quick")
    kill_sink(database)
    drain_and_check_large(database, duplicates_allowed=True)


def test_relay_does_not_wait_for_the_lock_on_a_segment(small_segments):
    """Somebody reads a segment for long: the relay tries again later, and goes on meanwhile."""
    database = small_segments
    emit_large(database, 1, 1)
    database.drain()
    relay = database.relay_pid
    with database.connect(autocommit=False) as reader:
        reader.execute("LOCK TABLE outbox.segment_1 IN ACCESS SHARE MODE")
        emit_large(database, 2, 100)
        wait_for(lambda: database.status()["active_segment"] != 1, "the relay to go on", timeout=10)
        passes_over_the_log(database, 5)
        assert database.relay_pid == relay, "the relay went on"
    drain_and_check_large(database)


def test_segment_with_messages_that_came_back_is_kept(small_segments, options):
    """No sink starts: they are neither settled nor in flight, and the relay has read far beyond them."""
    database = small_segments
    settings(database, outbox__segment_size="10MB")
    options("delay.ms=500")
    emit_large(database, 1, 100)
    wait_for_arrivals(database, 1)
    settings(database, outbox__sink="nobody-wrote-it", outbox__segment_size="64kB")
    database.wait_for_state("failed")
    wait_for(lambda: database.status()["active_segment"] != 1, "the next segment")
    options("# quick")
    settings(database, outbox__sink="file")
    drain_and_check_large(database, duplicates_allowed=True)


def test_backlog_across_the_end_of_the_ring(small_segments, options):
    """The fourth segment's messages are older than the first one's."""
    database = small_segments
    settings(database, outbox__max_in_flight_messages=1)
    options("# quick")
    first = 1
    while (active := database.status()["active_segment"]) != 4:
        emit_large(database, first, first + 99)
        first += 100
        database.drain()
        wait_for(lambda seen=active: database.status()["active_segment"] != seen, "the next segment")
    options("delay.ms=20")
    emit_large(database, first, first + 99)
    wait_for(lambda: database.status()["active_segment"] == 1, "the first segment")
    emit_large(database, first + 100, first + 130)
    assert database.value("SELECT count(*) FROM outbox.segment_4") == 100
    assert database.value("SELECT count(*) FROM outbox.segment_1") == 31
    options("# quick")
    drain_and_check_large(database)
