"""Messages that the broker refuses for good: what operators see of them, retry and discard."""

import os
import random
import threading

import psycopg
import pytest

from support.files import read_messages
from support.ledger import Sent, check
from support.processes import give_to_server_user
from support.waiting import wait_for

REFUSE = "refuse.message.containing=poison"
MEND = "# takes everything"


def texts(database):
    return [message.value.decode() for message in read_messages(database.file)]


def of_key(database, topic, key):
    return [m.value.decode() for m in read_messages(database.file) if (m.topic, m.key) == (topic, key)]


def parked(database):
    """Payloads and, where there is one, the payload that they stand behind."""
    return database.sql(
        """
        SELECT convert_from(p.payload, 'UTF8'), convert_from(h.payload, 'UTF8')
        FROM outbox.parked AS p LEFT JOIN outbox.parked AS h ON h.id = p.behind ORDER BY p.position
        """
    )


@pytest.fixture
def trouble(file_database, options):
    """Two keys with a refused message and later ones behind it, one refused without a key, and others."""
    options(REFUSE)
    ids = {}
    for topic, key, payload in [
        ("t", "a", "a1"), ("t", "a", "a2 poison"), ("t", "a", "a3"), ("t", "b", "b1"), ("t", None, "n1 poison"),
        ("t", "c", "c1 poison"), ("t", None, "n2"), ("t", "c", "c2"), ("u", "a", "ua1"), ("u", "a", "ua2 poison"),
        ("t", "a", "a4"), ("u", "a", "ua3"),
    ]:  # fmt: skip
        ids[payload] = file_database.emit(topic, key, payload)
    file_database.drain()
    assert sorted(texts(file_database)) == ["a1", "b1", "n2", "ua1"]
    file_database.ids = ids
    return file_database


def test_the_view_says_what_and_why(trouble):
    assert parked(trouble) == [
        ("a2 poison", None), ("a3", "a2 poison"), ("n1 poison", None), ("c1 poison", None), ("c2", "c1 poison"),
        ("ua2 poison", None), ("a4", "a2 poison"), ("ua3", "ua2 poison"),
    ]  # fmt: skip
    with trouble.connect(row_factory=psycopg.rows.dict_row) as connection:
        first, second = connection.execute("SELECT * FROM outbox.parked ORDER BY position LIMIT 2").fetchall()
    assert (str(first["id"]), first["topic"], first["key"], first["payload"]) == (
        trouble.ids["a2 poison"], "t", b"a", b"a2 poison",
    )  # fmt: skip
    assert first["error"] == "the message is refused by refuse.message.containing"
    assert first["attempts"] == 2, "among others, then alone"
    assert first["time"] < first["parked_at"]
    assert (second["attempts"], second["error"], str(second["behind"])) == (0, None, trouble.ids["a2 poison"])
    status = trouble.status()
    assert (status["backlog"], status["deferred"], status["parked"]) == (0, 0, 8), "parked messages are settled"
    trouble.sql("SELECT outbox.pause()")
    assert trouble.wait_for_state("paused")["parked"] == 8
    trouble.sql("SELECT outbox.discard('u')")
    trouble.sql("SELECT outbox.resume()")
    wait_for(lambda: trouble.status()["parked"] == 6, "the figure to follow")


def test_retry_of_everything(trouble, options):
    options(MEND)
    assert trouble.value("SELECT outbox.retry()") == 8
    trouble.emit("t", "a", "a5")
    trouble.drain()
    assert parked(trouble) == []
    assert of_key(trouble, "t", b"a") == ["a1", "a2 poison", "a3", "a4", "a5"]
    assert of_key(trouble, "t", b"c") == ["c1 poison", "c2"]
    assert of_key(trouble, "u", b"a") == ["ua1", "ua2 poison", "ua3"]
    assert sorted(of_key(trouble, "t", None)) == ["n1 poison", "n2"]


def test_retry_of_a_topic_a_key_and_a_message(trouble, options):
    options(MEND)
    assert trouble.value("SELECT outbox.retry('u')") == 2
    trouble.drain()
    assert of_key(trouble, "u", b"a") == ["ua1", "ua2 poison", "ua3"]
    assert trouble.value("SELECT outbox.retry('t', 'c')") == 2
    assert trouble.value("SELECT outbox.retry('t', NULL)") == 1
    trouble.drain()
    assert of_key(trouble, "t", b"c") == ["c1 poison", "c2"]
    assert parked(trouble) == [("a2 poison", None), ("a3", "a2 poison"), ("a4", "a2 poison")]
    assert trouble.value("SELECT outbox.retry(id => %s)", trouble.ids["a2 poison"]) == 3
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1", "a2 poison", "a3", "a4"]
    assert trouble.value("SELECT outbox.retry(id => %s)", trouble.ids["a2 poison"]) == 0, "it is parked no more"


