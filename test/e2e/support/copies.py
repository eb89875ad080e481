"""Copies of a whole server: standbys, base backups, clones. And commits that wait for one."""

import threading

from support.cluster import PG_BIN, Cluster
from support.processes import as_server_user, give_to_server_user, run
from support.waiting import wait_for


def base_backup(source, directory, *options):
    """A server, not started, whose data are a base backup of `source`; it has the extension's settings of it."""
    copy = Cluster(directory)
    copy.directory.mkdir()
    copy.directory.chmod(0o755)
    give_to_server_user(copy.directory)
    run(
        as_server_user([PG_BIN / "pg_basebackup", "-h", source.directory, "-p", source.port, "-U", "postgres",
                        "-D", copy.data, "-X", "stream", "-c", "fast", "--no-sync", *options]),
        cwd="/",
    )  # fmt: skip
    return copy.configure(**{name: value for name, value in source.settings.items() if "." in name})


def standby_of(primary, directory, name=None):
    """A running standby; `name` is what the primary's synchronous_standby_names may call it."""
    standby = base_backup(primary, directory, "-R")
    if name:
        # As in every standby, its own name is part of where it gets the WAL from.
        settings = standby.data / "postgresql.auto.conf"
        settings.write_text(settings.read_text().replace("primary_conninfo = '", f"primary_conninfo = 'application_name={name} "))
    return standby.start()


def wait_until_caught_up(primary):
    """Every standby that is connected has replayed what `primary`, which may itself be one, has at present."""
    position = primary.sql(
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"
    )[0][0]
    wait_for(
        lambda: primary.sql("SELECT bool_and(replay_lsn >= %s::pg_lsn) FROM pg_stat_replication", position) == [(True,)],
        "the standbys to catch up",
    )


def hold_back_commits(server):
    """From here on commits wait for a standby that does not exist, until release_commits()."""
    server.reload(synchronous_standby_names="nobody")
    waits = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = %s"
    # It is not the sessions that decide, but the checkpointer, when it has read the new configuration.
    while True:
        with server.connect() as probe:
            pid = probe.info.backend_pid
            commit = "SELECT pg_logical_emit_message(true, 'probe', '')"
            thread = threading.Thread(target=probe.execute, args=(commit,), daemon=True)
            thread.start()
            wait_for(lambda: not thread.is_alive() or server.sql(waits, pid) == [(True,)], "a commit, or its waiting")
            waiting = thread.is_alive()
            if waiting:
                server.sql("SELECT pg_cancel_backend(%s)", pid)
            thread.join(10)
            if waiting:
                return


def release_commits(server):
    server.reload(synchronous_standby_names="")
