"""What operators do: look at the status, wait, pause, resume, restore, clone, promote."""

import os
import signal
import threading
import time

import psycopg
import pytest

from support.cluster import PG_BIN, Database
from support.copies import standby_of
from support.files import read_messages
from support.ledger import check
from support.processes import alive, cpu_seconds, run
from support.waiting import Stopwatch, wait_for
from support.workload import emit_many, ledger


def values(path):
    return [message.value.decode() for message in read_messages(path)]


# -- status -------------------------------------------------------------------------------------------------


def test_status(broker, database, make_topic):
    topic = make_topic(broker)
    fresh = database.wait_for_state("running", "connecting")
    assert (fresh["backlog"], fresh["delivered"], fresh["deferred"], fresh["oldest"]) == (0, 0, 0, None)
    database.sql("SELECT count(outbox.emit(%s, n, 'p')) FROM generate_series(1, 250) AS n", topic)
    database.drain()
    status = database.wait_for_state("running")
    assert (status["backlog"], status["delivered"], status["oldest"]) == (0, 250, None)
    assert status["last_error"] is None and status["last_error_at"] is None
    assert status["relay_pid"] == database.relay_pid
    assert os.path.exists(f"/proc/{status['sink_pid']}")
    assert "kafka" in status["sink"].lower()
    wait_for(lambda: isinstance(database.status()["sink_statistics"], dict), "statistics of the sink")
    assert status["watermark"] >= 250
    assert status["active_segment"] in (1, 2, 3, 4)


def test_delivered_counts_across_restarts(own_server):
    path = own_server.directory / "m.jsonl"
    database = own_server.database("app", outbox__sink="file", outbox__file_path=path)
    for round_ in range(3):
        database.sql("SELECT count(outbox.emit('t', n, 'p')) FROM generate_series(1, 100) AS n")
        database.drain()
        assert database.status()["delivered"] == (round_ + 1) * 100
        own_server.restart()
        database.wait_for_relay()


def test_oldest_and_backlog(make_database):
    database = make_database(outbox__kafka_bootstrap_servers="127.0.0.1:1")
    database.emit("t", "k", "first")
    first = database.value("SELECT time FROM outbox.messages")
    database.sql("SELECT count(outbox.emit('t', n, 'p')) FROM generate_series(1, 99) AS n")
    status = wait_for(lambda: (s := database.status())["backlog"] == 100 and s, "a backlog of 100")
    assert status["oldest"] == first
    # The same while the relay is stopped.
    database.set(outbox__enabled="off")
    database.sql("SELECT pg_reload_conf()")
    status = database.wait_for_state("disabled")
    assert (status["backlog"], status["oldest"]) == (100, first)


def test_status_costs_the_same_with_a_large_backlog(make_database):
    database = make_database(outbox__kafka_bootstrap_servers="127.0.0.1:1")

    def cost():
        with database.connect() as session:
            session.execute("SELECT * FROM outbox.status")
            times = []
            for _ in range(20):
                watch = Stopwatch()
                session.execute("SELECT * FROM outbox.status").fetchall()
                times.append(watch.seconds)
        return sorted(times)[10]

    database.emit("t", "k", "p")
    few = cost()
    database.sql("SELECT count(outbox.emit('t', n, repeat('x', 100))) FROM generate_series(1, 400000) AS n")
    many = cost()
    print(f"\nstatus: {few * 1000:.2f} ms with one message waiting, {many * 1000:.2f} ms with 400,000")
    assert many < max(0.02, few * 5)
    assert database.status()["backlog"] >= 400000


# -- wait_for_delivery --------------------------------------------------------------------------------------


