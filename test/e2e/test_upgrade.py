"""pg_upgrade to a new cluster of the same version, by copying and by linking files."""

import shutil

import pytest

from support.cluster import PG_BIN, Database
from support.files import read_messages
from support.ledger import Sent, check
from support.processes import as_server_user, give_to_server_user, run
from support.waiting import wait_for
from support.workload import SCHEMA, emit_many, ledger

pytestmark = pytest.mark.skipif(
    not (PG_BIN / "pg_upgrade").exists() or not shutil.which("setpriv"), reason="pg_upgrade is not installed"
)


def upgrade(old, new, *options):
    """Runs pg_upgrade as the server's user, in a folder of its own."""
    work = new.directory / "upgrade"
    work.mkdir(exist_ok=True)
    give_to_server_user(work)
    return run(
        as_server_user([PG_BIN / "pg_upgrade", "-b", PG_BIN, "-B", PG_BIN, "-d", old.data, "-D", new.data,
                        "-p", old.port, "-P", new.port, "-U", "postgres", "--socketdir", work, "--no-sync", *options]),
        cwd=work,
    )  # fmt: skip


def sink_options(server, *lines):
    path = server.directory / "sink.properties"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    give_to_server_user(path)
    return path


@pytest.mark.parametrize("mode", ["--copy", "--link"])
def test_pg_upgrade(make_cluster, mode):
    """Pending, deferred and parked messages, the settled ones and the positions are taken along. Nothing is sent
    meanwhile, nor afterwards before outbox.resume(): the new server has another system identifier."""
    # At this level a server's log names every background worker that it registers.
    old = make_cluster(log_min_messages="debug1")
    file = old.directory / "m.jsonl"
    options = sink_options(old, "refuse.topic=missing", "refuse.message.containing=poison")
    database = old.database("app", outbox__sink="file", outbox__file_path=file, outbox__file_config_file=options)
    quiet = old.database("quiet", outbox__sink="file", outbox__file_path=old.directory / "quiet.jsonl")
    quiet.emit("t", "k", "delivered before")
    quiet.drain()
    database.sql(SCHEMA)
    emit_many(database, "t", 5, 1, 100)
    database.sql("SELECT count(outbox.emit('missing', 'k', n::text)) FROM generate_series(1, 3) AS n")
    database.emit("parked", "k", "poison")
    database.emit("parked", "k", "behind it")
    wait_for(
        lambda: database.sql("SELECT state, count(*) FROM outbox.deferred GROUP BY 1 ORDER BY 1")
        == [("parked", 2), ("waiting", 3)],
        "three messages that wait and two that are parked",
    )
    old.reload(outbox__enabled="off")
    database.wait_for_state("disabled")
    emit_many(database, "t", 5, 101, 300)
    last = database.value("SELECT last_value FROM outbox.message_position")
    identifier = old.sql("SELECT system_identifier FROM pg_control_system()")
    old.stop()
    assert "outbox launcher" in old.log_text()
    # pg_upgrade starts both servers; as far as the settings go they could send.
    old.configure(outbox__enabled=None).write_configuration()

    new = make_cluster(fresh=True, start=False, log_min_messages="debug1")
    new.write_configuration()
    if mode == "--link":
        upgrade(old, new, "--link", "--retain")
    else:
        assert "Clusters are compatible" in upgrade(old, new, "--check")
        upgrade(old, new, "--retain")
    sent_before = read_messages(file)
    assert len(sent_before) == 100
    servers = "".join(log.read_text(errors="replace") for log in new.data.glob("pg_upgrade_output.d/**/*server*.log"))
    assert "database system is ready to accept connections" in servers
    assert "outbox launcher" not in servers and "outbox relay" not in servers

    # The topic that was missing is there now.
    sink_options(old, "refuse.message.containing=poison")
    new.start()
    assert new.sql("SELECT system_identifier FROM pg_control_system()") != identifier
    copy, quiet = Database(new, "app"), Database(new, "quiet")
    assert copy.wait_for_state("foreign")["backlog"] == 203
    emit_many(copy, "t", 5, 301, 350)
    assert copy.value("SELECT min(position) FROM outbox.messages WHERE position > %s", last) == last + 1
    assert not copy.value("SELECT outbox.wait_for_delivery('300 ms')")
    assert read_messages(file) == sent_before
    assert copy.sql("SELECT count(*) FROM outbox.deferred WHERE state = 'parked'") == [(2,)]
    # A database without a backlog goes on by itself.
    quiet.emit("t", "k", "delivered after")
    quiet.drain()
    assert [m.value for m in read_messages(old.directory / "quiet.jsonl")] == [b"delivered before", b"delivered after"]

    copy.sql("SELECT outbox.resume()")
    copy.drain()
    wait_for(lambda: len(read_messages(file)) == 353, "everything that was waiting")
    arrived = read_messages(file)
    deferred = [Sent(m.id, "missing", b"k", b"%d" % n) for n, m in enumerate((m for m in arrived if m.topic == "missing"), 1)]
    check(ledger(copy) + deferred, arrived)
    assert len(deferred) == 3
    assert copy.status()["delivered"] == 353
    wait_for(
        lambda: copy.sql("SELECT convert_from(payload, 'UTF8') FROM outbox.deferred ORDER BY position")
        == [("poison",), ("behind it",)],
        "nothing but the parked messages among the deferred ones",
    )
    # And once more with nothing waiting: no operator is needed.
    new.restart()
    copy.emit("t", "many 0", "after a restart")
    copy.drain()
