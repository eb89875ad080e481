"""Standbys, promotion, dumps, base backups and recovery to a point in time: what is sent, and by whom."""

import os
import signal
import threading

import psycopg
import pytest

from support.cluster import PG_BIN, Database
from support.copies import base_backup, hold_back_commits, release_commits, standby_of, wait_until_caught_up
from support.files import read_messages
from support.ledger import check
from support.processes import alive, as_server_user, give_to_server_user, run
from support.waiting import wait_for
from support.workload import SCHEMA, emit_many, ledger


@pytest.fixture
def copy_directory(base_directory, unique):
    """Where copies of the test's server go; whatever was started there is stopped."""
    return lambda name: base_directory / unique(name)


@pytest.fixture
def copies():
    """Servers to remove at the end of the test, the last one first."""
    made = []
    yield made
    for copy in reversed(made):
        copy.remove()


def to_file(server, name="app", file="m.jsonl"):
    """A database whose messages go to a file. Physical copies of the server go on with the same file."""
    path = server.directory / file
    database = server.database(name, outbox__sink="file", outbox__file_path=path)
    database.file = path
    return database


def ids(messages):
    return {message.id for message in messages}


def kill(server):
    """kill -9 of the postmaster, and the end of everybody who could still send."""
    sinks = [Database(server, name).sink_pid for name in server.databases]
    os.kill(server.postmaster_pid, signal.SIGKILL)
    wait_for(lambda: not server._processes(), "the end of the killed server's processes")
    wait_for(lambda: not any(pid and alive(pid) for pid in sinks), "the end of its sinks")
    for lock in (server.data / "postmaster.pid", server.directory / f".s.PGSQL.{server.port}.lock"):
        lock.unlink(missing_ok=True)


def promote(standby):
    standby.sql("SELECT pg_promote()")
    copies = [Database(standby, name) for (name,) in standby.sql("SELECT datname FROM pg_database WHERE datname = 'app'")]
    copies[0].wait_for_relay()
    return copies[0]


class Acknowledged:
    """One session that writes down which of its commits were reported as done."""

    def __init__(self, database):
        self.database, self.stopping, self.ids = database, threading.Event(), []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            with self.database.connect() as session:
                n = 0
                while not self.stopping.is_set():
                    n += 1
                    row = session.execute(
                        "INSERT INTO ledger SELECT outbox.emit('t', 'reported', concat('cAnArY-7f3a reported:', %s::int)),"
                        " 't', 'reported', %s RETURNING id::text", (n, n),
                    ).fetchone()  # fmt: skip
                    self.ids.append(row[0])
        except psycopg.OperationalError:
            pass  # the server is gone, and with it perhaps the last answer

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join(30)


# -- promotion ----------------------------------------------------------------------------------------------


def test_promotion_of_a_synchronous_standby_after_a_crash(make_cluster, copies, copy_directory, workload):
    """Killed under load: what was reported as committed is there and is sent, and nothing else was ever sent.

    A message leaves when its commit is visible, and with synchronous replication it is visible only once the
    standby has it.
    """
    primary = make_cluster()
    primary.expect_crash()
    database = to_file(primary)
    standby = standby_of(primary, copy_directory("standby"), "s1")
    copies.append(standby)
    primary.reload(synchronous_standby_names="s1")
    wait_for(
        lambda: primary.sql("SELECT sync_state FROM pg_stat_replication") == [("sync",)], "a synchronous standby"
    )
    load = workload(database, "t", sessions=3, keys=6)
    with load, Acknowledged(database) as acknowledged:
        wait_for(lambda: load.committed >= 150 and len(acknowledged.ids) >= 30, "load")
        kill(primary)
        load.stop()
    assert standby.workers("relay") == {} and standby.workers("launcher") == {}
    copy = promote(standby)
    copy.drain()
    kept = ledger(copy)
    assert set(acknowledged.ids) <= ids(kept), "a commit that was reported is lost"
    check(kept, read_messages(database.file), duplicates_allowed=True)
    assert copy.status()["backlog"] == 0