def test_wait_for_delivery(file_database):
    database = file_database
    assert database.value("SELECT outbox.wait_for_delivery()") is True
    assert database.value("SELECT outbox.wait_for_delivery('0')") is True
    database.emit("t", "k", "p")
    assert database.value("SELECT outbox.wait_for_delivery(NULL)") is True
    assert values(database.file) == ["p"]

    database.sql("SELECT outbox.pause()")
    database.emit("t", "k", "q")
    watch = Stopwatch()
    assert database.value("SELECT outbox.wait_for_delivery('300 ms')") is False
    assert 0.25 < watch.seconds < 3
    assert database.value("SELECT outbox.wait_for_delivery('0')") is False
    # It ends when the delivery happens, not when the time is over, and it can be cancelled.
    with database.connect() as waiting:
        outcome = []
        thread = threading.Thread(
            target=lambda: outcome.append(waiting.execute("SELECT outbox.wait_for_delivery('60 s')").fetchone()[0])
        )
        thread.start()
        database.sql("SELECT outbox.resume()")
        watch = Stopwatch()
        thread.join(20)
        assert outcome == [True] and watch.seconds < 10
    database.sql("SELECT outbox.pause()")
    database.emit("t", "k", "r")
    with database.connect() as waiting:
        waiting.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            waiting.execute("SELECT outbox.wait_for_delivery(NULL)")
    database.sql("SELECT outbox.resume()")
    database.drain()


def test_wait_for_delivery_concerns_what_was_committed_before(file_database):
    """Neither open transactions nor what is committed later hold it up."""
    database = file_database
    with database.connect(autocommit=False) as open_transaction:
        open_transaction.execute("CREATE TABLE has_an_xid ()")
        open_transaction.execute("SELECT outbox.emit('t', 'k', 'open')")
        database.emit("t", "k", "committed")
        watch = Stopwatch()
        assert database.value("SELECT outbox.wait_for_delivery('20 s')") is True
        assert watch.seconds < 5
    stop = threading.Event()

    def go_on():
        with database.connect() as session:
            while not stop.is_set():
                session.execute("SELECT outbox.emit('t', 'k', 'later')")

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        watch = Stopwatch()
        assert database.value("SELECT outbox.wait_for_delivery('20 s')") is True
        assert watch.seconds < 5
    finally:
        stop.set()
        thread.join()
    # Within the transaction that emitted: its own messages are not committed, so it does not wait for them.
    with database.connect(autocommit=False) as session:
        session.execute("SELECT outbox.emit('t', 'k', 'own')")
        assert session.execute("SELECT outbox.wait_for_delivery('20 s')").fetchone() == (True,)


def test_true_means_delivered(file_database):
    """Right after it returned true, the message is where it should be. Again and again."""
    for n in range(100):
        file_database.emit("t", "k", f"{n}")
        assert file_database.value("SELECT outbox.wait_for_delivery()") is True
        assert len(values(file_database.file)) == n + 1


# -- pause and resume ---------------------------------------------------------------------------------------


def test_pause_and_resume(file_database):
    database = file_database
    database.emit("t", "k", "1")
    database.drain()
    with database.transaction() as session:
        session.execute("SELECT outbox.pause()")
        # Not before the transaction that says so commits.
        database.emit("t", "k", "2")
        database.drain(5)
    status = database.wait_for_state("paused")
    for n in range(3, 6):
        database.emit("t", "k", f"{n}")
    assert not database.value("SELECT outbox.wait_for_delivery('300 ms')")
    wait_for(lambda: database.status()["backlog"] == 3, "a backlog of 3")
    database.sql("SELECT outbox.pause()")
    with database.connect(autocommit=False) as session:
        session.execute("SELECT outbox.resume()")
        session.rollback()
    assert database.wait_for_state("paused")["backlog"] == 3
    # Survives the relay.
    relay = status["relay_pid"]
    if relay:
        database.sql("SELECT pg_terminate_backend(%s)", relay)
    assert not database.value("SELECT outbox.wait_for_delivery('500 ms')")
    assert values(database.file) == ["1", "2"]
    database.sql("SELECT outbox.resume()")
    database.drain()
    assert values(database.file) == ["1", "2", "3", "4", "5"]
    database.wait_for_state("running")
    database.sql("SELECT outbox.resume()")


