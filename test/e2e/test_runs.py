"""Runs: of consecutive rows on a page only the first has an entry in the index on positions. All of them are found,
whatever happens to the rows, to the index, and to the relay in the middle of a run."""

import psycopg
import pytest

from support.files import read_messages
from support.ledger import check
from support.waiting import wait_for
from support.workload import SCHEMA, emit_many, ledger


@pytest.fixture
def database(file_database):
    """Its messages go to a file, whatever it stores is kept, and its ledger is empty."""
    file_database.sql(SCHEMA)
    file_database.sql("CREATE EXTENSION pageinspect")
    file_database.sql("CREATE EXTENSION amcheck")
    return file_database


def arrived(database):
    return [m for m in read_messages(database.file) if m.topic == "t"]


def drain_and_check(database, **options):
    settled = database.value("SELECT outbox.wait_for_delivery('20 s')")
    check(ledger(database), arrived(database), **options)
    assert settled, f"not settled: {database.status()}"


def entries(database, segment=1):
    """How many entries the index of a segment has; high keys of pages are counted, too."""
    return database.value(
        """
        SELECT count(*) FROM generate_series(1, pg_relation_size(%s::text::regclass) / 8192 - 1) AS page,
            bt_page_items(%s::text, page::int) WHERE (SELECT type FROM bt_page_stats(%s::text, page::int)) = 'l'
        """,
        *[f"outbox.segment_{segment}_position"] * 3,
    )


def leads(database, segment=1):
    """Rows that do not stand right behind the row of the position before."""
    return database.value(
        f"""
        SELECT count(*) FILTER (WHERE behind IS DISTINCT FROM place - 1) FROM (
            SELECT place, lag(place) OVER (ORDER BY position) AS behind FROM (
                SELECT position, (ctid::text::point)[0] * 1000 + (ctid::text::point)[1] AS place
                FROM outbox.segment_{segment}
            ) AS rows
        ) AS pairs
        """
    )


def check_storage(database):
    """The index is in order, as far as amcheck knows about such ones, and so are the tables."""
    for n in range(1, 5):
        database.sql("SELECT bt_index_check(%s::text::regclass)", f"outbox.segment_{n}_position")
        assert database.sql("SELECT * FROM verify_heapam(%s::text::regclass)", f"outbox.segment_{n}") == []


def pause_with_read(database, least):
    """The relay has read some of what there is, and stands still in the middle."""
    wait_for(lambda: database.status()["delivered"] >= least, "deliveries", pause=0.005)
    database.sql("SELECT outbox.pause()")
    database.wait_for_state("paused")


def end_relay(database):
    pid = database.wait_for_relay()
    database.sql("SELECT pg_terminate_backend(%s)", pid)
    database.wait_for_relay(other_than=pid)


@pytest.fixture
def in_the_middle(database, options):
    """Messages of one transaction on some pages. The relay has read half of them, and rests."""
    database.set(outbox__max_in_flight_messages=7)
    database.sql("SELECT pg_reload_conf()")
    options("delay.ms=10")
    emit_many(database, "t", 3, 1, 200)
    pause_with_read(database, 20)
    options("# quick")
    assert database.status()["delivered"] < 200
    return database


def test_one_entry_for_a_run(database):
    database.sql("SELECT outbox.pause()")
    emit_many(database, "t", 3, 1, 300)
    pages = database.value("SELECT pg_relation_size('outbox.segment_1') / 8192")
    assert entries(database) == leads(database) == pages > 2
    for n in range(301, 311):
        emit_many(database, "t", 3, n, n)
    # A portion is 1,000 rows; what begins one has an entry.
    emit_many(database, "t", 3, 311, 3000)
    pages = database.value("SELECT pg_relation_size('outbox.segment_1') / 8192")
    assert entries(database) <= pages + 10 + 3
    check_storage(database)
    database.sql("SELECT outbox.resume()")
    drain_and_check(database)


def test_relay_that_goes_on_in_the_middle_of_a_run(in_the_middle):
    """Nothing of the run is lost, and nothing that was acknowledged is sent again."""
    database = in_the_middle
    end_relay(database)
    database.sql("SELECT outbox.resume()")
    drain_and_check(database)


def test_sink_that_dies_in_the_middle_of_a_run(database, options):
    """What comes back stands behind the beginning of its run, in the order of positions."""
    database.set(outbox__max_in_flight_messages=40)
    database.sql("SELECT pg_reload_conf()")
    options("delay.ms=10")
    emit_many(database, "t", 3, 1, 200)
    wait_for(lambda: database.status()["delivered"] >= 55, "deliveries", pause=0.005)
    options("# quick")
    pid = database.wait_for_sink()
    database.sql("SELECT pg_terminate_backend(%s)", database.relay_pid)
    database.wait_for_sink(other_than=pid)
    drain_and_check(database, duplicates_allowed=True)


REBUILDS = [
    "VACUUM outbox.segment_1",
    "VACUUM FULL outbox.segment_1",
    "REINDEX INDEX outbox.segment_1_position",
    "REINDEX TABLE CONCURRENTLY outbox.segment_1",
    "ALTER TABLE outbox.segment_1 ADD COLUMN note text DEFAULT clock_timestamp()::text",
]


