"""Debezium in a standalone Connect worker, with the configurations of bench/debezium."""

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from .servers import ROOT, free_port
from .waiting import Failed, wait_for

FOLDER = ROOT / "bench/debezium"
JARS = Path(os.environ.get("BENCH_DEBEZIUM", "/nonexistent"))
PROFILES = {"default": ["default"], "tuned": ["default", "tuned"], "low-latency": ["default", "tuned", "low-latency"]}

# Debezium's outbox table, as its documentation has it; text instead of jsonb, so that the payload is the same bytes
# on both sides and nothing has to be parsed.
CREATE_TABLE = """
CREATE TABLE public.outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype varchar(255) NOT NULL,
    aggregateid varchar(255) NOT NULL,
    type varchar(255) NOT NULL,
    payload text)
"""
# The same with what becomes headers; `type` is one of them.
CREATE_TABLE_WITH_HEADERS = CREATE_TABLE.rstrip().removesuffix(")") + ",\n    trace text, source text, tenant text)\n"
# Inserts alone: applications that delete at once what they inserted need no replica identity then.
CREATE_PUBLICATION = "CREATE PUBLICATION outbox FOR TABLE public.outbox WITH (publish = 'insert')"
CREATE_SLOT = "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"

# The user's headers come from columns.
HEADERS = {
    "transforms.outbox.table.fields.additional.placement": "type:header:type,trace:header:trace,source:header:source,tenant:header:tenant"
}


def properties(file, **values):
    """Of a file of bench/debezium, with {{…}} filled in."""
    text = (FOLDER / f"{file}.properties").read_text()
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", str(value))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def connector(profile, **values):
    """A connector's whole configuration."""
    found = {}
    for file in PROFILES[profile]:
        found |= properties(file, **values)
    return found


class Worker:
    """A Java process that runs connectors. It can serve one measurement after the other, and stays warm."""

    def __init__(self, kafka, folder):
        self.kafka, self.folder = kafka, Path(folder)
        self.log = self.folder / "connect.log"
        self.process = None

    @classmethod
    def start(cls, kafka, folder):
        worker = cls(kafka, folder)
        shutil.rmtree(worker.folder, ignore_errors=True)
        worker.folder.mkdir(parents=True)
        worker.port = free_port()
        lines = properties("worker", bootstrap=kafka.bootstrap, folder=worker.folder, port=worker.port)
        file = worker.folder / "worker.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        with worker.log.open("w") as log:
            worker.process = subprocess.Popen(
                ["java", "-Xms1g", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{JARS}/*",
                 "org.apache.kafka.connect.cli.ConnectStandalone", file],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_for(worker._answers, "Kafka Connect", timeout=120, pause=0.1)
        except BaseException:
            worker.stop()
            raise
        return worker

    @property
    def pid(self):
        return self.process.pid

    def _answers(self):
        if self.process.poll() is not None:
            raise Failed(f"Kafka Connect has ended: {self.log.read_text()[-2000:]}")
        with contextlib.suppress(OSError, Failed):  # at first it answers that it knows no such page
            return self.ask("GET", "/connectors") is not None

    def ask(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise Failed(f"Kafka Connect: {error.read().decode(errors='replace')[:500]}") from error

    def add(self, name, configuration):
        self.ask("POST", "/connectors", {"name": name, "config": configuration})

    def remove(self, name):
        self.ask("DELETE", f"/connectors/{name}")

    def trouble(self, name):
        """The trace of a task that has failed."""
        state = self.ask("GET", f"/connectors/{name}/status")
        return next((task.get("trace", "failed") for task in state["tasks"] if task["state"] == "FAILED"), None)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Debezium:
    """A connector on one server, in a worker of its own unless it is given one."""

    _count = 0

    def __init__(self, postgres, worker, slot, name, owns_worker):
        self.postgres, self.worker, self.slot, self.name, self.owns_worker = postgres, worker, slot, name, owns_worker

    @classmethod
    def start(cls, postgres, kafka, profile="default", table="public.outbox", slot="debezium", folder=None, topic="${routedByValue}",
              publication="outbox", headers=0, worker=None, overrides=None):  # fmt: skip
        """Rows go to the topic that their aggregatetype names, or all to `topic`.

        The slot is made if it is not there; if it is, what has been written since it was made is read. Nothing is known about
        earlier connectors: each has a name of its own, so the worker's offsets hold nothing for it."""
        owns_worker = worker is None
        worker = worker or Worker.start(kafka, folder or postgres.folder / "connect")
        Debezium._count += 1
        name = f"outbox{Debezium._count}"
        configuration = connector(
            profile, port=postgres.port, name=name, table=table, publication=publication, slot=slot, topic=topic
        )  # fmt: skip
        configuration |= HEADERS if headers else {}
        configuration |= overrides or {}
        try:
            worker.add(name, configuration)
        except BaseException:
            if owns_worker:
                worker.stop()
            raise
        return cls(postgres, worker, slot, name, owns_worker)

    @property
    def pid(self):
        return self.worker.pid

    @property
    def log(self):
        return self.worker.log

    def wait_until_streaming(self, timeout=120):
        """Until the walsender reads from the slot; returns the time (seconds since 1970) at which that was seen."""
        sql = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        with self.postgres.connect() as db:

            def active():
                row = db.execute(sql).fetchone()
                return row and row[0]

            try:
                wait_for(active, "Debezium to stream", timeout=timeout, pause=0.005)
            except Failed as error:
                raise Failed(f"{error}: {self.worker.trouble(self.name) or self.log.read_text()[-1000:]}") from error
        return time.time()

    def confirmed_lsn(self):
        """Bytes of WAL up to which everything has been acknowledged."""
        return int(self.postgres.value(
            f"SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        ))  # fmt: skip

    def stop(self):
        if self.owns_worker:
            self.worker.stop()
        else:
            self.worker.remove(self.name)