def test_pause_survives_a_restart(own_server):
    path = own_server.directory / "m.jsonl"
    database = own_server.database("app", outbox__sink="file", outbox__file_path=path)
    database.sql("SELECT outbox.pause()")
    database.emit("t", "k", "1")
    own_server.restart()
    database.wait_for_state("paused")
    assert not database.value("SELECT outbox.wait_for_delivery('300 ms')")
    assert values(path) == []
    database.sql("SELECT outbox.resume()")
    database.drain()
    assert values(path) == ["1"]


def test_pause_stops_a_backlog_in_the_middle(file_database):
    """What is in flight is acknowledged; nothing is sent twice after resume()."""
    database = file_database
    database.sql("SELECT outbox.pause()")
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 200000) AS n")
    database.sql("SELECT outbox.resume()")
    wait_for(lambda: database.status()["delivered"] > 1000, "deliveries", pause=0.001)
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")
    database.sql("SELECT outbox.resume()")
    database.drain()
    assert values(database.file) == [str(n) for n in range(1, 200001)]


def test_discard_backlog(file_database):
    database = file_database
    database.emit("t", "k", "kept")
    database.drain()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.sql("SELECT outbox.discard_backlog()")
    database.sql("SELECT outbox.pause()")
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 1000) AS n")
    database.wait_for_state("paused")
    with database.connect(autocommit=False) as session:
        assert session.execute("SELECT outbox.discard_backlog()").fetchone() == (1000,)
        session.rollback()
    assert database.value("SELECT outbox.discard_backlog()") == 1000
    assert database.value("SELECT outbox.discard_backlog()") == 0
    database.emit("t", "k", "after")
    database.sql("SELECT outbox.resume()")
    database.drain()
    assert values(database.file) == ["kept", "after"]
    assert database.status()["backlog"] == 0


# -- copies of a database -----------------------------------------------------------------------------------


def test_paused_means_that_nothing_is_on_its_way(file_database, options):
    """What is delivered while the relay comes to rest is not discarded as well."""
    options("delay.ms=150")
    for n in range(5):
        file_database.emit("t", "k", f"{n}")
    wait_for(lambda: read_messages(file_database.file), "the first message")
    file_database.sql("SELECT outbox.pause()")
    file_database.wait_for_state("paused")
    discarded = file_database.value("SELECT outbox.discard_backlog()")
    options("# quick")
    file_database.sql("SELECT outbox.resume()")
    file_database.drain()
    assert len(read_messages(file_database.file)) + discarded == 5


def test_restored_dump_stays_silent(kafka, make_cluster, make_topic):
    """Its messages are another server's until somebody says otherwise."""
    topic = make_topic(kafka, partitions=1)
    production = make_cluster()
    original = production.database("app", outbox__kafka_bootstrap_servers=kafka.bootstrap)
    original.emit(topic, "k", "delivered by production")
    original.drain()
    original.sql("SELECT outbox.pause()")
    original.wait_for_state("paused")
    original.sql("SELECT count(outbox.emit(%s, 'k', n::text)) FROM generate_series(1, 500) AS n", topic)
    dump = production.directory / "dump"
    run([PG_BIN / "pg_dump", "-Fc", "-h", production.directory, "-p", production.port, "-U", "postgres",
         "-f", dump, "app"])  # fmt: skip

    staging = make_cluster(fresh=True, outbox__kafka_bootstrap_servers=kafka.bootstrap)
    copies = []
    for name in ("one", "two"):
        staging.sql(f"CREATE DATABASE {name}")
        run([PG_BIN / "pg_restore", "--exit-on-error", "-h", staging.directory, "-p", staging.port, "-U", "postgres",
             "-d", name, dump])  # fmt: skip
        copies.append(Database(staging, name))
    one, two = copies
    for copy in copies:
        status = copy.wait_for_state("foreign")
        assert status["backlog"] == 500
        assert copy.value("SELECT count(*) FROM outbox.messages WHERE NOT settled") == 500
        # It takes messages of its own, and keeps them too.
        copy.emit(topic, "k", f"made in {copy.name}")
        assert not copy.value("SELECT outbox.wait_for_delivery('500 ms')")
    assert kafka.count(topic) == 1
    staging.restart()
    one.wait_for_state("foreign")
    two.wait_for_state("foreign")

    assert one.value("SELECT outbox.discard_backlog()") == 501
    one.sql("SELECT outbox.resume()")
    one.emit(topic, "k", "one lives")
    one.drain()
    assert [m.value for m in kafka.read(topic)] == [b"delivered by production", b"one lives"]
    two.sql("SELECT outbox.resume()")
    two.drain()
    arrived = [m.value.decode() for m in kafka.read(topic)]
    assert arrived[2:] == [str(n) for n in range(1, 501)] + ["made in two"]
    one.wait_for_state("running")