def test_retry_while_the_cause_is_still_there(trouble):
    assert trouble.value("SELECT outbox.retry()") == 8
    trouble.drain()
    assert [text for text, _ in parked(trouble)] == [
        "a2 poison", "a3", "n1 poison", "c1 poison", "c2", "ua2 poison", "a4", "ua3",
    ]  # fmt: skip
    assert of_key(trouble, "t", b"a") == ["a1"]
    attempts = "SELECT attempts FROM outbox.parked WHERE id = %s"
    assert trouble.value(attempts, trouble.ids["a2 poison"]) == 3
    assert trouble.value(attempts, trouble.ids["a3"]) == 0
    trouble.emit("t", "b", "b2")
    trouble.drain()
    assert of_key(trouble, "t", b"b") == ["b1", "b2"]


def test_a_message_behind_another_does_not_go_first(trouble, options):
    options(MEND)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
        trouble.sql("SELECT outbox.retry(id => %s)", trouble.ids["a4"])
    assert trouble.ids["a2 poison"] in raised.value.diag.message_hint
    assert of_key(trouble, "t", b"a") == ["a1"]


def test_discard_of_a_message_lets_those_behind_it_go(trouble):
    assert trouble.value("SELECT outbox.discard(id => %s)", trouble.ids["a2 poison"]) == 1
    trouble.emit("t", "a", "a5")
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1", "a3", "a4", "a5"]
    # One in the middle is taken out, and the first still holds the others.
    assert trouble.value("SELECT outbox.discard(id => %s)", trouble.ids["c2"]) == 1
    trouble.drain()
    assert of_key(trouble, "t", b"c") == []


def test_discard_of_a_key_a_topic_and_everything(trouble):
    assert trouble.value("SELECT outbox.discard('t', 'a')") == 3
    assert trouble.value("SELECT outbox.discard('u')") == 2
    assert trouble.value("SELECT outbox.discard('t', NULL)") == 1
    assert trouble.value("SELECT outbox.discard()") == 2
    trouble.emit("t", "a", "a5")
    trouble.emit("t", "c", "c3")
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1", "a5"]
    assert of_key(trouble, "t", b"c") == ["c3"]
    assert parked(trouble) == []
    assert trouble.value("SELECT count(*) FROM outbox.deferred") == 0


def test_a_decision_that_is_rolled_back_decides_nothing(trouble, options):
    options(MEND)
    for call in ("retry", "discard"):
        with trouble.connect(autocommit=False) as session:
            session.execute(f"SELECT outbox.{call}()")
            session.rollback()
    trouble.drain()
    assert len(parked(trouble)) == 8
    assert of_key(trouble, "t", b"a") == ["a1"]


@pytest.mark.parametrize("call, rest", [("retry()", ["a2 poison", "a3", "a4"]), ("discard('t', 'a')", [])])
def test_an_undecided_operator_holds_up_nobody(trouble, options, call, rest):
    """While retry or discard is not committed, other keys flow, and those of the key wait behind it."""
    options(MEND)
    with trouble.connect(autocommit=False) as session:
        session.execute(f"SELECT outbox.{call}")
        trouble.emit("t", "b", "b2")
        trouble.emit("t", "a", "a5")
        trouble.drain()
        assert of_key(trouble, "t", b"b") == ["b1", "b2"]
        assert of_key(trouble, "t", b"a") == ["a1"]
        session.commit()
    trouble.emit("t", "a", "a6")
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1", *rest, "a5", "a6"]


def test_two_operators_at_once(trouble, options):
    """What one of them holds stays, and with it what follows in its key."""
    options(MEND)
    with trouble.connect(autocommit=False) as session:
        session.execute("SELECT outbox.discard(id => %s)", [trouble.ids["a3"]])
        trouble.sql("SELECT outbox.discard(id => %s)", trouble.ids["a2 poison"])
        trouble.emit("t", "a", "a5")
        trouble.drain()
        assert of_key(trouble, "t", b"a") == ["a1"]
        session.rollback()
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1", "a3", "a4", "a5"]


