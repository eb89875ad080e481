"""A message arrives if, and only if, its transaction commits."""

import threading

import psycopg
import pytest

from support.ledger import Sent, check
from support.processes import peak_memory, private_memory, reset_peak_memory, shared_memory
from support.waiting import Stopwatch, wait_for
from support.workload import ledger, payload_of


def texts(messages):
    return [message.value.decode() for message in messages]


def test_rollback(broker, database, make_topic):
    topic = make_topic(broker, partitions=1)
    with database.connect(autocommit=False) as session:
        session.execute("SELECT outbox.emit(%s, 'k', 'rolled back')", (topic,))
        session.rollback()
        session.execute("SELECT outbox.emit(%s, 'k', 'failed')", (topic,))
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute("SELECT 1 / 0")
        session.rollback()
        session.execute("SELECT outbox.emit(%s, 'k', 'committed')", (topic,))
        session.commit()
        session.execute("SELECT outbox.emit(%s, 'k', 'session ends')", (topic,))
    # A session that goes away with its transaction open.
    lost = database.connect(autocommit=False)
    lost.execute("SELECT outbox.emit(%s, 'k', 'abandoned')", (topic,))
    lost.close()
    database.drain()
    assert texts(broker.read(topic)) == ["committed", "session ends"]


def test_savepoints_and_exception_blocks(broker, database, make_topic):
    topic = make_topic(broker, partitions=1)
    database.sql(
        """
        CREATE PROCEDURE say(topic text, what text) LANGUAGE plpgsql AS $$
        BEGIN PERFORM outbox.emit(topic, 'k', what); END $$
        """
    )
    with database.transaction() as session:
        session.execute("CALL say(%s, '1')", (topic,))
        session.execute("SAVEPOINT a")
        session.execute("CALL say(%s, 'undone')", (topic,))
        session.execute("ROLLBACK TO a")
        session.execute("CALL say(%s, '2')", (topic,))
        session.execute("SAVEPOINT b")
        session.execute("CALL say(%s, '3')", (topic,))
        session.execute("RELEASE b")
        session.execute(
            f"""
            DO $$
            BEGIN
                CALL say('{topic}', '4');
                BEGIN
                    CALL say('{topic}', 'undone');
                    RAISE EXCEPTION 'undo';
                EXCEPTION WHEN raise_exception THEN
                    CALL say('{topic}', '5');
                END;
                FOR n IN 1 .. 200 LOOP
                    BEGIN
                        CALL say('{topic}', (n + 5)::text);
                        IF n % 2 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
                    EXCEPTION WHEN raise_exception THEN NULL;
                    END;
                END LOOP;
            END $$
            """
        )
    database.drain()
    assert texts(broker.read(topic)) == ["1", "2", "3", "4", "5"] + [str(n + 5) for n in range(1, 201, 2)]