def test_dump_under_load_is_consistent(file_database, workload):
    """pg_dump neither fails nor stalls writers."""
    server = file_database.cluster
    load = workload(file_database, "t", sessions=3, rate=300)
    with load:
        wait_for(lambda: load.committed >= 50, "load")
        for _ in range(3):
            text = run([PG_BIN / "pg_dump", "-h", server.directory, "-p", server.port, "-U", "postgres",
                        file_database.name])  # fmt: skip
            assert "CREATE EXTENSION" in text and "COPY outbox.identity" in text
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 50, "load afterwards")
    assert not load.errors
    file_database.drain()
    check(load.sent(), read_messages(file_database.file))


@pytest.fixture
def standby(own_server, base_directory):
    standby = standby_of(own_server, base_directory / f"standby-{own_server.port}")
    yield standby
    standby.remove()


def test_promotion_of_a_standby(kafka, own_server, base_directory, make_topic, workload):
    """No relay and no emit() before; afterwards the backlog drains, with nobody's help."""
    topic = make_topic(kafka, partitions=3)
    primary = own_server
    database = primary.database("app", outbox__kafka_bootstrap_servers=kafka.bootstrap)
    database.emit(topic, "k0", "delivered before")
    database.drain()
    standby = standby_of(primary, base_directory / "standby")
    try:
        load = workload(database, topic, sessions=3, keys=6)
        with load:
            wait_for(lambda: load.committed >= 300, "load")
            load.stop()
        database.drain()
        # A backlog that the primary does not deliver any more.
        sink = database.wait_for_sink()
        os.kill(sink, signal.SIGSTOP)
        emit_many(database, topic, 4, 1, 200)
        wait_for(
            lambda: primary.sql("SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication") == [(True,)],
            "the standby to catch up",
        )

        copy = Database(standby, "app")
        with copy.connect() as session:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as refusal:
                session.execute("SELECT outbox.emit('t', 'k', 'p')")
            assert "standby" in str(refusal.value)
            assert session.execute("SELECT count(*) FROM outbox.messages").fetchone()[0] > 0
            assert session.execute("SELECT state FROM outbox.status").fetchone() == ("stopped",)
        assert standby.workers("launcher") == {} and standby.workers("relay") == {}

        primary.stop("immediate")
        wait_for(lambda: not alive(sink), "the end of the primary's sink")
        delivered = kafka.count(topic)
        standby.sql("SELECT pg_promote()")
        copy.wait_for_relay()
        copy.drain()
        assert kafka.count(topic) >= delivered + 200
        check(
            ledger(copy),
            [m for m in kafka.read(topic) if m.value != b"delivered before"],
            duplicates_allowed=True,
        )
        copy.emit(topic, "k0", "after the promotion")
        copy.drain()
    finally:
        standby.remove()


