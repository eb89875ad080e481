"""emit() through the drivers and poolers that applications use."""

import json
import os
import shutil
import signal
import subprocess
import threading
import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Json, Jsonb

from support.files import read_messages
from support.kafka import free_port
from support.processes import as_server_user, give_to_server_user, run
from support.waiting import wait_for

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("OUTBOX_CACHE", Path.home() / ".cache/outbox"))


def by_id(database):
    return {message.id: message for message in read_messages(database.file)}


# -- psycopg ------------------------------------------------------------------------------------------------

PARAMETERS = {
    "strings": (("k", "p"), (b"k", b"p")),
    "bytes": ((b"\x00k", b"\xffp"), (b"\x00k", b"\xffp")),
    "integer": ((42, "p"), (b"42", b"p")),
    "large integer": ((1 << 62, "p"), (str(1 << 62).encode(), b"p")),
    "uuid": ((uuid.UUID(int=1), "p"), (b"00000000-0000-0000-0000-000000000001", b"p")),
    "json": (("k", Json({"b": 1, "a": 2})), (b"k", b'{"b": 1, "a": 2}')),
    "jsonb": (("k", Jsonb({"b": 1, "a": 2})), (b"k", b'{"a": 2, "b": 1}')),
    "uuid and jsonb": ((uuid.UUID(int=2), Jsonb([1])), (b"00000000-0000-0000-0000-000000000002", b"[1]")),
    "none": ((None, None), (None, None)),
    "integer and none": ((42, None), (b"42", None)),
    "none and bytes": ((None, b"p"), (None, b"p")),
}


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_psycopg(file_database, prepare, binary):
    """Parameters as Python values, in text and in binary, once and as prepared statements."""
    ids = {}
    value = "%b" if binary else "%s"
    statement = f"SELECT outbox.emit({value}, {value}, {value})"
    with file_database.transaction() as session:
        for name, (parameters, _) in PARAMETERS.items():
            for _ in range(7 if prepare else 1):
                row = session.execute(statement, ("t", *parameters), prepare=prepare).fetchone()
                ids[str(row[0])] = name
    file_database.drain()
    arrived = by_id(file_database)
    assert arrived.keys() == ids.keys()
    for message_id, name in ids.items():
        assert (arrived[message_id].key, arrived[message_id].value) == PARAMETERS[name][1], name


def test_psycopg_pipeline_and_executemany(file_database):
    with file_database.transaction() as session:
        with session.pipeline():
            for n in range(50):
                session.execute("SELECT outbox.emit(%s, %s, %s)", ("t", "pipeline", f"{n}"))
        session.cursor().executemany(
            "SELECT outbox.emit(%s, %s, %s, %s)", [("t", "many", f"{n}", Jsonb({"n": n})) for n in range(50)]
        )
    file_database.drain()
    messages = read_messages(file_database.file)
    for key in (b"pipeline", b"many"):
        assert [int(m.value) for m in messages if m.key == key] == list(range(50))


def test_psycopg_server_side_cursor(file_database):
    """Only what was fetched was emitted: a cursor runs as far as it is read."""
    with file_database.transaction() as session:
        cursor = session.cursor(name="emitting", scrollable=False)
        cursor.itersize = 10
        cursor.execute("SELECT outbox.emit('t', 'k', n::text) FROM generate_series(1, 1000) AS n")
        fetched = cursor.fetchmany(25)
        assert len(fetched) == 25
        listed = session.execute("SELECT count(*) FROM outbox.uncommitted()").fetchone()[0]
    file_database.drain()
    assert len(read_messages(file_database.file)) == listed >= 25