def test_triggers_and_deferred_triggers(broker, database, make_topic):
    topic = make_topic(broker, partitions=1)
    database.sql(
        f"""
        CREATE TABLE line (id int);
        CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM outbox.emit('{topic}', 'k', TG_NAME || ' ' || NEW.id); RETURN NULL; END $$;
        CREATE TRIGGER at_once AFTER INSERT ON line FOR EACH ROW EXECUTE FUNCTION say();
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON line DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION say();
        """
    )
    with database.transaction() as session:
        session.execute("INSERT INTO line VALUES (1), (2)")
    database.drain()
    assert texts(broker.read(topic)) == ["at_once 1", "at_once 2", "at_commit 1", "at_commit 2"]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_prepared_transactions_across_a_restart(kafka, own_server, make_topic, mode):
    """Committed, rolled back, and left prepared while the server restarts; sent when it is committed at last."""
    topic = make_topic(kafka, partitions=1)
    database = own_server.database("app", outbox__kafka_bootstrap_servers=kafka.bootstrap)
    for name in ("committed before", "rolled back before", "committed after", "rolled back after", "later still"):
        with database.connect(autocommit=False) as session:
            session.execute("SELECT outbox.emit(%s, 'k', %s)", (topic, name))
            session.execute("SAVEPOINT s")
            session.execute("SELECT outbox.emit(%s, 'k', 'undone')", (topic,))
            session.execute("ROLLBACK TO s")
            session.execute(f"PREPARE TRANSACTION '{name}'")
    database.emit(topic, "k", "not prepared")
    database.drain()
    database.sql("COMMIT PREPARED 'committed before'")
    database.sql("ROLLBACK PREPARED 'rolled back before'")
    database.drain()
    assert texts(kafka.read(topic)) == ["not prepared", "committed before"]

    own_server.restart(mode)
    database.emit(topic, "k", "after the restart")
    database.drain()
    database.sql("COMMIT PREPARED 'committed after'")
    database.sql("ROLLBACK PREPARED 'rolled back after'")
    database.drain()
    wait_for(lambda: kafka.count(topic) >= 4, "the message of the prepared transaction")
    arrived = texts(kafka.read(topic))
    if mode == "fast":
        assert arrived == ["not prepared", "committed before", "after the restart", "committed after"]
    else:
        # What the crash kept from being written down as delivered may come again.
        assert list(dict.fromkeys(arrived)) == [
            "not prepared", "committed before", "after the restart", "committed after",
        ]  # fmt: skip
    database.sql("COMMIT PREPARED 'later still'")
    wait_for(lambda: texts(kafka.read(topic))[-1] == "later still", "the last prepared transaction's message")
    assert database.status()["backlog"] == 0


def test_prepared_transaction_holds_up_nobody(broker, database, topic):
    """It has its positions already: a gap in the log until it is finished, and no obstacle."""
    with database.connect(autocommit=False) as session:
        session.execute("SELECT count(outbox.emit(%s, 'k', 'prepared')) FROM generate_series(1, 3)", (topic,))
        session.execute("PREPARE TRANSACTION 'open'")
    for n in range(20):
        database.emit(topic, f"k{n}", "other")
    database.drain(10)
    assert set(texts(broker.read(topic))) == {"other"}
    database.sql("COMMIT PREPARED 'open'")
    wait_for(lambda: broker.count(topic) == 23, "the prepared messages")
    assert texts(broker.read(topic)).count("prepared") == 3


def test_open_transaction_holds_up_nobody(broker, database, topic):
    """However long a transaction stays open, with a snapshot, an id and messages of its own."""
    with database.connect(autocommit=False) as session:
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute("CREATE TABLE has_an_xid ()")
        session.execute("SELECT outbox.emit(%s, 'slow', 'slow')", (topic,))
        for n in range(200):
            database.emit(topic, f"k{n % 5}", f"{n}")
            if n % 50 == 0:
                database.drain(10)
        database.drain(10)
        assert broker.count(topic) == 200
        assert database.status()["backlog"] == 0
    database.drain()
    assert texts(m for m in broker.read(topic) if m.key == b"slow") == ["slow"]