def test_promotion_of_an_asynchronous_standby_loses_what_postgresql_loses(make_cluster, copies, copy_directory):
    """Commits that never reached the standby are gone, sent or not; the others are sent, and new ones after them."""
    primary = make_cluster()
    primary.expect_crash()
    database = to_file(primary)
    database.sql(SCHEMA)
    standby = standby_of(primary, copy_directory("standby"))
    copies.append(standby)
    emit_many(database, "t", 5, 1, 200)
    database.drain()
    wait_until_caught_up(primary)
    # From here on the standby gets nothing. Half of what follows is delivered, half is not.
    standby.stop()
    emit_many(database, "t", 5, 201, 300)
    database.drain()
    os.kill(database.wait_for_sink(), signal.SIGSTOP)
    emit_many(database, "t", 5, 301, 400)
    on_the_primary = ledger(database)
    kill(primary)

    standby.start()
    copy = promote(standby)
    emit_many(copy, "t", 5, 201, 260)
    copy.drain()
    kept, arrived = ledger(copy), read_messages(database.file)
    lost = ids(on_the_primary) - ids(kept)
    phantoms = ids(arrived) & lost
    print(f"\n{len(lost)} commits lost by the failover, {len(phantoms)} of their messages had been sent")
    assert len(lost) == 200 and len(phantoms) == 100
    check(kept, [m for m in arrived if m.id not in lost], duplicates_allowed=True)


def test_chain_of_promotions(make_cluster, copies, copy_directory):
    """A standby of a standby: each goes on where the one before it was killed."""
    primary = make_cluster(wal_keep_size="1GB")
    primary.expect_crash()
    database = to_file(primary)
    database.sql(SCHEMA)
    first = standby_of(primary, copy_directory("first"))
    second = standby_of(first, copy_directory("second"))
    copies.extend([first, second])
    first.expect_crash()
    with database.connect(autocommit=False) as session:
        session.execute(
            "INSERT INTO ledger SELECT outbox.emit('t', 'prepared', 'cAnArY-7f3a prepared:1'), 't', 'prepared', 1"
        )
        session.execute("PREPARE TRANSACTION 'survives two promotions'")
    emit_many(database, "t", 5, 1, 500)
    database.drain()
    os.kill(database.wait_for_sink(), signal.SIGSTOP)
    emit_many(database, "t", 5, 501, 700)
    for server in (primary, first):
        wait_until_caught_up(server)
    kill(primary)

    copy = promote(first)
    emit_many(copy, "t", 5, 701, 800)
    copy.drain()
    assert second.workers("relay") == {}
    wait_until_caught_up(first)
    kill(first)
    copy = promote(second)
    emit_many(copy, "t", 5, 801, 900)
    copy.drain()
    assert "prepared" not in {m.key.decode() for m in read_messages(database.file)}
    copy.sql("COMMIT PREPARED 'survives two promotions'")
    wait_for(lambda: any(m.key == b"prepared" for m in read_messages(database.file)), "the prepared message")
    check(ledger(copy), read_messages(database.file), duplicates_allowed=True)


def test_wait_for_a_synchronous_standby(make_cluster, unique):
    """A message is not sent while its commit waits for the standby. If that wait is cancelled, PostgreSQL shows
    the commit all the same, with a warning, and then its message is sent, though no standby has it. A commit
    that does not wait (synchronous_commit = local) is not held up, nor is the relay."""
    server = make_cluster(outbox__segment_size="64kB", outbox__retention="0")
    database = to_file(server)
    database.emit("t", "k", "before")
    database.drain()
    hold_back_commits(server)
    warnings = []
    waiting = database.connect()
    waiting.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    thread = threading.Thread(target=lambda: waiting.execute("SELECT outbox.emit('t', 'k', 'waits for a standby')"))
    thread.start()
    wait_for(
        lambda: server.sql("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", waiting.info.backend_pid)
        == [("SyncRep",)],
        "the commit to wait for a standby",
    )
    with database.connect(options="-c synchronous_commit=local") as local:
        for n in range(20):
            local.execute("SELECT count(outbox.emit('t', 'other', rpad(%s, 1000))) FROM generate_series(1, 20)", (f"{n}",))
        assert local.execute("SELECT outbox.wait_for_delivery('20 s')").fetchone() == (True,)
    assert "waits for a standby" not in [m.value.decode() for m in read_messages(database.file)]
    assert thread.is_alive()
    server.sql("SELECT pg_cancel_backend(%s)", waiting.info.backend_pid)
    thread.join(10)
    assert not thread.is_alive() and "canceling wait for synchronous replication" in warnings[0]
    wait_for(
        lambda: [m.value.decode() for m in read_messages(database.file)].count("waits for a standby") == 1,
        "the message of the cancelled wait",
    )
    release_commits(server)
    waiting.close()