# -- JDBC ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "&prepareThreshold=0", "&preferQueryMode=simple", "&stringtype=unspecified"])
def test_jdbc(file_database, options):
    driver = next(CACHE.glob("postgresql-*.jar"), None)
    if not driver or not shutil.which("java"):
        pytest.skip("the JDBC driver is not in the cache")
    server = file_database.cluster
    url = f"jdbc:postgresql://127.0.0.1:{server.port}/{file_database.name}?user=postgres{options}"
    printed = run(
        ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", driver, HERE / "java/JdbcEmit.java", url, "t"]
    )
    ids = {line.split()[1]: line.split()[0] for line in printed.splitlines()}
    file_database.drain()
    arrived = by_id(file_database)
    expected = {
        "string": (b"k", b"string"),
        "bytes": (b"\x00\xff", b"bytes"),
        "long": (b"42", b"long"),
        "int": (b"43", b"int"),
        "uuid": (b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", b"uuid"),
        "null": (None, None),
        "untyped-null": (None, None),
        "other": (b"k", b"other"),
        "jsonb": (b"k", b'{"a": 2, "b": 1}'),
    }
    assert arrived.keys() == {i for i, name in ids.items() if name != "never"}
    for message_id, message in arrived.items():
        assert (message.key, message.value) == expected[ids[message_id]], ids[message_id]


# -- node-postgres ------------------------------------------------------------------------------------------


def test_node_postgres(file_database):
    modules = CACHE / "node_modules"
    if not shutil.which("node") or not (modules / "pg").exists():
        pytest.skip("node-postgres is not in the cache")
    server = file_database.cluster
    url = f"postgres://postgres@127.0.0.1:{server.port}/{file_database.name}"
    printed = run(["node", HERE / "node/emit.js", url, "t"], env={**os.environ, "NODE_PATH": str(modules)})
    ids = {line.split()[1]: line.split()[0] for line in printed.splitlines()}
    file_database.drain()
    expected = {
        "string": (b"k", b"string"),
        "named": (b"k", b"named"),
        "number": (b"42", b"number"),
        "null": (None, None),
        "object": (b"k", b'{"b":1,"a":[null]}'),
        "bytes": (b"\x00\xff", b"bytes"),
        "jsonb": (b"42", b'{"a": 2, "b": 1}'),
    }
    arrived = by_id(file_database)
    assert arrived.keys() == ids.keys()
    for message_id, message in arrived.items():
        assert (message.key, message.value) == expected[ids[message_id]], ids[message_id]


# -- poolers ------------------------------------------------------------------------------------------------


@pytest.fixture
def pgbouncer(file_database):
    """pgbouncer in transaction pooling, with fewer server connections than clients."""
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    if not program:
        pytest.skip("pgbouncer is not installed")
    server = file_database.cluster
    port = free_port()
    directory = server.directory / f"pgbouncer-{port}"
    directory.mkdir()
    (directory / "users").write_text('"postgres" ""\n')
    (directory / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host={server.directory} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = 2
logfile = {directory}/pgbouncer.log
pidfile = {directory}/pgbouncer.pid
"""
    )
    give_to_server_user(directory)
    # "any" needs a user to connect as.
    text = (directory / "pgbouncer.ini").read_text()
    (directory / "pgbouncer.ini").write_text(text.replace(f"port={server.port}\n", f"port={server.port} user=postgres\n"))
    process = subprocess.Popen(
        as_server_user([program, "-q", directory / "pgbouncer.ini"]),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def connect(**options):
        return psycopg.connect(
            host="127.0.0.1", port=port, user="postgres", dbname=file_database.name, prepare_threshold=None, **options
        )

    def answers():
        try:
            connect().close()
            return True
        except psycopg.OperationalError:
            return False

    wait_for(answers, "pgbouncer")
    yield connect
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_behind_a_transaction_pooler(file_database, pgbouncer):
    """Ten clients share two sessions of the server: nobody gets another one's messages or rollbacks."""
    rounds, failures = 30, []

    def client(number):
        try:
            with pgbouncer() as session:
                for n in range(rounds):
                    session.execute("SELECT outbox.emit('t', %s, %s)", (f"client {number}", f"{n}"))
                    own = session.execute("SELECT count(*) FROM outbox.uncommitted()").fetchone()[0]
                    assert own == 1, f"{own} messages in a transaction that emitted one"
                    session.execute("SAVEPOINT s")
                    session.execute("SELECT outbox.emit('t', %s, 'undone')", (f"client {number}",))
                    session.execute("ROLLBACK TO s")
                    session.commit()
                    session.execute("SELECT outbox.emit('t', %s, 'rolled back')", (f"client {number}",))
                    session.rollback()
        except Exception as error:  # a thread's own exception would be lost
            failures.append(error)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    file_database.drain()
    messages = read_messages(file_database.file)
    for number in range(10):
        own = [int(m.value) for m in messages if m.key == f"client {number}".encode()]
        assert own == list(range(rounds))
    assert len(messages) == 10 * rounds


def test_discard_all(file_database):
    """What poolers say between two clients forgets nothing that was committed, and disturbs nothing."""
    with file_database.connect() as session:
        for n in range(3):
            session.execute("SELECT outbox.emit('t', 'k', %s)", (f"{n}",), prepare=False)
            session.execute("DISCARD ALL", prepare=False)
    file_database.drain()
    assert [m.value for m in read_messages(file_database.file)] == [b"0", b"1", b"2"]


def test_psql_variables_and_json_files(file_database):
    """psql, with its own quoting, as a script in a pipe."""
    server = file_database.cluster
    body = json.dumps({"quote": "it's", "backslash": "\\"})
    from support.cluster import PG_BIN

    run(
        [PG_BIN / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.directory, "-p", server.port, "-U", "postgres",
         "-d", file_database.name, "-v", f"body={body}"],
        input="SELECT outbox.emit('t', 'k', :'body');\n",
    )  # fmt: skip
    file_database.drain()
    assert read_messages(file_database.file)[0].value.decode() == body
