"""python -m compat.switch_over FOLDER: the runbook of docs/debezium.md, there and back, under load with a real Debezium."""

import contextlib
import json
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from measure.debezium import Worker
from measure.servers import Kafka, Postgres
from measure.waiting import wait_for

KEYS, SESSIONS, PARTITIONS = 40, 4, 6
CONFIGURATION = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "tasks.max": "1", "plugin.name": "pgoutput",
    "database.hostname": "127.0.0.1", "database.user": "postgres", "database.password": "none", "database.dbname": "postgres",
    "topic.prefix": "shop", "table.include.list": "public.event", "publication.name": "event",
    "publication.autocreate.mode": "disabled", "slot.name": "event", "snapshot.mode": "no_data", "tombstones.on.delete": "false",
    "poll.interval.ms": "20", "extended.headers.enabled": "false", "offset.flush.interval.ms": "200",
    "key.converter": "org.apache.kafka.connect.storage.StringConverter", "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    "transforms": "outbox", "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.route.topic.replacement": "${routedByValue}",
}  # fmt: skip


class Load:
    """Sessions that write rows: each has keys of its own, and numbers that rise with every row of a key."""

    def __init__(self, postgres):
        self.postgres, self.stopping, self.rows = postgres, threading.Event(), []
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(SESSIONS)]

    def run(self, session):
        written = []
        with self.postgres.connect() as db:
            number = 0
            while not self.stopping.is_set():
                number += 1
                key = f"{session}-{number % KEYS}"
                row = db.execute(
                    "INSERT INTO event (aggregatetype, aggregateid, type, payload) VALUES ('events', %s, 't', %s) RETURNING id::text", (key, str(number))
                ).fetchone()
                written.append((row[0], key, number))
                time.sleep(0.002)
        self.rows += written

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def read(kafka):
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "switch", "enable.partition.eof": True})
    records, left = [], PARTITIONS
    consumer.assign([TopicPartition("events", number, 0) for number in range(PARTITIONS)])
    while left:
        message = consumer.poll(30)
        if message.error():
            left -= 1
        else:
            records.append((dict(message.headers())["id"].decode(), message.key().decode(), int(message.value()), message.partition()))
    consumer.close()
    return records


def judge(rows, records):
    """Complaints: a row that did not come, a key out of order, a message that is nobody's; and how many came twice."""
    complaints = []
    ids = {row[0] for row in rows}
    arrived = {record[0] for record in records}
    if missing := ids - arrived:
        complaints.append(f"{len(missing)} rows did not arrive: {sorted(missing)[:3]}")
    if foreign := arrived - ids:
        complaints.append(f"{len(foreign)} messages are of no row")
    newest, places = {}, {}
    for number, key, value, partition in records:
        # What comes again comes in order, too: the first copies rise, and so do the last ones.
        if number not in places and value <= newest.get(key, 0):
            complaints.append(f"key {key}: {value} for the first time after {newest[key]}")
        places.setdefault(number, partition)
        if places[number] != partition:
            complaints.append(f"{number} is in partitions {places[number]} and {partition}")
        newest[key] = max(newest.get(key, 0), value)
    latest = {}
    for key, value in reversed_last_copies(records):
        if value >= latest.get(key, value + 1):
            complaints.append(f"key {key}: the last copy of {value} comes after that of {latest[key]}")
        latest[key] = value
    return complaints, len(records) - len(arrived)


def reversed_last_copies(records):
    """Key and number of each row's last copy, from the end."""
    seen = set()
    for number, key, value, _ in reversed(records):
        if number not in seen:
            seen.add(number)
            yield key, value


def main():
    folder = Path(sys.argv[1])
    say = lambda words: print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)  # noqa: E731
    with contextlib.ExitStack() as stack:
        kafka = Kafka.start(folder / "kafka")
        stack.callback(kafka.stop)
        postgres = Postgres.start(folder / "pg", None, outbox__kafka_bootstrap_servers=kafka.bootstrap)
        stack.callback(postgres.stop)
        postgres.create_extension()
        postgres.execute(
            "CREATE TABLE event (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype varchar(255) NOT NULL,"
            " aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload text)",
            "CREATE PUBLICATION event FOR TABLE event WITH (publish = 'insert')",
        )
        kafka.topics(["events"], PARTITIONS)
        worker = Worker.start(kafka, folder / "connect")
        stack.callback(worker.stop)
        configuration = CONFIGURATION | {"database.port": str(postgres.port)}
        active = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = 'event'"
        worker.add("event", configuration)
        wait_for(lambda: postgres.value(active), "Debezium to stream", timeout=120)
        with Load(postgres) as load:
            time.sleep(3)
            ready = postgres.value(f"SELECT bool_and(ready) FROM outbox.check_debezium('{json.dumps(configuration)}')")
            say(f"check_debezium: {ready}")
            say("over")
            postgres.execute("SELECT outbox.pause()", f"SELECT outbox.attach_debezium('event', '{json.dumps(configuration)}')")
            lsn = postgres.value("SELECT pg_current_wal_insert_lsn()")
            past = f"SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = 'event'"
            wait_for(lambda: postgres.value(past), "Debezium to read past the attachment", timeout=60)
            worker.remove("event")
            postgres.execute("SELECT outbox.resume()")
            wait_for(lambda: not postgres.value(active), "the end of the connector")
            postgres.execute("SELECT pg_drop_replication_slot('event')")
            time.sleep(3)
            say("back")
            worker.add("again", configuration | {"topic.prefix": "again", "slot.name": "again"})
            wait_for(lambda: postgres.value(active.replace("'event'", "'again'")), "Debezium to stream again", timeout=120)
            postgres.execute("SELECT outbox.detach('event')")
            time.sleep(3)
        postgres.wait_for_delivery()
        # Debezium says nothing of what it has read and not sent: a row that it sends last says it.
        last = postgres.value("INSERT INTO event (aggregatetype, aggregateid, type, payload) VALUES ('events', 'last', 't', '1') RETURNING id::text")
        load.rows.append((last, "last", 1))
        wait_for(lambda: any(record[0] == last for record in read(kafka)), "Debezium to read to the end", timeout=60, pause=0.2)
        records = read(kafka)
        complaints, twice = judge(load.rows, records)
        say(f"{len(load.rows)} rows, {len(records)} messages, {twice} of them twice")
        print("\n".join(complaints[:10]) or "every row arrived, each key in order")
    return bool(complaints) or not ready


if __name__ == "__main__":
    sys.exit(main())
