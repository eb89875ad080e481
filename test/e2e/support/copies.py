"""Copies of a whole server: standbys, base backups, clones."""

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