def test_everything_rebuilt_in_the_middle_of_a_run(in_the_middle):
    """An index with an entry for each row leads to each row once; so does one that has both."""
    database = in_the_middle
    for command in REBUILDS:
        reached = database.status()["delivered"]
        database.sql(command)
        check_storage(database)
        database.sql("SELECT outbox.resume()")
        pause_with_read(database, min(reached + 20, 200))
    assert entries(database) == 200
    database.sql("SELECT outbox.resume()")
    emit_many(database, "t", 3, 201, 400)
    assert entries(database) < 300
    drain_and_check(database)


def test_index_refuses_to_order_the_table(database):
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="partial index"):
        database.sql("CLUSTER outbox.segment_1 USING segment_1_position")


def test_places_of_vacuumed_rows_are_used_again(database):
    """Rows that no transaction committed go, and others come to stand between the ones that are left."""
    database.sql("SELECT outbox.pause()")
    n = 1
    for round_ in range(6):
        for size in (3, 40, 1, 90):
            if (size + round_) % 2:
                emit_many(database, "t", 3, n, n + size - 1)
                n += size
                continue
            with database.connect() as session:
                session.execute("BEGIN")
                session.execute("SELECT outbox.emit('t', 'gone', 'gone') FROM generate_series(1, %s)", (size,))
                session.execute("PREPARE TRANSACTION 'gone'")
                emit_many(database, "t", 3, n, n + 4)
                n += 5
                session.execute("ROLLBACK PREPARED 'gone'")
        database.sql("VACUUM outbox.segment_1")
    assert database.value("SELECT count(*) FROM outbox.messages") == n - 1
    check_storage(database)
    database.sql("SELECT outbox.resume()")
    drain_and_check(database)


def test_writers_side_by_side(database, workload):
    """Their rows lie among each other on the pages."""
    database.sql("DROP TABLE ledger, counter")
    load = workload(database, "t", sessions=6, keys=6, prepared=0.1)
    with load:
        wait_for(lambda: load.committed > 600, "commits")
        end_relay(database)
        wait_for(lambda: load.committed > 900, "commits")
    assert not load.errors
    check_storage(database)
    drain_and_check(database, duplicates_allowed=True)


def test_rows_that_fill_pages(database):
    """Large ones, out of line or not, each on a page of its own, between small ones."""
    database.sql("SELECT outbox.pause()")
    for first, size in ((1, 10), (31, 7000), (61, 20000), (91, 300000)):
        database.sql(
            """
            INSERT INTO sizes SELECT n, outbox.emit('sizes', 'k', n || repeat('.', CASE WHEN mod(n, 3) = 0 THEN 5 ELSE %s END))
            FROM generate_series(%s::int, %s::int) AS n
            """
            if database.value("SELECT to_regclass('sizes') IS NOT NULL")
            else """
            CREATE TABLE sizes AS SELECT n,
                outbox.emit('sizes', 'k', n || repeat('.', CASE WHEN mod(n, 3) = 0 THEN 5 ELSE %s END)) AS id
            FROM generate_series(%s::int, %s::int) AS n
            """,
            size,
            first,
            first + 29,
        )
    database.sql("SELECT outbox.resume()")
    database.drain()
    values = [m.value for m in read_messages(database.file) if m.topic == "sizes"]
    assert [int(value.rstrip(b".")) for value in values] == list(range(1, 121))


@pytest.mark.parametrize(
    "command", ["DELETE FROM outbox.segment_1", "UPDATE outbox.segment_1 SET headers = '{}'"], ids=["deleted", "updated"]
)
def test_rows_removed_by_hand(database, command):
    """The first of its run, one in the middle, and the one behind that."""
    database.sql("SELECT outbox.pause()")
    emit_many(database, "t", 1, 1, 60)
    database.sql(f"{command} WHERE position IN (1, 30, 31)")
    database.sql("VACUUM outbox.segment_1")
    check_storage(database)
    emit_many(database, "t", 1, 61, 70)
    database.sql("SELECT outbox.resume()")
    database.drain()
    values = [int(m.value.split(b":")[-1]) for m in arrived(database)]
    gone = {1, 30, 31} if command.startswith("DELETE") else set()
    assert values == sorted(set(range(1, 71)) - gone)


def test_index_of_somebody_elses(database):
    """One that replaces ours, without our predicate, gets an entry for every row."""
    for n, condition in ((0, ""), (100, "WHERE position % 1 = 0 AND position > 0"), (200, "WHERE position % 2 < 2")):
        database.sql("DROP INDEX outbox.segment_1_position")
        database.sql(f"CREATE INDEX segment_1_position ON outbox.segment_1 (position) {condition}")
        emit_many(database, "t", 3, n + 1, n + 100)
        assert entries(database) == n + 100
        # The relay may have looked when there was none, and begun again.
        drain_and_check(database, duplicates_allowed=True)


def test_sequence_set_back_with_a_backlog(in_the_middle):
    """No position comes twice: the next commit goes on behind the last one."""
    database = in_the_middle
    database.sql("SELECT setval('outbox.message_position', 5)")
    emit_many(database, "t", 3, 201, 260)
    positions, distinct = database.sql("SELECT count(position), count(DISTINCT position) FROM outbox.messages")[0]
    assert positions == distinct == 260
    database.sql("SELECT outbox.resume()")
    drain_and_check(database)
