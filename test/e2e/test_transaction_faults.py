"""Transactions of every kind, at the edges of what PostgreSQL allows, under load."""

import random
import threading

import psycopg
import pytest

from support.cluster import CANARY
from support.copies import hold_back_commits, release_commits
from support.files import read_messages
from support.ledger import check
from support.waiting import Stopwatch, wait_for
from support.workload import SCHEMA, emit_many, ledger


def values(database):
    return [m.value.decode() for m in read_messages(database.file)]


def run_all(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a session hangs"


# -- positions and commits in different orders --------------------------------------------------------------


def test_commits_in_another_order_than_positions(own_server):
    """Forty sessions have taken their positions and hang in the last step of their commit; a transaction with a
    position of its own is open all the while. In whatever order they get through, everybody's message goes at
    once, and nobody waits for those that still hang."""
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    path = own_server.directory / "m.jsonl"
    database = own_server.database("app", outbox__sink="file", outbox__file_path=path)
    database.file = path
    database.sql(SCHEMA)
    emit = "INSERT INTO ledger SELECT outbox.emit('t', %s, concat('cAnArY-7f3a ', %s::text, ':1')), 't', %s, 1"
    with database.connect(autocommit=False) as open_all_the_time:
        open_all_the_time.execute(emit, ("open",) * 3)
        with database.connect(autocommit=False) as session:
            session.execute(emit, ("prepared",) * 3)
            session.execute("PREPARE TRANSACTION 'has a position'")
        hold_back_commits(own_server)
        sessions = {f"s{n}": database.connect() for n in range(40)}
        threads = [
            threading.Thread(target=session.execute, args=(emit, (key,) * 3)) for key, session in sessions.items()
        ]
        for thread in threads:
            thread.start()
        wait_for(
            lambda: own_server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(40,)],
            "forty commits that hang",
        )
        assert values(database) == []
        # What commits meanwhile has higher positions than all of them.
        order = list(sessions)
        chance.shuffle(order)
        free = database.connect(options="-c synchronous_commit=local")
        free.execute("SET synchronous_commit = local")
        for number, key in enumerate(order):
            if number % 4 == 0:
                free.execute(emit, (f"later {number}",) * 3)
                watch = Stopwatch()
                wait_for(lambda n=number: f"cAnArY-7f3a later {n}:1" in values(database), "a later message", 10)
                assert watch.seconds < 5
            own_server.sql("SELECT pg_cancel_backend(%s)", sessions[key].info.backend_pid)
            if number % 8 == 0:
                wait_for(lambda k=key: f"cAnArY-7f3a {k}:1" in values(database), "the message of a commit", 10)
        for thread in threads:
            thread.join(20)
        free.close()
        for session in sessions.values():
            session.close()
        release_commits(own_server)
        database.drain()
        assert database.status()["backlog"] <= 1, "only the prepared one, which is not committed"
        assert not {"cAnArY-7f3a open:1", "cAnArY-7f3a prepared:1"} & set(values(database))
    database.sql("COMMIT PREPARED 'has a position'")
    database.drain()
    wait_for(lambda: "cAnArY-7f3a prepared:1" in values(database), "the prepared message")
    check(ledger(database), read_messages(database.file))


def test_many_seeded_sessions_beside_a_long_transaction(file_database, workload):
    """Some roll back, some use savepoints, a third is prepared first and finished later; a transaction with a
    snapshot, an id and messages is open from before the first to after the last of them."""
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    load = workload(file_database, ["t", "u"], sessions=16, keys=10, seed=seed, prepared=0.33)
    with file_database.connect(autocommit=False) as long:
        long.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        long.execute("SELECT count(*) FROM ledger").fetchone()
        long.execute(
            "INSERT INTO ledger SELECT outbox.emit('t', 'long', 'cAnArY-7f3a long:1'), 't', 'long', 1 RETURNING id"
        )
        with load:
            wait_for(lambda: load.committed >= 800, "800 transactions", timeout=60)
        assert not load.errors
        file_database.drain()
        assert file_database.status()["backlog"] == 0
        check(
            [m for m in load.sent() if m.key != b"long"],
            [m for m in read_messages(file_database.file) if m.key != b"long"],
        )
    file_database.drain()
    check(load.sent(), read_messages(file_database.file))


# -- subtransactions ----------------------------------------------------------------------------------------