def test_retry_in_a_prepared_transaction(trouble, options):
    options(MEND)
    with trouble.connect() as session:
        session.execute("BEGIN")
        session.execute("SELECT outbox.retry()")
        session.execute("PREPARE TRANSACTION 'retry of parked messages'")
    trouble.emit("t", "a", "a5")
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1"]
    trouble.sql("COMMIT PREPARED 'retry of parked messages'")
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1", "a2 poison", "a3", "a4", "a5"]


def test_retry_while_paused(trouble, options):
    options(MEND)
    trouble.sql("SELECT outbox.pause()")
    trouble.wait_for_state("paused")
    trouble.sql("SELECT outbox.retry()")
    trouble.emit("t", "a", "a5")
    assert of_key(trouble, "t", b"a") == ["a1"]
    trouble.sql("SELECT outbox.resume()")
    trouble.drain()
    assert of_key(trouble, "t", b"a") == ["a1", "a2 poison", "a3", "a4", "a5"]


def test_parked_messages_survive_a_crash_of_the_server(own_server):
    path = own_server.directory / "messages.jsonl"
    properties = own_server.directory / "file.properties"
    properties.write_text(REFUSE + "\n")
    database = own_server.database("app", outbox__sink="file", outbox__file_path=path)
    database.file = path
    own_server.expect_crash()
    properties.chmod(0o600)
    give_to_server_user(properties)
    database.set(outbox__file_config_file=properties)
    for payload in ("1", "2 poison", "3"):
        database.emit("t", "k", payload)
    database.drain()
    assert [text for text, _ in parked(database)] == ["2 poison", "3"]
    os.truncate(properties, 0)
    database.sql("SELECT outbox.retry()")
    own_server.stop("immediate")
    own_server.start()
    database.emit("t", "k", "4")
    database.drain()
    arrived = of_key(database, "t", b"k")
    assert list(dict.fromkeys(arrived)) == ["1", "2 poison", "3", "4"]


def test_parked_messages_do_not_hold_segments(trouble):
    trouble.set(outbox__segment_size="64kB", outbox__retention="0")
    trouble.sql("SELECT count(outbox.emit('t', 'b', repeat('x', 500))) FROM generate_series(1, 3000)")
    trouble.drain()
    sizes = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class AS c WHERE c.relname LIKE 'segment\\__'"
    wait_for(lambda: trouble.value(sizes) < 1 << 20, "the ring to shrink")
    assert len(parked(trouble)) == 8


def test_unknown_topic_is_parked_when_its_time_is_over(file_database, options):
    options("unknown.topic=missing")
    file_database.set(outbox__unknown_topic_timeout="1s")
    for n in range(3):
        file_database.emit("missing", "k", f"k{n}")
    file_database.emit("other", "k", "o")
    wait_for(lambda: len(parked(file_database)) == 3, "three parked messages", 60)
    assert texts(file_database) == ["o"]
    file_database.emit("missing", "k", "k3")
    file_database.emit("missing", "l", "l0")
    wait_for(lambda: len(parked(file_database)) == 5, "five parked messages", 60)
    first = file_database.sql("SELECT error, attempts, behind FROM outbox.parked ORDER BY position LIMIT 1")
    assert first == [("the topic is unknown by unknown.topic", 0, None)]
    options(MEND)
    assert file_database.value("SELECT outbox.retry('missing')") == 5
    file_database.emit("missing", "k", "k4")
    file_database.drain()
    assert of_key(file_database, "missing", b"k") == [f"k{n}" for n in range(5)]


def test_unknown_topic_waits_for_ever_by_default(file_database, options):
    assert file_database.value("SHOW outbox.unknown_topic_timeout") == "0"
    options("unknown.topic=missing", "refuse.topic=forbidden")
    file_database.emit("missing", "k", "1")
    file_database.emit("forbidden", "k", "1")
    file_database.wait_for_state("waiting")
    tried = "SELECT count(*) FROM outbox.deferred WHERE state = 'waiting'"
    wait_for(lambda: file_database.value(tried) == 2, "both to wait")
    # A missing permission does not time out either.
    file_database.set(outbox__unknown_topic_timeout="1s")
    wait_for(lambda: len(parked(file_database)) == 1, "the one of the unknown topic to be parked", 60)
    assert file_database.value("SELECT topic FROM outbox.parked") == "missing"
    assert file_database.value("SELECT topic FROM outbox.deferred WHERE state = 'waiting'") == "forbidden"


