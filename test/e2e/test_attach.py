"""Attached tables from the row to the broker: what dumps, logical replication and servers without the library make of them."""

import psycopg
import pytest

from support.cluster import PG_BIN
from support.files import read_messages
from support.processes import run
from support.waiting import wait_for


def test_rows_of_attached_tables_arrive(database, broker, topic):
    """Key, payload, headers and partition of a row, in the order of commits."""
    database.sql("CREATE TABLE orders (id bigint PRIMARY KEY, customer text, p integer)")
    database.sql(
        "SELECT outbox.attach('orders', %s, payload => 'customer', headers => $$jsonb_build_object('op', TG_OP)$$,"
        " partition => 'p', events => '{insert,update,delete}')",
        topic,
    )
    with database.transaction() as session:
        session.execute("INSERT INTO orders VALUES (1, 'Ann', 3), (2, NULL, 3)")
        session.execute("UPDATE orders SET customer = 'Änne' WHERE id = 1")
        session.execute("DELETE FROM orders WHERE id = 2")
    found = broker.wait_for_messages(topic, 4)
    assert [(m.key, m.value, m.partition, dict(m.headers)["op"]) for m in found] == [
        (b"1", b"Ann", 3, b"INSERT"), (b"2", None, 3, b"INSERT"), (b"1", "Änne".encode(), 3, b"UPDATE"), (b"2", None, 3, b"DELETE"),
    ]  # fmt: skip
    assert [name for name, _ in found[0].headers] == ["id", "op"]


# -- dumps --------------------------------------------------------------------------------------------------


def restored(server, database, name):
    """A copy of the database, made by pg_dump and psql."""
    dump = database.cluster.directory / f"{name}.sql"
    where = ["-h", server.directory, "-p", server.port, "-U", "postgres"]
    dump.write_text(run([PG_BIN / "pg_dump", *where, database.name]))
    copy = server.database(name, extension=False, outbox__sink="file", outbox__file_path=dump.with_suffix(".jsonl"))
    copy.file = dump.with_suffix(".jsonl")
    run([PG_BIN / "psql", *where, "-qX", "-v", "ON_ERROR_STOP=1", "-f", dump, name])
    return copy


def refused(database, command):
    with pytest.raises(psycopg.errors.DependentObjectsStillExist) as error:
        database.sql(command)
    return str(error.value)


def test_attachments_survive_dump_and_restore(own_server):
    server = own_server
    database = server.database("original", outbox__sink="file", outbox__file_path=server.directory / "o.jsonl")
    database.sql("CREATE ROLE keeper")
    database.sql("SELECT outbox.grant_emit('keeper')")
    database.sql("CREATE TABLE thing (id integer PRIMARY KEY, gone text, name text, note text)")
    database.sql("ALTER TABLE thing OWNER TO keeper")
    database.sql("SELECT outbox.attach('thing', 'things', payload => 'NEW.name || current_user', \"when\" => 'NEW.id > 0')")
    database.sql("SELECT outbox.attach('thing', 'things.gone', payload => 'note', events => '{delete}', name => 'second')")
    # The columns' numbers differ in the copy, and their names from what they were declared with.
    database.sql("ALTER TABLE thing DROP COLUMN gone")
    database.sql("ALTER TABLE thing RENAME COLUMN name TO label")
    # What was not delivered here the copy may have been told of: it is silent until somebody decides.
    database.sql("SELECT outbox.pause()")
    database.sql("INSERT INTO thing VALUES (1, 'first ', 'n')")
    copy = restored(server, database, "copy")
    ask = "SELECT \"table\"::text, name::text, events, enabled, owner::text, declaration FROM outbox.attachments ORDER BY name"
    assert copy.sql(ask) == database.sql(ask)
    copy.wait_for_state("foreign")
    copy.sql("SELECT outbox.discard_backlog()")
    copy.sql("SELECT outbox.resume()")
    copy.sql("INSERT INTO thing VALUES (2, 'second ', 'n'), (-3, 'none', 'n')")
    copy.sql("DELETE FROM thing WHERE id = 1")
    copy.drain()
    # Restoring the rows was not inserting them.
    assert [(m.topic, m.key, m.value) for m in read_messages(copy.file)] == [
        ("things", b"2", b"second keeper"), ("things.gone", b"1", b"n"),
    ]  # fmt: skip
    # What holds an attachment together is there, too.
    assert 'view outbox."public.thing.outbox"' in refused(copy, "ALTER TABLE thing DROP COLUMN label")
    assert "trigger outbox on table thing" in refused(copy, 'DROP VIEW outbox."public.thing.outbox"')
    copy.sql("DROP TABLE thing")
    assert copy.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relname LIKE 'public.%%'") == 0


# -- logical replication ------------------------------------------------------------------------------------


def test_rows_that_replication_brings_are_messages_only_where_the_trigger_always_fires(make_cluster):
    publisher = make_cluster(wal_level="logical")
    subscriber = make_cluster(fresh=True)
    source = publisher.database("app", extension=False)
    path = subscriber.directory / "m.jsonl"
    copy = subscriber.database("app", outbox__sink="file", outbox__file_path=path)
    for database in (source, copy):
        database.sql("CREATE TABLE thing (id integer PRIMARY KEY, name text)")
    copy.sql("SELECT outbox.attach('thing', 'things', payload => 'upper(NEW.name)')")
    source.sql("CREATE PUBLICATION things FOR TABLE thing")
    source.sql("INSERT INTO thing VALUES (1, 'copied')")
    copy.sql(
        f"CREATE SUBSCRIPTION things CONNECTION 'host={publisher.directory} port={publisher.port} dbname=app user=postgres'"
        " PUBLICATION things"
    )
    try:
        rows = lambda: copy.value("SELECT count(*) FROM thing")  # noqa: E731
        wait_for(lambda: rows() == 1, "the copy of the table")
        source.sql("INSERT INTO thing VALUES (2, 'silent')")
        wait_for(lambda: rows() == 2, "a replicated row")
        copy.sql("ALTER TABLE thing ENABLE ALWAYS TRIGGER outbox")
        source.sql("INSERT INTO thing VALUES (3, 'heard')")
        wait_for(lambda: rows() == 3, "another one")
        wait_for(path.exists, "the file")
        copy.drain()
        assert [(m.key, m.value) for m in read_messages(path)] == [(b"3", b"HEARD")]
    finally:
        copy.sql("DROP SUBSCRIPTION things")


# -- without the library ------------------------------------------------------------------------------------


def test_a_server_without_the_library_refuses_rows_and_attachments(make_cluster):
    """Rather than let rows go by that nobody would send."""
    server = make_cluster()
    database = server.database("app")
    database.sql("CREATE TABLE thing (id integer)")
    database.sql("SELECT outbox.attach('thing', 'things')")
    server.restart(shared_preload_libraries="")
    for command in ("INSERT INTO thing VALUES (1)", "SELECT outbox.attach('thing', 'again', name => 'again')"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="outbox is not loaded by the server"):
            database.sql(command)
    database.sql("SELECT outbox.detach('thing')")
    database.sql("INSERT INTO thing VALUES (1)")