def test_restart_while_commits_wait_for_a_standby(own_server):
    """A crash recovers them as committed, as PostgreSQL documents; then they are sent, once."""
    database = to_file(own_server)
    own_server.expect_crash()
    hold_back_commits(own_server)
    sessions = [database.connect() for _ in range(5)]

    def commit(session, number):
        try:
            session.execute("SELECT outbox.emit('t', %s, 'waited')", (f"k{number}",))
        except psycopg.OperationalError:
            pass  # the outcome is unknown to the session

    threads = [threading.Thread(target=commit, args=(s, n)) for n, s in enumerate(sessions)]
    for thread in threads:
        thread.start()
    wait_for(
        lambda: own_server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(5,)],
        "five commits that wait",
    )
    assert read_messages(database.file) == []
    own_server.stop("immediate")
    for thread in threads:
        thread.join(10)
    own_server.start(synchronous_standby_names="")
    database.drain()
    assert sorted(m.key for m in read_messages(database.file)) == [b"k%d" % n for n in range(5)]


def test_standby_that_does_not_load_the_library(make_cluster, copies, copy_directory):
    """It follows all the same; promoted, emit() says what is missing, and once it is there everything is sent."""
    primary = make_cluster()
    database = to_file(primary)
    standby = standby_of(primary, copy_directory("standby"))
    copies.append(standby)
    standby.restart(shared_preload_libraries="")
    database.emit("t", "k", "delivered")
    database.drain()
    os.kill(database.wait_for_sink(), signal.SIGSTOP)
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 50) AS n")
    wait_until_caught_up(primary)
    primary.stop("immediate")
    standby.sql("SELECT pg_promote()")
    copy = Database(standby, "app")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        copy.emit("t", "k", "refused")
    assert "shared_preload_libraries" in refusal.value.diag.message_hint
    assert copy.value("SELECT count(*) FROM outbox.messages") == 51
    standby.restart(shared_preload_libraries="outbox")
    copy.emit("t", "k", "51")
    copy.drain()
    arrived = [m.value.decode() for m in read_messages(database.file)]
    assert list(dict.fromkeys(arrived)) == ["delivered", *(str(n) for n in range(1, 52))]


# -- base backup, clone, point in time ----------------------------------------------------------------------


def test_clone_from_a_base_backup(make_cluster, copies, copy_directory):
    """With outbox.enabled = off it sends nothing, whatever it holds; without, it sends what it holds once more."""
    production = make_cluster()
    database = to_file(production)
    database.emit("t", "k", "delivered")
    database.drain()
    sink = database.wait_for_sink()
    os.kill(sink, signal.SIGSTOP)
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 100) AS n")
    clone = base_backup(production, copy_directory("clone"))
    copies.append(clone)
    os.kill(sink, signal.SIGCONT)
    database.drain()
    before = [m.value.decode() for m in read_messages(database.file)]
    assert before == ["delivered", *(str(n) for n in range(1, 101))]

    clone.start(outbox__enabled="off")
    copy = Database(clone, "app")
    copy.emit("t", "k", "made in the clone")
    assert copy.wait_for_state("disabled")["backlog"] == 101
    assert not copy.value("SELECT outbox.wait_for_delivery('300 ms')")
    assert copy.sink_pid is None
    assert len(read_messages(database.file)) == 101
    # An operator looks, discards, and gives it a life and a file of its own.
    copy.sql("SELECT outbox.pause()")
    assert copy.value("SELECT outbox.discard_backlog()") == 101
    own = clone.directory / "own.jsonl"
    copy.set(outbox__file_path=own)
    copy.sql("SELECT outbox.resume()")
    clone.reload(outbox__enabled=None)
    copy.emit("t", "k", "the clone's own")
    copy.drain()
    assert [m.value.decode() for m in read_messages(own)] == ["the clone's own"]

    # What happens to those who forget it: the same identity, so the same messages again, with the same ids.
    careless = base_backup(production, copy_directory("careless"))
    copies.append(careless)
    os.kill(database.wait_for_sink(), signal.SIGSTOP)
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(101, 150) AS n")
    second = base_backup(production, copy_directory("second"))
    copies.append(second)
    os.kill(database.sink_pid, signal.SIGCONT)
    database.drain()
    second.start()
    Database(second, "app").drain()
    arrived = read_messages(database.file)
    assert len(arrived) - len(ids(arrived)) == 50
    assert len(ids(arrived)) == 151