def test_standby_follows_without_noise(own_server, standby):
    """Rotation, TRUNCATE and progress replay; a reader of the standby's status is not disturbed."""
    path = own_server.directory / "m.jsonl"
    database = own_server.database(
        "app", outbox__sink="file", outbox__file_path=path, outbox__segment_size="64kB", outbox__retention="0"
    )
    for _ in range(20):
        database.sql("SELECT count(outbox.emit('t', n, repeat('x', 500))) FROM generate_series(1, 200) AS n")
        database.drain()
    wait_for(
        lambda: own_server.sql("SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication") == [(True,)],
        "the standby to catch up",
    )
    copy = Database(standby, "app")
    wait_for(
        lambda: copy.value("SELECT count(*) FROM outbox.messages WHERE NOT settled") == 0,
        "the standby to see what is settled",
    )
    assert standby.workers("relay") == {}


def test_logical_replication_is_not_republished(make_cluster):
    """A publication FOR ALL TABLES takes our tables along; the subscriber sends none of it."""
    publisher = make_cluster(wal_level="logical")
    subscriber = make_cluster(fresh=True)
    paths = [server.directory / "m.jsonl" for server in (publisher, subscriber)]
    origin, copy = (
        server.database("app", outbox__sink="file", outbox__file_path=path)
        for server, path in zip((publisher, subscriber), paths)
    )
    for database in (origin, copy):
        database.sql("CREATE TABLE orders (id int PRIMARY KEY)")
        database.sql("CREATE ROLE app")
    origin.sql("SELECT outbox.grant_emit('app', 'before')")
    origin.sql("CREATE PUBLICATION everything FOR ALL TABLES")
    copy.sql(
        f"CREATE SUBSCRIPTION everything CONNECTION 'host={publisher.directory} port={publisher.port} "
        "dbname=app user=postgres' PUBLICATION everything"
    )
    try:
        origin.sql("SELECT outbox.grant_emit('app', 'after')")
        origin.sql("SELECT outbox.revoke_emit('app', 'before')")
        for n in range(1, 21):
            with origin.transaction() as session:
                session.execute("INSERT INTO orders VALUES (%s)", (n,))
                session.execute("SELECT outbox.emit('t', 'k', %s)", (f"{n}",))
        origin.drain()
        wait_for(lambda: copy.value("SELECT count(*) FROM orders") == 20, "the replicated rows")
        copy.emit("t", "k", "the subscriber's own")
        copy.drain()
        assert values(paths[0]) == [str(n) for n in range(1, 21)]
        assert values(paths[1]) == ["the subscriber's own"]
        assert copy.sql("SELECT * FROM outbox.emit_grant") == []
    finally:
        copy.sql("DROP SUBSCRIPTION everything")


def test_row_written_by_hand_is_not_sent(file_database):
    """An INSERT into a segment by a superuser is not a message of emit(): the relay says so and waits."""
    database = file_database
    database.emit("t", "k", "1")
    database.drain()
    database.sql(
        "INSERT INTO outbox.segment_1 (position, time, id, topic, payload) "
        "VALUES (nextval('outbox.message_position'), now(), gen_random_uuid(), 't', 'by hand')"
    )
    database.emit("t", "k", "2")
    database.wait_for_state("foreign")
    assert values(database.file) == ["1"]


# -- settings that a database may have ----------------------------------------------------------------------


def test_hostile_database_settings(file_database, workload):
    """What ALTER DATABASE gives every session of a database, the relay's too, does not stop the relay."""
    for name, value in {
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "search_path": "nowhere",
        "statement_timeout": "1ms",
        "lock_timeout": "1ms",
        "idle_in_transaction_session_timeout": "1ms",
        "row_security": "off",
        "enable_indexscan": "off",
        "enable_bitmapscan": "off",
        "client_encoding": "SQL_ASCII",
        "bytea_output": "escape",
        "datestyle": "German",
        "intervalstyle": "sql_standard",
        "timezone": "Pacific/Apia",
        "work_mem": "64kB",
        "temp_file_limit": "0",
        "synchronous_commit": "off",
        "default_table_access_method": "heap",
        "client_min_messages": "debug5",
    }.items():
        file_database.set(**{name: value})
    relay = file_database.wait_for_relay()
    # From another database: a session of this one has a millisecond for it.
    file_database.cluster.sql("SELECT pg_terminate_backend(%s)", relay)
    file_database.wait_for_relay(other_than=relay)
    sane = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 -c client_encoding=UTF8"
    with file_database.connect(options=sane) as session:
        for n in range(50):
            session.execute("SELECT outbox.emit('t', 'k', %s)", (f"Grüße {n}",))
        assert session.execute("SELECT outbox.wait_for_delivery()").fetchone() == (True,)
        assert values(file_database.file) == [f"Grüße {n}" for n in range(50)]
        assert session.execute("SELECT state, backlog FROM outbox.status").fetchone() == ("running", 0)