def test_ten_thousand_subtransactions(file_database):
    """In one transaction: each with an exception block, every third undone, some nested; only the survivors."""
    file_database.sql(SCHEMA)
    with file_database.transaction() as session:
        session.execute(
            """
            DO $$
            BEGIN
                FOR n IN 1 .. 10000 LOOP
                    BEGIN
                        INSERT INTO ledger
                        SELECT outbox.emit('t', concat('k', n % 7), concat('cAnArY-7f3a k', n % 7, ':', n)),
                               't', concat('k', n % 7), n;
                        IF n % 10 = 0 THEN
                            BEGIN
                                PERFORM outbox.emit('t', 'k0', 'undone');
                                RAISE division_by_zero;
                            EXCEPTION WHEN division_by_zero THEN NULL;
                            END;
                        END IF;
                        IF n % 3 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
                    EXCEPTION WHEN raise_exception THEN NULL;
                    END;
                END LOOP;
            END $$
            """
        )
        assert session.execute("SELECT count(*) FROM outbox.uncommitted()").fetchone() == (6667,)
        # Others go on: the relay reads past a transaction with more subtransactions than a snapshot can list.
        file_database.emit("other", "k", "meanwhile")
        file_database.drain()
    file_database.drain()
    sent = ledger(file_database)
    assert len(sent) == 6667
    check(sent, [m for m in read_messages(file_database.file) if m.topic == "t"])


def test_deep_savepoints(file_database):
    """A thousand savepoints inside one another, undone from the middle."""
    with file_database.transaction() as session:
        for n in range(1000):
            session.execute(f"SAVEPOINT s{n}")
            session.execute("SELECT outbox.emit('t', 'k', %s)", (f"{n}",))
        session.execute("ROLLBACK TO s600")
        session.execute("RELEASE s300")
        session.execute("SELECT outbox.emit('t', 'k', 'last')")
    file_database.drain()
    assert values(file_database) == [*(str(n) for n in range(600)), "last"]


# -- retries ------------------------------------------------------------------------------------------------


def test_deadlock_retries(file_database):
    """Sessions lock rows in opposite orders; the victims try again. Only what committed is seen, in order of locks."""
    file_database.cluster.sql(f"ALTER DATABASE \"{file_database.name}\" SET deadlock_timeout = '20ms'")
    file_database.sql(SCHEMA)
    file_database.sql("INSERT INTO counter VALUES ('a', 0), ('b', 0)")
    victims, failures = [], []

    def session(number):
        order = ("a", "b") if number % 2 else ("b", "a")
        try:
            with file_database.connect(autocommit=False) as connection:
                done = 0
                while done < 20:
                    try:
                        for key in order:
                            connection.execute(
                                "WITH next AS (UPDATE counter SET n = n + 1 WHERE key = %s RETURNING key, n) "
                                "INSERT INTO ledger SELECT outbox.emit('t', key, concat(%s::text, ' ', key, ':', n)), "
                                "'t', key, n FROM next",
                                (key, CANARY),
                            )
                            connection.execute("SELECT pg_sleep(0.002)")
                        connection.commit()
                        done += 1
                    except psycopg.errors.DeadlockDetected:
                        connection.rollback()
                        victims.append(number)
        except Exception as error:  # a thread's own exception would be lost
            failures.append(error)

    run_all([threading.Thread(target=session, args=(n,)) for n in range(4)])
    assert not failures
    assert victims, "no deadlock arose, so nothing was tested"
    file_database.drain()
    check(ledger(file_database), read_messages(file_database.file))
    assert len(ledger(file_database)) == 160


# -- prepared transactions ----------------------------------------------------------------------------------


