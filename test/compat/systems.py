"""Both systems at one table: the same rows go to one broker by a real Debezium, to another one by outbox."""

import time
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition
from measure.servers import Kafka, Postgres
from measure.debezium import Worker
from measure.waiting import Failed, wait_for

from .cases import PREPARE
from .comparison import identity

PARTITIONS = 6


@dataclass
class Record:
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list
    timestamp: int


class Place:
    """A server, two brokers and a Connect worker."""

    def __init__(self, folder):
        self.folder = folder
        self.theirs = Kafka.start(folder / "kafka-debezium", "auto.create.topics.enable=true", f"num.partitions={PARTITIONS}")
        self.ours = Kafka.start(folder / "kafka-outbox")
        self.postgres = Postgres.start(
            folder / "pg", None, max_wal_senders=60, max_replication_slots=60, max_connections=120, fsync="off",
            outbox__kafka_bootstrap_servers=self.ours.bootstrap,
        )  # fmt: skip
        self.postgres.create_extension()
        self.postgres.execute(*PREPARE)
        self.worker = Worker.start(self.theirs, folder / "connect")
        self.seen = {self.theirs: {}, self.ours: {}}

    def close(self):
        self.worker.stop()
        self.postgres.stop()
        self.theirs.stop()
        self.ours.stop()

    # -- a batch of cases ---------------------------------------------------------------------------------

    def run(self, cases):
        """What each system made of the rows: two lists of records, and why connectors failed, by case number."""
        for case in cases:
            self.set_up(case)
        for case in cases:
            slot = case.table
            wait_for(
                lambda slot=slot: self.postgres.value(f"SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = '{slot}'"),
                f"Debezium to stream {slot}", timeout=120,
            )  # fmt: skip
        for case in cases:
            self.insert(case)
        self.make_topics()
        self.postgres.wait_for_delivery()
        found = self.read_theirs(cases), self.read(self.ours)
        trouble = {case.number: self.worker.trouble(case.table) for case in cases}
        for case in cases:
            self.take_down(case)
        return *found, trouble

    def set_up(self, case):
        import json

        self.postgres.execute(f"CREATE TABLE {case.table} ({', '.join(column.sql for column in case.columns)})")
        configuration = {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "tasks.max": "1", "plugin.name": "pgoutput",
            "database.hostname": "127.0.0.1", "database.port": str(self.postgres.port), "database.user": "postgres",
            "database.password": "none", "database.dbname": "postgres", "topic.prefix": case.table,
            "table.include.list": f"public.{case.table}", "publication.name": case.table, "publication.autocreate.mode": "disabled",
            "slot.name": case.table, "snapshot.mode": "no_data", "tombstones.on.delete": "false", "poll.interval.ms": "50",
            "errors.tolerance": "all", "errors.log.enable": "true",
        } | case.configuration  # fmt: skip
        with self.postgres.connect() as db:
            db.execute("SELECT outbox.attach_debezium(%s::regclass, %s::jsonb)", (case.table, json.dumps({"name": "x", "config": configuration})))
        self.postgres.execute(f"CREATE PUBLICATION {case.table} FOR TABLE {case.table}")
        self.worker.add(case.table, configuration)

    def insert(self, case):
        with self.postgres.connect() as db:
            for row in case.rows:
                # What is NULL is given, not left to a default.
                names = ", ".join(f'"{name}"' for name in row)
                db.execute(f"INSERT INTO {case.table} ({names}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values()))

    def make_topics(self):
        """Those that outbox has chosen. Debezium's broker makes them by itself, also those that only Debezium chooses."""
        with self.postgres.connect() as db:
            wanted = {topic for (topic,) in db.execute("SELECT DISTINCT topic FROM outbox.messages")}
        missing = sorted(wanted - set(self.ours.admin().list_topics(timeout=30).topics))
        if missing:
            self.ours.topics(missing, PARTITIONS, message__timestamp__type="CreateTime")

    def read_theirs(self, cases, timeout=60, quiet=4):
        """Until every row has come; or nothing more comes after the last rows of all cases: the comparison shows what is missing."""
        records, deadline, heard = [], time.monotonic() + timeout, time.monotonic()
        last = {identity(case, case.rows[-1]) for case in cases}
        awaited = {identity(case, row) for case in cases for row in case.rows}
        while awaited and time.monotonic() < deadline:
            for record in self.read(self.theirs):
                records.append(record)
                heard = time.monotonic()
                awaited.discard(next((value for name, value in record.headers if name == "id"), None))
            if time.monotonic() - heard > (quiet if not awaited & last else 3 * quiet):
                break
        return records

    def take_down(self, case):
        self.worker.remove(case.table)
        gone = f"SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{case.table}'"
        wait_for(lambda: self.postgres.value(gone), f"the end of {case.table}")
        self.postgres.execute(
            f"SELECT pg_drop_replication_slot('{case.table}')", f"DROP PUBLICATION {case.table}", f"DROP TABLE {case.table}"
        )

    # -- what has arrived ------------------------------------------------------------------------------------

    def read(self, kafka):
        """Everything that has come since the last time."""
        seen, records = self.seen[kafka], []
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "compat", "enable.partition.eof": True, "log_level": 0})
        try:
            topics = {name: topic for name, topic in consumer.list_topics(timeout=30).topics.items() if not name.startswith("__")}
            places = [TopicPartition(name, number, seen.get((name, number), 0)) for name, topic in topics.items() for number in topic.partitions]
            consumer.assign(places)
            left = len(places)
            while left:
                message = consumer.poll(30)
                if message is None:
                    raise Failed("the broker does not answer")
                if message.error():
                    left -= 1
                    continue
                seen[message.topic(), message.partition()] = message.offset() + 1
                records.append(Record(
                    message.topic(), message.partition(), message.key(), message.value(), message.headers() or [], message.timestamp()[1]
                ))  # fmt: skip
        finally:
            consumer.close()
        return records
