"""Throw-away PostgreSQL servers and a real Kafka broker."""

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from .machine import alive, children, title
from .waiting import Failed, wait_for

ROOT = Path(__file__).resolve().parents[2]

# The same for every system. Logical decoding is what Debezium needs; whoever does not need it pays for it all the same.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_preload_libraries": "outbox",
    "wal_level": "logical",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "max_connections": 120,
    "fsync": "on",
    "log_line_prefix": "%m [%p] %b ",
}


def _pg_config(flag):
    config = os.environ.get("PG_CONFIG") or "/usr/lib/postgresql/15/bin/pg_config"
    return Path(subprocess.run([config, flag], capture_output=True, text=True, check=True).stdout.strip())


def bin_folder():
    return _pg_config("--bindir")


def library_folder():
    """Where outbox.so and the sink programs are."""
    return _pg_config("--pkglibdir")


def free_port():
    """Below the range that outgoing connections take theirs from."""
    for port in range(20000 + os.getpid() % 8000, 32000):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue
    raise Failed("no free port")


def as_server_user(argv):
    """PostgreSQL refuses to run as root: then its programs run as the user postgres."""
    argv = [str(argument) for argument in argv]
    if os.geteuid() != 0:
        return argv
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *argv]


def run(argv, timeout=600, **options):
    """Runs a program to its end; what it printed is in the error if it fails."""
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, check=False, timeout=timeout, **options
    )
    if done.returncode != 0:
        raise Failed(f"{argv[0]} {argv[1:4]} exited with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


# What a child of the postmaster calls itself, when it is no client's.
_KINDS = {
    "relay": re.compile(r"^postgres: outbox relay "),
    "launcher": re.compile(r"^postgres: outbox launcher"),
    "walsender": re.compile(r"^postgres: walsender "),
    "other": re.compile(
        r"^postgres: (checkpointer|background writer|walwriter|autovacuum|stats|logical replication|logger|startup)"
    ),
    "backend": re.compile(r"^postgres: "),
}


class Postgres:
    """One server in a folder of its own. start() makes one; a template is a data directory that a stopped one left."""

    def __init__(self, folder, template=None, **settings):
        self.folder = Path(folder)
        self.data, self.log = self.folder / "data", self.folder / "postgres.log"
        self.bin = bin_folder()
        self.port = free_port()
        self.settings = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
        self.settings |= {"port": self.port, "unix_socket_directories": str(self.folder)}
        self._kinds = {}
        self._create(template)

    @classmethod
    def start(cls, folder, template=None, **settings):
        """A double underscore in a setting's name stands for the dot."""
        server = cls(folder, template, **settings)
        server.restart()
        return server

    def _create(self, template):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        if template:
            run(["cp", "-a", "--reflink=auto", template, self.data])
        if os.geteuid() == 0:
            run(["chown", "-R", "postgres:", self.folder])
        if not template:
            run(as_server_user([self.bin / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=UTF8",
                                "--locale=C.UTF-8", "--no-sync"]), cwd="/")  # fmt: skip
            # A copy of this directory is found on disk as it would be after a start, not after initdb.
            with (self.data / "postgresql.conf").open("a") as file:
                file.write("include_if_exists 'bench.conf'\n")

    def restart(self, **settings):
        """Also the first start. Settings are kept."""
        self.shut_down()
        self.settings |= {name.replace("__", "."): value for name, value in settings.items()}
        self.write_settings()
        command = [self.bin / "pg_ctl", "start", "-D", self.data, "-l", self.log, "-w", "-t", "120"]
        done = subprocess.run(
            as_server_user(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=False
        )  # fmt: skip
        if done.returncode != 0:
            raise Failed(f"the server does not start: {self.log.read_text()[-2000:]}")

    def write_settings(self):
        lines = [f"{name} = '{str(value)}'\n" for name, value in self.settings.items()]
        (self.data / "bench.conf").write_text("".join(lines))

    def reload(self, **settings):
        self.settings |= {name.replace("__", "."): value for name, value in settings.items()}
        self.write_settings()
        self.execute("SELECT pg_reload_conf()")

    def shut_down(self, mode="fast"):
        if self.running:
            run(as_server_user([self.bin / "pg_ctl", "stop", "-D", self.data, "-m", mode, "-w", "-t", "300"]), cwd="/")

    def stop(self, keep=False, mode="immediate"):
        """Without `keep` nothing is left, so nothing needs to be written down first."""
        self.shut_down("fast" if keep else mode)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def freeze(self, folder):
        """Stops in good order; what it stored becomes a template in `folder`, and the server is gone."""
        self.shut_down("fast")
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.data, folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        # What is written back to disk later would be written during the measurements.
        os.sync()
        return Path(folder)

    @property
    def running(self):
        pid = self.postmaster_pid
        return pid is not None and alive(pid)

    @property
    def postmaster_pid(self):
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None

    # -- talking to it --------------------------------------------------------------------------------------

    @property
    def dsn(self):
        return f"host={self.folder} port={self.port} user=postgres dbname=postgres"

    def connect(self, **options):
        return psycopg.connect(self.dsn, autocommit=True, **options)

    def execute(self, *statements):
        with self.connect() as db:
            for statement in statements:
                db.execute(statement)

    def value(self, sql):
        with self.connect() as db:
            return db.execute(sql).fetchone()[0]

    def wal_lsn(self):
        """Bytes of WAL inserted so far."""
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def pgbench(
        self,
        script,
        clients,
        seconds=None,
        transactions=None,
        rate=None,
        log=None,
        prepared=True,
        variables=None,
        threads=1,
    ):
        """Runs `script` (SQL) in each of `clients` sessions, for so long or so often each.

        `log` is a folder for the log of every transaction: see "log_files" in the result."""
        file = self.folder / f"script-{time.monotonic_ns()}.sql"
        file.write_text(script)
        command = [self.bin / "pgbench", "-n", "-h", self.folder, "-p", str(self.port), "-U", "postgres", "-c", clients, "-j", threads,
                   "-M", "prepared" if prepared else "simple", "-f", file]  # fmt: skip
        command += ["-T", seconds] if seconds else ["-t", transactions]
        if rate:
            command += ["-R", rate]
        for name, value in (variables or {}).items():
            command += ["-D", f"{name}={value}"]
        if log:
            Path(log).mkdir(parents=True, exist_ok=True)
            command += ["-l", f"--log-prefix={log}/log"]
        out = run([*command, "postgres"], timeout=3600)
        file.unlink()
        return parse_pgbench(out) | {"log_files": sorted(Path(log).glob("log.*")) if log else []}

    # -- its processes --------------------------------------------------------------------------------------

    def pids(self, kind):
        """Of relays, launchers, walsenders, backends of clients, others; read from /proc, because asking in SQL would cost."""
        found = []
        for pid in children(self.postmaster_pid or 0):
            if pid not in self._kinds:
                words = title(pid)
                if not words.startswith("postgres: "):
                    continue  # just forked: it has not said yet what it is
                self._kinds[pid] = next(name for name, pattern in _KINDS.items() if pattern.match(words))
            if self._kinds[pid] == kind:
                found.append(pid)
        return found

    def relay_pid(self):
        return next(iter(self.pids("relay")), None)

    def sink_pid(self):
        relay = self.relay_pid()
        return next((pid for pid in children(relay) if title(pid).startswith("outbox-")), None) if relay else None

    def backend_pids(self):
        return self.pids("backend")

    def walsender_pids(self):
        return self.pids("walsender")

    def server_pids(self):
        """What belongs to the server itself: postmaster, checkpointer, writers."""
        return [self.postmaster_pid, *self.pids("other"), *self.pids("launcher")]

    # -- outbox in it ---------------------------------------------------------------------------------------

    def create_extension(self):
        self.execute("CREATE EXTENSION outbox")

    def pause(self):
        """`emit` stores and nothing is sent, until resume(); a copy of the data directory is paused, too."""
        self.execute("SELECT outbox.pause()")
        with self.connect() as db:
            wait_for(
                lambda: db.execute("SELECT state FROM outbox.status").fetchone()[0] == "paused", "the relay to rest"
            )

    def resume(self):
        self.execute("SELECT outbox.resume()")

    def wait_for_delivery(self, timeout=300):
        if not self.value(f"SELECT outbox.wait_for_delivery('{timeout} s')"):
            raise Failed(f"the backlog is not delivered within {timeout} s: {self.status()}")

    def status(self):
        with self.connect() as db:
            cursor = db.execute("SELECT * FROM outbox.status")
            return dict(zip([column.name for column in cursor.description], cursor.fetchone()))


def parse_pgbench(out):
    def number(pattern, default=None):
        found = re.search(pattern, out)
        return float(found.group(1)) if found else default

    return {
        "tps": number(r"tps = ([\d.]+)"),
        "latency_ms": number(r"latency average = ([\d.]+) ms"),
        "behind_ms": number(r"rate limit schedule lag: avg ([\d.]+)"),
        "transactions": int(number(r"transactions actually processed: (\d+)", 0)),
        "failed": int(number(r"number of failed transactions: (\d+)", 0)),
        "late": int(number(r"number of transactions skipped: (\d+)", 0)),
    }


class Kafka:
    """A broker of scripts/kafka: one node, KRaft."""

    # A heap of its full size from the beginning, with much room for what is young: some 100 MB of garbage in three seconds at
    # 1,000 messages a second mean a pause of 15 to 30 ms every three seconds otherwise, and that is a p99 of nobody's but the broker's.
    JAVA_OPTIONS = "-Xms1g -Xmn640m"
    # Deleted topics' files go at once: the next measurement should not share the disk with the last one's.
    PROPERTIES = ("log.segment.delete.delay.ms=1000", "log.retention.ms=-1", "log.retention.bytes=-1")

    def __init__(self, folder):
        self.folder = Path(folder)
        self.bootstrap = self._admin = None
        self._names = itertools.count(1)

    @classmethod
    def start(cls, folder, *properties, heap="1g", port=None):
        kafka = cls(folder)
        out = run(
            [ROOT / "scripts/kafka", "start", "--dir", kafka.folder, "--port", port or free_port(), *cls.PROPERTIES, *properties],
            env=dict(os.environ, KAFKA_HEAP=heap, KAFKA_JAVA_OPTIONS=cls.JAVA_OPTIONS),
        )  # fmt: skip
        kafka.bootstrap = out.strip()
        return kafka

    def start_again(self, *properties, heap="1g"):
        """After it was stopped or killed: the same address, the same data."""
        run(
            [ROOT / "scripts/kafka", "start", "--dir", self.folder, "--port", self.bootstrap.split(":")[1], *self.PROPERTIES, *properties],
            env=dict(os.environ, KAFKA_HEAP=heap, KAFKA_JAVA_OPTIONS=self.JAVA_OPTIONS),
        )  # fmt: skip

    @property
    def pid(self):
        return int((self.folder / "pid").read_text())

    def kill(self):
        """As a crash would."""
        pid, self._admin = self.pid, None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), "the broker's end")

    def suspend(self):
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def stop(self, keep=False):
        self._admin = None
        run([ROOT / "scripts/kafka", "stop", "--dir", self.folder, *([] if keep else ["--remove"])])

    def admin(self):
        """One for all: each has threads and a connection, which would live on beside the measurements."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self._admin

    def topic(self, name, partitions=6, exact=False, **properties):
        """A new topic, and its name: `name` with a number behind, or `exact`ly that, made anew if it is there.

        Its messages carry the time at which the broker appended them, unless message__timestamp__type says otherwise:
        a clock that is the same for whoever produces. A double underscore in a property's name stands for the dot."""
        if not exact:
            name = f"{name}-{next(self._names)}"
        self.topics([name], partitions, **properties)
        return name

    def topics(self, names, partitions=6, **properties):
        """All of these, anew. What is there when this returns is no longer the ones that were there before."""
        self.delete(*names)
        config = {"message.timestamp.type": "LogAppendTime"}
        config |= {key.replace("__", "."): str(value) for key, value in properties.items()}
        admin = self.admin()
        for future in admin.create_topics([NewTopic(name, partitions, 1, config=config) for name in names]).values():
            future.result()
        wanted = {f"{name}-{partition}" for name in names for partition in range(partitions)}
        # The controller has made them; the broker serves them only when it has taken notice.
        wait_for(lambda: wanted <= set(os.listdir(self.folder / "data")), f"the broker to make {names}")
        wait_for(lambda: all(self._has_leaders(admin, name, partitions) for name in names), f"leaders of {names}")

    @staticmethod
    def _has_leaders(admin, name, partitions):
        found = admin.list_topics(name, timeout=30).topics[name].partitions
        return len(found) == partitions and all(one.leader >= 0 for one in found.values())

    def delete(self, *names):
        admin = self.admin()
        for future in admin.delete_topics(list(names)).values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                    raise

        def there():
            """Until the broker has taken notice, it acknowledges what is produced to a topic that is about to go."""
            folders = [folder.rsplit("-", 1)[0] for folder in os.listdir(self.folder / "data")]
            return set(names) & set(folders)

        wait_for(lambda: not there(), f"the broker to forget {names}")

    def partitions(self, topic):
        return len(self.admin().list_topics(topic, timeout=30).topics[topic].partitions)

    def end_offsets(self, topic):
        """By partition."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "bench"})
        try:
            return [
                consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1]
                for p in range(self.partitions(topic))
            ]
        finally:
            consumer.close()