def test_serializable_retries(broker, database, topic):
    """Only the attempt that commits is seen, however many there were."""
    database.sql("CREATE TABLE counter (n int)")
    database.sql("INSERT INTO counter VALUES (0)")
    failures = []

    def increments(number):
        with database.connect(autocommit=False) as session:
            session.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            done = 0
            while done < 25:
                try:
                    n = session.execute("SELECT n FROM counter").fetchone()[0] + 1
                    session.execute("UPDATE counter SET n = %s", (n,))
                    session.execute("SELECT outbox.emit(%s, 'counter', %s)", (topic, str(n)))
                    session.commit()
                    done += 1
                except psycopg.errors.SerializationFailure:
                    session.rollback()
                    failures.append(number)

    threads = [threading.Thread(target=increments, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.drain()
    assert failures, "no conflict arose, so nothing was tested"
    assert texts(broker.read(topic)) == [str(n) for n in range(1, 101)]


@pytest.mark.parametrize("sessions", [32])
def test_order_per_key_from_many_sessions(kafka, make_database, make_topic, workload, sessions):
    database = make_database(kafka)
    topic = make_topic(kafka)
    load = workload(database, topic, sessions=sessions, keys=12)
    with load:
        wait_for(lambda: load.committed >= 3000, "3,000 transactions", timeout=60)
    assert not load.errors
    database.drain()
    check(load.sent(), kafka.read(topic))


def test_two_databases_at_once(kafka, make_database, make_topic, workload):
    """Each has a relay and a sink of its own; they may even share a topic."""
    one, two = make_database(kafka), make_database(kafka)
    topic = make_topic(kafka)
    private = [make_topic(kafka, "one"), make_topic(kafka, "two")]
    loads = [workload(one, [topic, private[0]], sessions=3), workload(two, [topic, private[1]], sessions=3, seed=2)]
    # Keys of their own on the topic they share.
    two.sql("UPDATE counter SET key = 'second ' || key")
    loads[1].keys = [f"second {key}" for key in loads[1].keys]
    with loads[0], loads[1]:
        wait_for(lambda: min(load.committed for load in loads) >= 500, "500 transactions each")
        assert one.sink_pid != two.sink_pid and one.relay_pid != two.relay_pid
    for load in loads:
        load.database.drain()
    check(loads[0].sent() + loads[1].sent(), kafka.read(topic, *private))


def test_a_million_messages_in_one_transaction(kafka, make_cluster, make_topic):
    """In bounded memory, in the session, the relay and the sink; nothing lost, nothing twice, in order."""
    server = make_cluster(shared_buffers="16MB", max_wal_size="4GB")
    topic = make_topic(kafka, partitions=3)
    database = server.database("app", outbox__kafka_bootstrap_servers=kafka.bootstrap)
    database.sql("CREATE TABLE sent (id uuid, n bigint)")
    database.emit(topic, "warm", "up")
    database.drain()
    relay, sink = database.relay_pid, database.wait_for_sink()
    with database.connect() as session:
        backend = session.info.backend_pid
        session.execute("SELECT count(outbox.emit(%s, n, repeat('x', 200))) FROM generate_series(1, 1000) AS n", (topic,))
        before = private_memory(backend)
        reset_peak_memory(backend)
        shared = peak_memory(backend) - private_memory(backend)
        watch = Stopwatch()
        session.execute(
            """
            INSERT INTO sent SELECT outbox.emit(%s, n %% 1000, rpad(n::text, 200)), n
            FROM generate_series(1, 1000000) AS n
            """,
            (topic,),
        )
        print(f"\nemitted and committed in {watch.seconds:.1f} s")
        # Shared buffers that it has touched by now count as its own in VmHWM.
        backend_peak = peak_memory(backend) - shared
    watch = Stopwatch()
    database.drain(120)
    print(f"delivered in {watch.seconds:.1f} s more")
    assert (database.relay_pid, database.sink_pid) == (relay, sink)
    # The relay has read the log through the server's shared buffers; those are not its memory.
    peaks = {"relay": peak_memory(relay) - shared_memory(relay), "sink": peak_memory(sink)}
    print(f"peak memory in MB: session {backend_peak >> 20} (idle: {before >> 20}), ", end="")
    print(", ".join(f"{name} {peak >> 20}" for name, peak in peaks.items()))
    assert backend_peak - before < (64 << 20) + (16 << 20), "64 MB, and the shared buffers"
    assert peaks["relay"] < 128 << 20
    assert peaks["sink"] < 256 << 20

    rows = database.sql("SELECT id::text, n FROM sent ORDER BY n")
    sent = [Sent(i, topic, b"%d" % (n % 1000), str(n).ljust(200).encode()) for i, n in rows]
    arrived = [m for m in kafka.read(topic, timeout=120) if m.value.startswith(b"x") is False and m.key != b"warm"]
    check(sent, arrived)


def test_ledger_is_read_back(make_database):
    """What the other tests compare with is what the sessions wrote."""
    database = make_database(extension=False)
    database.sql("CREATE TABLE ledger (id uuid PRIMARY KEY, topic text, key text, n bigint)")
    database.sql("INSERT INTO ledger VALUES ('00000000-0000-0000-0000-000000000001', 't', 'k', 2)")
    assert ledger(database) == [Sent("00000000-0000-0000-0000-000000000001", "t", b"k", payload_of("k", 2).encode())]
