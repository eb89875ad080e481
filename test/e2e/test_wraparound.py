"""Transaction ids and multixact ids at 2^31 and 2^32, on a cluster whose counters are set there."""

import pytest

from support.cluster import PG_BIN
from support.files import read_messages
from support.ledger import check
from support.processes import as_server_user, give_to_server_user, run
from support.waiting import wait_for
from support.workload import emit_many

pytestmark = pytest.mark.skipif(not (PG_BIN / "pg_resetwal").exists(), reason="pg_resetwal is not installed")

SEGMENT_BYTES = 32 * 8192
XIDS_PER_SEGMENT = SEGMENT_BYTES * 4
MULTIXACTS_PER_SEGMENT = SEGMENT_BYTES // 4


def set_counters(server, xid):
    """The next transaction id is `xid`, with its epoch, and the next multixact id its lower half. The status files
    of the ids at which the server starts have to be there."""
    server.stop()
    low, epoch = xid % 2**32, xid // 2**32
    for directory, number in (
        ("pg_xact", low // XIDS_PER_SEGMENT),
        ("pg_multixact/offsets", low // MULTIXACTS_PER_SEGMENT),
    ):
        file = server.data / directory / f"{number:04X}"
        if not file.exists():
            file.write_bytes(bytes(SEGMENT_BYTES))
            give_to_server_user(file)
    oldest = run(as_server_user([PG_BIN / "pg_controldata", "-D", server.data]), env={"LC_ALL": "C"}, cwd="/")
    oldest = next(line.split()[-1] for line in oldest.splitlines() if "oldestMultiXid" in line)
    run(
        as_server_user([PG_BIN / "pg_resetwal", "-D", server.data, "-x", low, "-e", epoch, "-m", f"{low},{oldest}"]),
        cwd="/",
    )
    server.start()
    assert server.sql("SELECT txid_current()")[0][0] >= xid


def freeze_everything(server):
    for (database,) in server.sql("SELECT datname FROM pg_database"):
        server.sql("VACUUM (FREEZE)", database=database)
    server.sql("CHECKPOINT")


def burn_to(server, xid):
    """Uses up transaction ids until `xid` has been given out."""
    server.sql(f"DO $$ BEGIN WHILE txid_current() < {xid} LOOP COMMIT; END LOOP; END $$")


def burn_multixacts(database, count):
    """Two sessions lock the rows of the relay's own table together, which takes a multixact id each time."""
    with database.connect(autocommit=False) as one, database.connect(autocommit=False) as two:
        for _ in range(count):
            for session in (one, two):
                session.execute("SELECT 1 FROM outbox.deferred FOR SHARE")
            one.rollback()
            two.rollback()


def test_transaction_ids_wrap_around(make_cluster, workload):
    """With a backlog, a prepared transaction that is still open, and restarts in between: everything arrives once
    and in order; the segments, for which autovacuum is off, are frozen by it nevertheless."""
    server = make_cluster(
        autovacuum_naptime="1s", vacuum_freeze_min_age=0, vacuum_freeze_table_age=0,
        vacuum_multixact_freeze_min_age=0, autovacuum_vacuum_cost_delay=0, autovacuum_max_workers=6,
    )  # fmt: skip
    file, options = server.directory / "m.jsonl", server.directory / "sink.properties"
    options.write_text("refuse.message.containing=poison\n")
    options.chmod(0o600)
    give_to_server_user(options)
    database = server.database("app", outbox__sink="file", outbox__file_path=file, outbox__file_config_file=options)
    server.sql("UPDATE pg_database SET datallowconn = true")
    load = workload(database, "t", sessions=3, keys=6, prepared=0.1)
    database.emit("poisoned", "k", "poison")
    wait_for(lambda: database.value("SELECT count(*) FROM outbox.deferred") == 1, "a parked message")
    server.reload(outbox__enabled="off")
    emit_many(database, "t", 5, 1, 200)
    emitted = 200

    # Old rows, two thousand million transactions later: the vacuum against wraparound comes for them.
    set_counters(server, 2_000_000_000)
    wait_for(
        lambda: database.value(
            "SELECT max(age(relfrozenxid)) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r'"
        ) < 150_000_000,
        "frozen segments", timeout=90, pause=0.2,
    )  # fmt: skip
    assert database.status()["backlog"] == 200
    freeze_everything(server)

    for edge in (2**31, 2**32):
        set_counters(server, edge - 300)
        server.reload(outbox__enabled=None)
        open_gap = database.connect(autocommit=False)
        for name in ("kept", "undone"):
            open_gap.execute(
                "INSERT INTO ledger SELECT outbox.emit('t', %s, concat('cAnArY-7f3a ', %s::text, ':1')), 't', %s, 1",
                (f"{name} {edge}",) * 3,
            )
            open_gap.execute(f"PREPARE TRANSACTION '{name}'")
        open_gap.close()
        if edge == 2**31:
            with load:
                wait_for(lambda: load.committed >= 150, "load")
        else:
            emit_many(database, "t", 5, emitted + 1, emitted + 100)
            emitted += 100
        burn_multixacts(database, 200)
        burn_to(server, edge + 100)
        burn_multixacts(database, 200)
        database.drain()
        server.reload(outbox__enabled="off")
        database.wait_for_state("disabled")
        emit_many(database, "t", 5, emitted + 1, emitted + 100)
        emitted += 100
        server.restart(outbox__enabled=None)
        database.sql("COMMIT PREPARED 'kept'")
        database.sql("ROLLBACK PREPARED 'undone'")
        database.drain()
        wait_for(lambda edge=edge: b"kept %d" % edge in {m.key for m in read_messages(file)}, "the prepared message")
        xid = server.sql("SELECT txid_current()")[0][0]
        server.sql("CHECKPOINT")
        multixact = int(server.sql("SELECT next_multixact_id FROM pg_control_checkpoint()")[0][0])
        print(f"\nnext transaction id {xid}, next multixact id {multixact}")
        assert xid > edge
        assert edge % 2**32 < multixact < edge % 2**32 + 10000, "multixact ids have not passed the edge"
        server.reload(outbox__enabled="off")
        database.wait_for_state("disabled")
        emit_many(database, "t", 5, emitted + 1, emitted + 100)
        emitted += 100
        freeze_everything(server)
        if edge == 2**31:
            set_counters(server, 4_000_000_000)
            freeze_everything(server)
    server.reload(outbox__enabled=None)
    database.drain()
    assert not load.errors
    check(load.sent(), read_messages(file))
    assert database.status()["backlog"] == 0
