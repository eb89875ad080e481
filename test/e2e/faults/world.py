"""The world that the faults happen in: a server with two databases, a real broker, and how both are put right."""

import os
import shutil
import signal
import socket
import time

import psycopg
from confluent_kafka.admin import AdminClient, AlterConfigOpType as Operation, ConfigEntry, ConfigResource

from support.cluster import CANARY, Cluster
from support.kafka import RealKafka
from support.processes import alive, give_to_server_user
from support.waiting import wait_for

try:
    from support.proxy import Proxy
except ImportError:
    Proxy = None  # then the network works always

IN_FLIGHT = 200  # outbox.max_in_flight_messages, at most
SERVER = {
    "max_prepared_transactions": 60,
    # Asynchronous commits stay in memory for a while, so that a crash has something to take back.
    "wal_writer_delay": "400ms",
    "wal_writer_flush_after": "64MB",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "60s",
    "log_lock_waits": "off",
    "log_autovacuum_min_duration": "-1",
}
DATABASE = {
    # Emptying a segment flushes what others have committed asynchronously: not too often.
    "outbox__segment_size": "16MB",
    "outbox__segment_max_age": "20s",
    "outbox__retention": "0",
    "outbox__max_in_flight_messages": str(IN_FLIGHT),
    "outbox__stop_timeout": "10s",
}
BROKER = ["log.segment.delete.delay.ms=1000", "log.index.size.max.bytes=1048576", "log.segment.bytes=67108864"]
# The client does not use it without SASL, and nobody may ever print it.
CLIENT = f"sasl.mechanism=PLAIN\nsasl.username=outbox\nsasl.password={CANARY}-secret\n"


class World:
    """Made once, and again after a round that went wrong."""

    def __init__(self, directory):
        self.directory = directory
        self.server = Cluster(directory / "pg")
        self.broker = RealKafka(directory / "kafka")
        self.databases = []
        self.network = Proxy(("127.0.0.1", self.broker.port)) if Proxy else None

    def create(self):
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o755)
        if self.network:
            self.network.start()
        self.start_broker()
        self.server.create()
        self.server.expect_crash()
        client = self.server.directory / "kafka.properties"
        client.write_text(CLIENT)
        client.chmod(0o600)
        give_to_server_user(client)
        self.server.start(**SERVER, outbox__kafka_config_file=str(client))
        address = f"127.0.0.1:{self.network.port}" if self.network else self.broker.bootstrap
        for name in ("one", "two"):
            database = self.server.database(name, outbox__kafka_bootstrap_servers=address, **DATABASE)
            database.oid = database.value("SELECT oid::bigint FROM pg_database WHERE datname = current_database()")
            self.databases.append(database)
        return self

    def remove(self, keep=False):
        """Stops everything. What is kept is for somebody to look at: not the broker's data."""
        self.resume_broker()
        self.broker.stop(remove=not keep)
        if self.server in Cluster.alive:
            Cluster.alive.remove(self.server)
        self.server.stop("immediate")
        if self.network:
            self.network.stop()
        if keep:
            shutil.rmtree(self.broker.directory / "data", ignore_errors=True)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- the broker ----------------------------------------------------------------------------------------

    @property
    def broker_pid(self):
        try:
            return int((self.broker.directory / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def start_broker(self):
        """Everybody speaks to it through the network that can be made to fail."""
        ways = [f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.network.port}"] if self.network else []
        self.broker.start(*BROKER, *ways)

    def kill_broker(self):
        pid = self.broker_pid
        os.kill(pid, signal.SIGKILL)
        # Its threads may hold its sockets a little longer than it is there.
        ports = (self.broker.port, self.broker.port + 1)
        wait_for(lambda: not alive(pid) and not any(map(listens, ports)), "the end of the broker")

    def suspend_broker(self):
        os.kill(self.broker_pid, signal.SIGSTOP)

    def resume_broker(self):
        pid = self.broker_pid
        if pid and alive(pid):
            os.kill(pid, signal.SIGCONT)

    def admin(self):
        return AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 3})

    def has_topic(self, name):
        admin = self.admin()
        return name in admin.list_topics(timeout=30).topics

    def set_topic(self, name, **settings):
        """None: as it was."""
        entries = [
            ConfigEntry(setting, value, incremental_operation=(Operation.DELETE if value is None else Operation.SET))
            for setting, value in settings.items()
        ]
        admin = self.admin()
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(60)

    def delete_topics(self, names):
        admin = self.admin()
        for future in admin.delete_topics(list(names), operation_timeout=30).values():
            future.result(60)

    # -- the server ----------------------------------------------------------------------------------------

    def answers(self):
        try:
            with self.server.connect(connect_timeout=5) as connection:
                connection.execute("SELECT 1")
            return True
        except psycopg.Error:
            return False

    # -- putting right --------------------------------------------------------------------------------------

    def heal(self):
        """Ends what faults have left behind. Not the outbox's troubles: those it has to get over by itself."""
        self.resume_broker()
        self.start_broker()
        if self.network:
            self.network.heal()
        if not self.server.running:
            self.server.start()
        wait_for(self.answers, "the server", timeout=60)

    def wait_until_delivered(self, limit):
        """Seconds until everything committed so far is settled, under load; None after `limit`."""
        began = time.monotonic()
        for database in self.databases:
            rest = max(0.1, began + limit - time.monotonic())
            if not database.value("SELECT outbox.wait_for_delivery(%s::interval)", f"{rest} s"):
                return None
        return time.monotonic() - began

    def wait_until_at_rest(self, limit):
        """Whether within `limit` seconds every backlog is zero and every relay is well."""

        def at_rest():
            return all(s["backlog"] == 0 and s["state"] == "running" for s in map(status, self.databases))

        try:
            return wait_for(at_rest, "empty backlogs", timeout=limit, pause=0.1)
        except AssertionError:
            return False


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status(database):
    try:
        return database.status()
    except psycopg.Error:
        return {"backlog": None, "state": "unknown"}