def test_small_windows(make_database, server, unique):
    """One message in flight at a time, and messages larger than the window for bytes: slower, and right."""
    path = server.directory / f"{unique('messages')}.jsonl"
    database = make_database(
        outbox__sink="file",
        outbox__file_path=path,
        outbox__max_in_flight_messages="1",
        outbox__max_in_flight_bytes="64kB",
    )
    sizes = [10, 300000, 10, 65536, 65000, 1000000, 0, 10]
    with database.transaction() as session:
        for size in sizes:
            session.execute("SELECT outbox.emit('t', 'k', repeat('x', %s))", (size,))
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 2000) AS n")
    database.drain()
    assert [len(value) for value in values(path)[: len(sizes)]] == sizes
    assert values(path)[len(sizes) :] == [str(n) for n in range(1, 2001)]


def test_odd_database_names(server, make_database, unique):
    for number, name in enumerate(["with space and 'quote'", "Größe%s%d", "-c", "a" * 63]):
        path = server.directory / f"{unique(f'm{number}')}.jsonl"
        database = server.database(name, outbox__sink="file", outbox__file_path=path)
        try:
            database.emit("t", "k", name)
            database.drain()
            assert values(path) == [name]
        finally:
            database.drop()


# -- starting and stopping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_stop_is_quick_without_a_broker(make_cluster, mode):
    server = make_cluster(outbox__kafka_bootstrap_servers="192.0.2.1:9092,no-such-host.invalid:9092")
    database = server.database("app")
    database.sql("SELECT count(outbox.emit('t', n, repeat('x', 100))) FROM generate_series(1, 20000) AS n")
    database.wait_for_state("connecting")
    watch = Stopwatch()
    server.stop(mode)
    print(f"\n{mode}: {watch.seconds:.2f} s")
    assert watch.seconds < (2 if mode == "immediate" else 10)


def test_idle_costs_nothing(own_server, embedded_broker):
    """No polling: neither relay nor launcher uses time or writes WAL while nothing happens."""
    database = own_server.database("app", outbox__kafka_bootstrap_servers=embedded_broker.bootstrap)
    database.emit("idle", "k", "p")
    database.drain()
    relay, launcher = database.wait_for_relay(), own_server.launcher_pid
    wait_for(lambda: database.status()["backlog"] == 0, "an empty backlog")
    own_server.sql("CHECKPOINT")
    before = [cpu_seconds(pid) for pid in (relay, launcher)]
    position = own_server.sql("SELECT pg_current_wal_insert_lsn()")[0][0]
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 3, "three idle seconds", pause=0.5)
    used = [cpu_seconds(pid) - b for pid, b in zip((relay, launcher), before)]
    written = own_server.sql("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", position)[0][0]
    print(f"\nin 3 s: relay {used[0]} s, launcher {used[1]} s of CPU, {written} bytes of WAL")
    assert max(used) <= 0.02
    assert written < 1000


def test_sink_is_resumed_after_a_long_stop_of_the_relay(file_database):
    """SIGSTOP of the relay for longer than its pace: wait_for_delivery waits, the backlog drains."""
    relay = file_database.wait_for_relay()
    os.kill(relay, signal.SIGSTOP)
    try:
        file_database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 1000) AS n")
        assert not file_database.value("SELECT outbox.wait_for_delivery('300 ms')")
    finally:
        os.kill(relay, signal.SIGCONT)
    file_database.drain()
    assert values(file_database.file) == [str(n) for n in range(1, 1001)]