def test_wrong_arguments(file_database):
    identity = "0192f0c1-2b5e-7c4a-9d1e-000000000001"
    for call in ("retry", "discard"):
        for arguments in ("id => NULL", "topic => NULL", "NULL, 'k'"):
            with pytest.raises(psycopg.errors.NullValueNotAllowed):
                file_database.sql(f"SELECT outbox.{call}({arguments})")
        with pytest.raises(psycopg.errors.InvalidParameterValue) as raised:
            file_database.sql(f"SELECT outbox.{call}('{identity}')")
        assert f"outbox.{call}(id => '{identity}')" in raised.value.diag.message_hint
        assert file_database.value(f"SELECT outbox.{call}('no_such_topic')") == 0
        assert file_database.value(f"SELECT outbox.{call}(id => '{identity}')") == 0
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), file_database.connect() as session:
            session.execute("SET default_transaction_read_only = on")
            session.execute(f"SELECT outbox.{call}()")


def test_order_while_operators_retry_and_discard_under_load(file_database, options):
    """Poison comes and goes while three sessions emit and two operators decide at random."""
    options(REFUSE)
    file_database.sql("CREATE TABLE counter (key text PRIMARY KEY, n int NOT NULL)")
    file_database.sql("CREATE TABLE ledger (id uuid PRIMARY KEY, key text, n int)")
    file_database.sql("INSERT INTO counter SELECT 'k' || n, 0 FROM generate_series(1, 6) AS n")
    stopping = threading.Event()
    changing = threading.Lock()
    failures = []

    def guarded(work):
        def run():
            try:
                with file_database.connect() as session:
                    work(session)
            except Exception as error:  # shown below
                failures.append(error)

        return threading.Thread(target=run, daemon=True)

    def emit(session):
        chance = random.Random(1)
        for _ in range(250):
            session.execute(
                """
                WITH next AS (UPDATE counter SET n = n + 1 WHERE key = %(key)s RETURNING key, n)
                INSERT INTO ledger SELECT outbox.emit('t', key, concat(key, ':', n, %(end)s::text)), key, n FROM next
                """,
                {"key": f"k{chance.randint(1, 6)}", "end": " poison" if chance.random() < 0.05 else ""},
            )

    def decide(session):
        chance = random.Random(2)
        while not stopping.wait(0.02):
            choice = chance.random()
            if choice < 0.4:
                session.execute("SELECT outbox.retry()")
            elif choice < 0.7:
                session.execute("SELECT outbox.retry('t', %s)", [f"k{chance.randint(1, 6)}"])
            elif choice < 0.85:
                session.execute(
                    """
                    WITH first AS (SELECT id FROM outbox.parked WHERE behind IS NULL LIMIT 1), gone AS (
                        SELECT outbox.discard(id) AS count, id FROM first)
                    DELETE FROM ledger WHERE id IN (SELECT id FROM gone WHERE count = 1)
                    """
                )
            else:
                with changing:
                    options(chance.choice([REFUSE, MEND]))

    emitters = [guarded(emit) for _ in range(3)]
    operators = [guarded(decide) for _ in range(2)]
    for thread in emitters + operators:
        thread.start()
    for thread in emitters:
        thread.join(90)
    stopping.set()
    for thread in operators:
        thread.join(30)
    assert not failures, failures
    options(MEND)
    file_database.sql("SELECT outbox.retry()")
    file_database.drain()
    wait_for(lambda: file_database.sql("SELECT outbox.retry()") == [(0,)], "nothing left to retry")
    file_database.drain()
    assert parked(file_database) == []
    arrived = read_messages(file_database.file)
    poisoned = {m.id for m in arrived if m.value.endswith(b" poison")}
    sent = [
        Sent(i, "t", key.encode(), f"{key}:{n}{' poison' if i in poisoned else ''}".encode())
        for i, key, n in file_database.sql("SELECT id::text, key, n FROM ledger ORDER BY n")
    ]
    check(sent, arrived)


def test_kafka_takes_it_once_the_limit_is_raised(kafka, make_database, make_topic):
    database = make_database(kafka)
    topic = make_topic(kafka, partitions=1, max_message_bytes=2000)
    for payload in ("1", "2" * 50000, "3"):
        database.emit(topic, "k", payload)
    database.drain()
    code, error = database.sql("SELECT error_code, error FROM outbox.parked ORDER BY position LIMIT 1")[0]
    assert code == 10 and "too large" in error.lower(), error
    kafka.configure_topic(topic, max_message_bytes=1000000)
    assert database.value("SELECT outbox.retry('" + topic + "')") == 2
    database.emit(topic, "k", "4")
    database.drain()
    assert [message.value[:1] for message in kafka.read(topic)] == [b"1", b"2", b"3", b"4"]