def archive_settings(directory):
    directory.mkdir()
    give_to_server_user(directory)
    return {"archive_mode": "on", "archive_command": f"cp %p {directory}/%f", "wal_level": "replica"}


@pytest.fixture
def archived(make_cluster, base_directory, unique):
    """A server that archives its WAL; `archive` is where."""
    archive = base_directory / unique("archive")
    server = make_cluster(**archive_settings(archive))
    server.archive = archive
    return server


def recover_to(backup, archive, restore_point):
    """Makes the base backup recover up to the restore point and then become a primary."""
    (backup.data / "recovery.signal").touch()
    give_to_server_user(backup.data / "recovery.signal")
    backup.configure(
        restore_command=f"cp {archive}/%f %p",
        recovery_target_name=restore_point,
        recovery_target_action="promote",
        archive_mode="off",
    )


def end_archive(server):
    """The WAL up to now is in the archive."""
    segment = server.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    wait_for(
        lambda: server.sql("SELECT last_archived_wal >= %s FROM pg_stat_archiver", segment) == [(True,)],
        "the archived WAL",
    )


def test_recovery_to_the_middle_of_the_stream(archived, copies, copy_directory, workload):
    """The recovered server takes the place of the original: what had not been delivered at that moment is sent,
    what came later never happened. Messages of what never happened had been sent; they are counted."""
    database = to_file(archived)
    backups = [base_backup(archived, copy_directory(name)) for name in ("successor", "silent")]
    copies.extend(backups)
    load = workload(database, "t", sessions=3, keys=6)
    with load:
        wait_for(lambda: load.committed >= 100, "load")
        os.kill(sink := database.wait_for_sink(), signal.SIGSTOP)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 50, "load that is not delivered")
        archived.sql("SELECT pg_create_restore_point('middle')")
        os.kill(sink, signal.SIGCONT)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 100, "load after the restore point")
        load.stop()
    database.drain()
    before_the_disaster = ledger(database)
    end_archive(archived)
    archived.stop("immediate")
    delivered = read_messages(database.file)
    check(before_the_disaster, delivered)

    # First a look at it that sends nothing.
    successor, silent = backups
    recover_to(silent, archived.archive, "middle")
    silent.start(outbox__enabled="off")
    wait_for(lambda: silent.sql("SELECT pg_is_in_recovery()") == [(False,)], "the end of recovery")
    copy = Database(silent, "app")
    assert copy.wait_for_state("disabled")["backlog"] >= 50
    assert not copy.value("SELECT outbox.wait_for_delivery('300 ms')")
    assert read_messages(database.file) == delivered

    recover_to(successor, archived.archive, "middle")
    successor.start()
    wait_for(lambda: successor.sql("SELECT pg_is_in_recovery()") == [(False,)], "the end of recovery")
    copy = Database(successor, "app")
    copy.wait_for_relay()
    kept = ledger(copy)
    lost = ids(before_the_disaster) - ids(kept)
    emit_many(copy, "t", 3, 1, 100)
    copy.drain()
    arrived = read_messages(database.file)
    print(f"\n{len(lost)} messages undone by the recovery had been sent; {len(arrived) - len(ids(arrived))} sent again")
    assert lost and len(kept) > 100
    check(ledger(copy), [m for m in arrived if m.id not in lost], duplicates_allowed=True)


# -- dumps --------------------------------------------------------------------------------------------------


def dump(server, *options):
    run([PG_BIN / "pg_dump", "-h", server.directory, "-p", server.port, "-U", "postgres", *options, "app"])


def restore(server, *options):
    run([PG_BIN / "pg_restore", "--exit-on-error", "-h", server.directory, "-p", server.port, "-U", "postgres", *options])