def test_prepared_for_days(make_cluster):
    """Prepared before two crashes, while the ring turns and old segments are emptied: the message is sent when it is
    committed at last, none is when it is rolled back, and in between it holds up nobody."""
    server = make_cluster(outbox__segment_size="64kB", outbox__retention="0")
    server.expect_crash()
    path = server.directory / "m.jsonl"
    database = server.database("app", outbox__sink="file", outbox__file_path=path)
    database.file = path
    database.sql(SCHEMA)
    for name in ("kept", "undone"):
        with database.connect(autocommit=False) as session:
            session.execute(
                "INSERT INTO ledger SELECT outbox.emit('t', %s, concat('cAnArY-7f3a ', %s::text, ':', n)), 't', %s, n "
                "FROM generate_series(1, 50) AS n", (name,) * 3,
            )  # fmt: skip
            session.execute(f"PREPARE TRANSACTION '{name}'")
    emitted = 0
    for _ in range(2):
        for _ in range(4):
            emit_many(database, "t", 5, emitted + 1, emitted + 500)
            emitted += 500
            database.drain()
        server.restart("immediate")
    emit_many(database, "t", 5, emitted + 1, emitted + 500)
    database.drain()
    assert {m.key for m in read_messages(path)} == {b"many %d" % n for n in range(5)}
    kept_segments = "SELECT count(*) FROM generate_series(1, 4) AS n WHERE pg_relation_size('outbox.segment_' || n) > 0"
    wait_for(lambda: database.value(kept_segments) <= 2, "nothing left but the active and the prepared one's segment")
    assert database.status()["active_segment"] != 1
    database.sql("COMMIT PREPARED 'kept'")
    database.sql("ROLLBACK PREPARED 'undone'")
    wait_for(lambda: sum(m.key == b"kept" for m in read_messages(path)) == 50, "the prepared messages")
    check(ledger(database), read_messages(path), duplicates_allowed=True)
    database.drain()
    assert database.status()["backlog"] == 0


# -- where emit() is called from ----------------------------------------------------------------------------


def test_trigger_fired_by_copy(file_database):
    """A row trigger emits for each of 100,000 rows of one COPY; a COPY that fails in its last line emits nothing."""
    database = file_database
    database.sql("CREATE TABLE line (n int PRIMARY KEY)")
    database.sql(
        """
        CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM outbox.emit('lines', NEW.n % 10, NEW.n::text); RETURN NULL; END $$;
        CREATE TRIGGER say AFTER INSERT ON line FOR EACH ROW EXECUTE FUNCTION say();
        """
    )
    with database.connect() as session:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            with session.cursor().copy("COPY line FROM STDIN") as copy:
                copy.write("".join(f"{n}\n" for n in range(1000)) + "not a number\n")
        with session.cursor().copy("COPY line FROM STDIN") as copy:
            copy.write("".join(f"{n}\n" for n in range(1, 100001)))
    database.drain(60)
    assert values(database) == [str(n) for n in range(1, 100001)]


def test_parallel_query(file_database):
    """emit() is never run by a parallel worker: the planner does not, and where a function of the user's claims to
    be safe for that and is not, it fails rather than lose the message."""
    database = file_database
    database.sql("CREATE TABLE big AS SELECT n FROM generate_series(1, 20000) AS n")
    database.sql("ANALYZE big")
    database.sql(
        "CREATE FUNCTION liar(n int) RETURNS uuid LANGUAGE plpgsql PARALLEL SAFE AS "
        "$$ BEGIN RETURN outbox.emit('t', 'liar', n::text); END $$"
    )
    forced = (
        "-c parallel_setup_cost=0 -c parallel_tuple_cost=0 -c min_parallel_table_scan_size=0 "
        "-c max_parallel_workers_per_gather=2 -c force_parallel_mode=on"
    )
    with database.connect(options=forced) as session:
        plan = "\n".join(r[0] for r in session.execute("EXPLAIN SELECT count(n) FROM big WHERE n % 2 = 0"))
        assert "Gather" in plan, "nothing is tested if the server has no parallel plans"
        emitting = "SELECT count(outbox.emit('t', 'honest', n::text)) FROM big WHERE n % 2 = 0"
        plan = "\n".join(r[0] for r in session.execute("EXPLAIN " + emitting))
        assert "Gather" not in plan
        assert session.execute(emitting).fetchone() == (10000,)
        with pytest.raises(psycopg.errors.InvalidTransactionState) as refusal:
            session.execute("SELECT count(liar(n)) FROM big WHERE n % 2 = 0")
        assert "parallel" in str(refusal.value)
        # The leader has a part in it; what it had emitted is undone with the statement.
        assert session.execute("SELECT count(*) FROM outbox.uncommitted()").fetchone() == (0,)
    database.drain()
    messages = read_messages(database.file)
    assert len(messages) == 10000 and {m.key for m in messages} == {b"honest"}


def test_read_only_transactions(file_database):
    """Refused at once, with nothing left over; the session goes on."""
    with file_database.connect(autocommit=False) as session:
        session.read_only = True
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as refusal:
            session.execute("SELECT outbox.emit('t', 'k', 'never')")
        assert refusal.value.diag.message_hint
        session.rollback()
        session.read_only = False
        session.execute("SELECT outbox.emit('t', 'k', 'p')")
        session.commit()
    file_database.drain()
    assert values(file_database) == ["p"]
