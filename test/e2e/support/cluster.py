"""Throw-away PostgreSQL servers with outbox preloaded, and databases in them."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from support.kafka import free_port
from support.processes import alive, as_server_user, give_to_server_user, run
from support.waiting import wait_for

PG_BIN = Path(
    subprocess.run(
        [os.environ.get("PG_CONFIG", "pg_config"), "--bindir"], capture_output=True, text=True, check=True
    ).stdout.strip()
)

# Words in a server's log that mean somebody died who should not have.
CRASH = re.compile(
    r"\(PID \d+\) was terminated by signal|PANIC: |TRAP: |stuck spinlock|terminating any other active server processes"
    r"|Sanitizer|runtime error:"
)
# The server's word that it takes sessions, at its start and after a crash.
READY = "database system is ready to accept connections"
# Is in payloads and secrets wherever a test can put it; in no log, ever.
CANARY = "cAnArY-7f3a"

SETTINGS = {
    "fsync": "off",
    "listen_addresses": "127.0.0.1",
    "shared_preload_libraries": "outbox",
    "max_connections": 120,
    "max_prepared_transactions": 20,
    "max_worker_processes": 40,
    "outbox.max_databases": 24,
    "log_line_prefix": "%m [%p] %b %q%u@%d ",
    "log_checkpoints": "off",
}


class Cluster:
    """One server, with a folder, a port and a log of its own."""

    alive = []  # for the report on a failed test
    bin = PG_BIN  # of the server's programs
    environment = {}  # variables that the server is started with, beside ours

    def __init__(self, directory, programs=None):
        self.directory = Path(directory)
        if programs:
            self.bin = programs
        self.data = self.directory / "data"
        self.log = self.directory / "postgres.log"
        self.port = free_port()
        self.settings = dict(SETTINGS, unix_socket_directories=str(self.directory), port=self.port)
        self.databases = []
        self.crash_expected = False

    # -- making one ---------------------------------------------------------------------------------------

    def create(self, template=None):
        """A new cluster: a copy of `template`'s data (with its identity), or made by initdb."""
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o755)
        if template:
            run(["cp", "-a", template, self.data])
        give_to_server_user(self.directory)
        if not template:
            initdb(self.data)
        return self

    def configure(self, **settings):
        """Settings for postgresql.conf; a double underscore stands for the dot. None removes one."""
        for name, value in settings.items():
            name = name.replace("__", ".")
            if value is None:
                self.settings.pop(name, None)
            else:
                self.settings[name] = value
        return self

    def write_configuration(self):
        lines = [f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'" for name, value in self.settings.items()]
        path = self.data / "e2e.conf"
        path.write_text("\n".join(lines) + "\n")
        main = self.data / "postgresql.conf"
        if "e2e.conf" not in main.read_text():
            with main.open("a") as file:
                file.write("include 'e2e.conf'\n")
        give_to_server_user(path)

    def reload(self, **settings):
        self.configure(**settings)
        self.write_configuration()
        self.sql("SELECT pg_reload_conf()")

    # -- running it ---------------------------------------------------------------------------------------

    def start(self, options="", **settings):
        """`options` are for the command line of the server."""
        self.configure(**settings)
        self.write_configuration()
        # With our standard output the server would keep a reader of it waiting.
        command = [self.bin / "pg_ctl", "start", "-D", self.data, "-l", self.log, "-w", "-t", "60", "-o", options]
        done = subprocess.run(
            as_server_user(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False, cwd="/",
            env=dict(os.environ, **self.environment),
        )  # fmt: skip
        assert done.returncode == 0, f"the server does not start:\n{self.log_tail()}"
        if self not in Cluster.alive:
            Cluster.alive.append(self)
        return self

    def stop(self, mode="fast"):
        if self.running:
            run(as_server_user([self.bin / "pg_ctl", "stop", "-D", self.data, "-m", mode, "-w", "-t", "60"]), cwd="/")

    def restart(self, mode="fast", **settings):
        self.stop(mode)
        self.start(**settings)

    def kill_process(self, pid):
        """kill -9 of one of the server's processes; back when the server has restarted everything because of it.

        For a moment after the process is gone the postmaster does not know it yet, and takes sessions.
        """
        offset = self.log_size()
        os.kill(pid, signal.SIGKILL)
        self.wait_for_crash_restart(pid, offset)

    def wait_for_crash_restart(self, pid, offset):
        """Waits until the server has restarted because `pid` was killed after that place in the log."""
        death = re.compile(rf"\(PID {pid}\) was terminated by signal")

        def restarted():
            lines = self.log_since(offset)
            dead = [number for number, line in enumerate(lines) if death.search(line)]
            return dead and any(READY in line for line in lines[dead[0] :])

        wait_for(restarted, f"the server's restart after the death of {pid}", timeout=60)

    def recover_after_kill(self):
        """Starts the server again after its postmaster was killed; its children must have noticed by then."""
        wait_for(lambda: not self._processes(), "the end of the killed server's processes")
        # A killed postmaster that nobody has waited for yet counts as alive where only its number is looked at.
        for lock in (self.data / "postmaster.pid", self.directory / f".s.PGSQL.{self.port}.lock"):
            lock.unlink(missing_ok=True)
        self.start()

    def _processes(self):
        """Whoever works in the data directory."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if os.readlink(f"/proc/{entry}/cwd") == str(self.data) and alive(int(entry)):
                    found.append(int(entry))
        return found

    @property
    def postmaster_pid(self):
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    @property
    def running(self):
        try:
            return alive(self.postmaster_pid)
        except (FileNotFoundError, IndexError, ValueError):
            return False

    def expect_crash(self):
        """This test kills a server process on purpose."""
        self.crash_expected = True
        (self.directory / "crash-expected").touch()

    def remove(self):
        """Stops the server and complains about what its log shows."""
        if self in Cluster.alive:
            Cluster.alive.remove(self)
        self.stop("immediate")
        complaints = self.complaints()
        assert not complaints, "the server's log shows:\n" + "\n".join(complaints)

    # -- its log ------------------------------------------------------------------------------------------

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_size(self):
        return self.log.stat().st_size

    def log_since(self, offset):
        """The lines that were written behind that place."""
        with self.log.open(errors="replace") as file:
            file.seek(offset)
            return file.readlines()

    def log_tail(self, lines=80):
        return "\n".join(self.log_text().splitlines()[-lines:])

    def complaints(self):
        wrong = [CANARY] if self.crash_expected else [CANARY, CRASH]
        return [
            line
            for line in self.log_text().splitlines()
            if any(w.search(line) if isinstance(w, re.Pattern) else w in line for w in wrong)
        ]

    # -- SQL ----------------------------------------------------------------------------------------------

    def connect(self, database="postgres", **options):
        options.setdefault("autocommit", True)
        return psycopg.connect(
            host=str(self.directory), port=self.port, dbname=database, user=options.pop("user", "postgres"), **options
        )

    def sql(self, query, *parameters, database="postgres"):
        """Runs one statement in a session of its own; its rows, if it has any."""
        with self.connect(database) as connection:
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def database(self, name, options="", extension=True, **settings):
        """A new database, with settings of its own (a double underscore for the dot) and the extension."""
        self.sql(f'CREATE DATABASE "{name}" {options}')
        database = Database(self, name)
        database.set(**settings)
        if extension:
            database.sql("CREATE EXTENSION outbox")
        return database

    def workers(self, kind):
        """Process ids of our background workers of a kind, by database."""
        rows = self.sql("SELECT pid, datname FROM pg_stat_activity WHERE backend_type = %s", f"outbox {kind}")
        return {database: pid for pid, database in rows}

    @property
    def launcher_pid(self):
        pids = list(self.workers("launcher").values())
        assert len(pids) <= 1, f"several launchers: {pids}"
        return pids[0] if pids else None


def private_installation(directory):
    """Copies of the server's programs, with a library folder of their own into which a test may put programs.

    PostgreSQL looks for its folders beside its own program, so everything else can be links. Returns the folders of
    the programs and of the library.
    """
    flags = ("--bindir", "--pkglibdir", "--sharedir")
    folders = [Path(run([PG_BIN / "pg_config", flag]).strip()) for flag in flags]
    common = Path(os.path.commonpath(folders))
    programs, library, share = (directory / folder.relative_to(common) for folder in folders)
    for folder in (programs, library, share.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("postgres", "pg_ctl"):
        shutil.copy(folders[0] / name, programs)
    for entry in folders[1].iterdir():
        (library / entry.name).symlink_to(entry)
    share.symlink_to(folders[2])
    return programs, library


def initdb(data):
    run(
        as_server_user(
            [PG_BIN / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8",
             "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        ),
        cwd="/",
    )


class Database:
    """One database, with the extension in it."""

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        if name not in cluster.databases:
            cluster.databases.append(name)

    def set(self, **settings):
        for name, value in settings.items():
            quoted = str(value).replace("'", "''")
            self.cluster.sql(f"ALTER DATABASE \"{self.name}\" SET {name.replace('__', '.')} = '{quoted}'")

    def connect(self, **options):
        return self.cluster.connect(self.name, **options)

    def sql(self, query, *parameters):
        return self.cluster.sql(query, *parameters, database=self.name)

    def value(self, query, *parameters):
        return self.sql(query, *parameters)[0][0]

    @contextlib.contextmanager
    def transaction(self):
        """A session with an open transaction: commits at the end of the block, rolls back on an error."""
        with self.connect(autocommit=False) as connection:
            yield connection

    def emit(self, topic, key, payload, headers=None, partition=None):
        """In a transaction of its own; key and payload of the types that psycopg gives them."""
        headers = None if headers is None else json.dumps(headers)
        return str(
            self.value(
                "SELECT outbox.emit(%s, %s, %s, %s::jsonb, %s::integer)", topic, key, payload, headers, partition
            )
        )

    def status(self):
        with self.connect(row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute("SELECT * FROM outbox.status").fetchone()

    def wait_for_state(self, *states, timeout=30.0):
        def reached():
            status = self.status()
            return status if status["state"] in states else None

        try:
            return wait_for(reached, f"state {' or '.join(states)}", timeout)
        except AssertionError:
            raise AssertionError(f"not {' or '.join(states)} but {self.status()}") from None

    def drain(self, timeout=30):
        """Waits until everything committed so far is settled."""
        delivered = self.value("SELECT outbox.wait_for_delivery(%s::interval)", f"{timeout} s")
        assert delivered, f"not delivered within {timeout} s: {self.status()}"

    @property
    def relay_pid(self):
        return self.cluster.workers("relay").get(self.name)

    @property
    def sink_pid(self):
        return self.status()["sink_pid"]

    def wait_for_relay(self, other_than=None, timeout=30.0):
        def there():
            pid = self.relay_pid
            return pid if pid and pid != other_than else None

        return wait_for(there, f"a relay in {self.name}", timeout)

    def wait_for_sink(self, other_than=None, timeout=30.0):
        def there():
            pid = self.sink_pid
            return pid if pid and pid != other_than and alive(pid) else None

        return wait_for(there, f"a sink of {self.name}", timeout)

    def drop(self, force=False):
        self.cluster.sql(f'DROP DATABASE IF EXISTS "{self.name}"' + (" WITH (FORCE)" if force else ""))
        if self.name in self.cluster.databases:
            self.cluster.databases.remove(self.name)


@contextlib.contextmanager
def measured(what):
    """Prints how long the block took."""
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.2f} s")