@pytest.mark.parametrize("kind", ["directory in parallel", "data only"])
def test_dump_under_load_restored_elsewhere(make_cluster, workload, kind):
    """Silent until told; then the copy sends what was not delivered in the moment of the dump: all of it, and
    nothing else."""
    production = make_cluster()
    database = to_file(production)
    # Transaction ids mean nothing elsewhere: the copy's will be far below these.
    production.sql("DO $$ BEGIN FOR n IN 1 .. 3000 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$")
    path = production.directory / "dump"
    load = workload(database, "t", sessions=3, keys=6, rate=600, prepared=0.1)
    with load:
        wait_for(lambda: load.committed >= 100, "load")
        os.kill(sink := database.wait_for_sink(), signal.SIGSTOP)
        reached = load.committed
        wait_for(lambda: load.committed >= reached + 50, "load that is not delivered")
        arguments = {"directory in parallel": ["-Fd", "-j3"], "data only": ["-Fc", "--data-only"]}
        dump(production, *arguments[kind], "-f", path)
        os.kill(sink, signal.SIGCONT)
    assert not load.errors
    database.drain()
    delivered = read_messages(database.file)
    check(load.sent(), delivered)
    production.stop()

    staging = make_cluster(fresh=True)
    staging.sql("CREATE DATABASE app")
    copy = Database(staging, "app")
    own = staging.directory / "m.jsonl"
    copy.set(outbox__sink="file", outbox__file_path=own)
    if kind == "data only":
        copy.sql("CREATE EXTENSION outbox")
        copy.wait_for_relay()
        copy.sql(SCHEMA)
    restore(staging, "-d", "app", *(["-j3"] if kind == "directory in parallel" else []), path)
    waiting = copy.sql("SELECT id::text FROM outbox.messages WHERE NOT settled")
    backlog = copy.wait_for_state("foreign")["backlog"]
    assert backlog >= len(waiting) >= 50
    assert not copy.value("SELECT outbox.wait_for_delivery('300 ms')")
    assert read_messages(own) == []
    copy.sql("SELECT outbox.resume()")
    emit_many(copy, "t", 3, 1, 100)
    copy.drain()
    of_the_copy, kept = read_messages(own), ledger(copy)
    new = {m.id for m in kept if m.key.startswith(b"many")}
    assert len(new) == 100 and copy.status()["backlog"] == 0
    assert len(of_the_copy) == len(ids(of_the_copy)), "sent twice"
    assert ids(of_the_copy) == {i for (i,) in waiting} | new
    # Together with what production delivered of it: the ledger, in order.
    check(kept, [m for m in delivered if m.id in ids(kept)] + of_the_copy, duplicates_allowed=True)


def test_old_data_restored_into_the_database_they_came_from(own_server):
    """Yesterday's rows of the log and yesterday's sequence come back on top of today's: what was delivered is not
    sent again, and what is emitted from then on has positions that the relay has not read yet."""
    database = to_file(own_server)
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 50) AS n")
    database.drain()
    path = own_server.directory / "yesterday"
    dump(own_server, "-Fc", "--data-only", "-f", path)
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(51, 100) AS n")
    database.drain()
    restore(own_server, "-d", "app", path)
    database.emit("t", "k", "101")
    database.sql("SELECT outbox.resume()")
    database.emit("t", "k", "102")
    database.drain()
    assert [m.value for m in read_messages(database.file)] == [b"%d" % n for n in range(1, 103)]
    # By hand, and unseen by the relay that is there.
    database.sql("SELECT setval('outbox.message_position', 5)")
    own_server.sql("SELECT pg_terminate_backend(%s)", relay := database.relay_pid)
    database.wait_for_relay(other_than=relay)
    wait_for(lambda: database.value("SELECT last_value >= 102 FROM outbox.message_position"), "positions to go on")
    database.emit("t", "k", "103")
    database.drain()
    assert [m.value for m in read_messages(database.file)] == [b"%d" % n for n in range(1, 104)]


def test_positions_after_a_crash(own_server):
    """With or without a checkpoint before it: what was logged of the sequence suffices, no position comes twice."""
    database = to_file(own_server)
    own_server.expect_crash()
    database.sql("SELECT outbox.pause()")  # the relay remembers the highest position that it has read
    emitted = 0

    def emit(count):
        nonlocal emitted
        database.sql(f"SELECT outbox.emit('t', 'k', n::text) FROM generate_series({emitted + 1}, {emitted + count}) AS n")
        emitted += count

    for before_the_last in ("SELECT", "CHECKPOINT"):
        for count in (1, 1500, 100):
            emit(count)
        database.sql(before_the_last)
        emit(1)
        own_server.stop("immediate")
        own_server.start()
        emit(2)
    stored = database.sql("SELECT position, convert_from(payload, 'UTF8')::int FROM outbox.messages ORDER BY position")
    assert [number for _, number in stored] == list(range(1, emitted + 1))
    assert len({position for position, _ in stored}) == len(stored) == emitted
    database.sql("SELECT outbox.resume()")
    database.drain()
    assert [m.value for m in read_messages(database.file)] == [b"%d" % n for n in range(1, emitted + 1)]
