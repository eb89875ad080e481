"""What moves messages from committed transactions to Kafka: outbox, Debezium, a polling relay. One of them at a time.

Each says how the application hands it a message (one statement, one round trip), which processes it consists of, and
which relations hold its messages. Used by the parts that load a server in an open loop.
"""

import subprocess
import sys
from pathlib import Path

from . import openloop
from .debezium import CREATE_PUBLICATION, CREATE_TABLE, Debezium
from .servers import ROOT
from .waiting import Failed, wait_for


class Outbox:
    name = "outbox"
    relations = "outbox.segment_%"

    def __init__(self, kafka, folder):
        self.kafka = kafka
        self.settings = {"outbox__kafka_bootstrap_servers": kafka.bootstrap}

    def start(self, postgres):
        self.postgres = postgres
        postgres.create_extension()
        warm = self.kafka.topic("warm")
        postgres.execute(f"SELECT outbox.emit('{warm}', 'warm', 'up')")
        postgres.wait_for_delivery(60)

    def statement(self, topic, number=":g", key=":k", value=openloop.VALUE):
        return f"SELECT outbox.emit('{topic}', {key}::bigint, {value})"

    def groups(self):
        return {"relay": lambda: [self.postgres.relay_pid()], "sink": lambda: [self.postgres.sink_pid()], "clients": self.postgres.backend_pids}

    def check(self):
        """Raises when what moves the messages has ended."""

    def stop(self):
        pass


class DebeziumMover:
    """`delete`: each row is deleted in the transaction that inserts it, so that the table stays empty."""

    relations = "public.outbox"

    def __init__(self, kafka, folder, profile, delete=False):
        self.kafka, self.folder, self.profile, self.delete = kafka, Path(folder), profile, delete
        self.name = f"Debezium {profile}".replace("low-latency", "low latency")
        self.settings = {}

    def start(self, postgres):
        self.postgres = postgres
        postgres.execute(CREATE_TABLE, CREATE_PUBLICATION)
        if self.delete:
            # In one statement: two more round trips would not be Debezium's fault.
            postgres.execute("""
                CREATE FUNCTION insert_and_delete(topic text, key text, value text) RETURNS void LANGUAGE plpgsql AS $$
                DECLARE row_id uuid := gen_random_uuid();
                BEGIN
                    INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) VALUES (row_id, topic, key, '', value);
                    DELETE FROM public.outbox WHERE id = row_id;
                END $$
            """)
        self.debezium = Debezium.start(postgres, self.kafka, profile=self.profile, folder=self.folder, topic="${routedByValue}")
        self.debezium.wait_until_streaming()

    def statement(self, topic, number=":g", key=":k", value=openloop.VALUE):
        if self.delete:
            return f"SELECT insert_and_delete('{topic}', {key}::text, {value})"
        return (
            "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload)"
            f" VALUES (gen_random_uuid(), '{topic}', {key}::text, '', {value})"
        )

    def groups(self):
        return {"jvm": lambda: [self.debezium.pid], "walsender": self.postgres.walsender_pids, "clients": self.postgres.backend_pids}

    def check(self):
        pass

    def stop(self):
        if debezium := getattr(self, "debezium", None):
            debezium.stop()


class Polling:
    """bench/skip_locked.py."""

    name = "SKIP LOCKED"
    relations = "public.polled_outbox"

    def __init__(self, kafka, folder):
        self.kafka, self.folder = kafka, Path(folder)
        self.settings = {}

    def start(self, postgres):
        sys.path.insert(0, str(ROOT / "bench"))
        import skip_locked

        self.postgres = postgres
        self.folder.mkdir(parents=True, exist_ok=True)
        postgres.execute(skip_locked.TABLE)
        self.log = (self.folder / "skip_locked.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "bench/skip_locked.py", f"{postgres.dsn} application_name=polling", self.kafka.bootstrap],
            stdout=self.log, stderr=self.log,
        )  # fmt: skip
        with postgres.connect() as db:
            own = "SELECT pid FROM pg_stat_activity WHERE application_name = 'polling'"
            self.backend = wait_for(lambda: db.execute(own).fetchone(), "the polling relay")[0]

    def statement(self, topic, number=":g", key=":k", value=openloop.VALUE):
        return f"INSERT INTO polled_outbox (topic, key, payload) VALUES ('{topic}', {key}::text, {value})"

    def groups(self):
        others = lambda: [pid for pid in self.postgres.backend_pids() if pid != self.backend]  # noqa: E731
        return {"poller": [self.process.pid], "poller_backend": [self.backend], "clients": others}

    def check(self):
        if self.process.poll() is not None:
            raise Failed(f"the polling relay has ended: {Path(self.log.name).read_text()[-500:]}")

    def stop(self):
        if process := getattr(self, "process", None):
            process.terminate()
            process.wait()
            self.log.close()


def moving(figures):
    """CPU seconds of everything between the tables and the broker."""
    return sum(figures.get(f"cpu_{name}", 0) for name in ("relay", "sink", "jvm", "walsender", "poller", "poller_backend"))
