"""Backlogs: data directories with messages that wait, made once and copied for each measurement; and how they are moved."""

import json
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from . import debezium, messages
from .books import Expected, verify
from .debezium import Debezium, Worker
from .machine import Usage
from .servers import Postgres, as_server_user
from .waiting import Failed, wait_for

SLOT = "backlog"
OLD = "old"


@dataclass(frozen=True)
class Backlog:
    """So many messages of so many bytes, written by transactions of so many."""

    count: int
    bytes: int
    per_transaction: int
    headers: int = 0  # of the user's: 0 or 4
    partitions: int = 6
    topics: int = 1
    sessions: int = 2  # that write it; more than one topic takes two
    keys: int = messages.KEYS
    old_writer: bool = False  # one that began before, has emitted too, and has not ended

    @property
    def name(self):
        size = f"{self.bytes // 1024} KiB" if self.bytes % 1024 == 0 else f"{self.bytes} B"
        headers = f", {self.headers} headers" if self.headers else ""
        return f"{size}, {self.per_transaction} a transaction{headers}"

    @property
    def slug(self):
        """Of what is stored."""
        old = "-old" if self.old_writer else ""
        return f"{self.count}-{self.bytes}-{self.per_transaction}-{self.headers}-{self.topics}-{self.sessions}-{self.keys}{old}"

    @property
    def topic_names(self):
        """They stand in the rows, so they are the same for each copy; the topics are made anew instead."""
        return [f"backlog-{number}" for number in range(self.topics)]

    @property
    def topic(self):
        return self.topic_names[0]

    @property
    def expected(self):
        """In each topic."""
        return Expected(self.count // self.topics, self.bytes, self.keys, self.headers)


def fill(postgres, statement, backlog):
    """Executes `statement` in transactions of so many messages. It ends in FROM; what follows gives it the numbers, as g.

    Sessions take turns with the numbers, and so have keys of their own (their number divides that of the keys): the
    numbers of a key grow from commit to commit. synchronous_commit is off: it makes no difference to what is stored."""
    sessions, per_transaction = backlog.sessions, backlog.per_transaction
    assert backlog.count % (per_transaction * sessions) == 0 and backlog.keys % sessions == 0
    # Without OFFSET 0 the expression of g would be computed once for each use of it.
    numbers = (
        f"(SELECT first + (t * {per_transaction} + i) * {sessions} AS g"
        f" FROM generate_series(0, {per_transaction - 1}) AS i OFFSET 0) AS n"
    )
    postgres.execute(
        "CREATE OR REPLACE PROCEDURE fill(first bigint, transactions bigint) LANGUAGE plpgsql AS $$ BEGIN"
        " FOR t IN 0 .. transactions - 1 LOOP"
        f" {statement} {numbers}; COMMIT;"
        " END LOOP; END $$"
    )
    errors = []

    def one(session):
        try:
            with postgres.connect(options="-c synchronous_commit=off") as db:
                db.execute(f"CALL fill({session + 1}, {backlog.count // per_transaction // sessions})")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(session,)) for session in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def emit_statement(backlog):
    """Several topics take turns, too: each has its own messages 1, 2, 3 …, which one session writes."""
    if backlog.topics == 1:
        emit = messages.emit_sql("g", backlog.bytes, backlog.topic, backlog.headers, backlog.keys)
        return f"PERFORM {emit} FROM"
    assert backlog.topics % backlog.sessions == 0 and backlog.count % backlog.topics == 0
    number = f"((g - 1) / {backlog.topics} + 1)"
    return (
        f"PERFORM outbox.emit('backlog-' || mod(g - 1, {backlog.topics}), {messages.key_sql(number, backlog.keys)},"
        f" {messages.payload_sql(number, backlog.bytes)}) FROM"
    )


def insert_statement(backlog):
    return (
        f"INSERT INTO public.outbox ({messages.insert_columns(backlog.headers)}) "
        f"SELECT {messages.insert_values('g', backlog.bytes, backlog.headers)} FROM"
    )


# A copy that has a prepared transaction in it needs this, too.
PREPARED = {"max_prepared_transactions": 10}


class Templates:
    """Frozen data directories, made when they are first asked for."""

    def __init__(self, bench):
        self.bench, self.folder = bench, bench.folder / "templates"

    def outbox(self, backlog):
        """Paused, with the backlog."""

        def make(postgres):
            postgres.create_extension()
            postgres.pause()
            if backlog.old_writer:
                # Prepared, so that it outlives the server; to others it is as open as one that a client holds.
                postgres.execute(f"BEGIN; SELECT outbox.emit('backlog-0', 'old', 'never'); PREPARE TRANSACTION '{OLD}'")
            fill(postgres, emit_statement(backlog), backlog)

        return self._made(f"outbox-{backlog.slug}", make)

    def debezium(self, backlog):
        """With a slot that stands before the backlog."""

        def make(postgres):
            postgres.execute(
                debezium.CREATE_TABLE_WITH_HEADERS if backlog.headers else debezium.CREATE_TABLE, debezium.CREATE_PUBLICATION,
                debezium.CREATE_SLOT.format(slot=SLOT),
            )  # fmt: skip
            fill(postgres, insert_statement(backlog), backlog)

        return self._made(f"debezium-{backlog.slug}", make)

    def _made(self, name, make):
        folder = self.folder / name
        if not folder.exists():
            began = time.monotonic()
            # WAL that nobody needs is not kept: it would be copied each time.
            postgres = Postgres.start(self.bench.folder / "filling", wal_recycle="off", min_wal_size="80MB", **PREPARED)
            try:
                make(postgres)
                postgres.execute("CHECKPOINT", "CHECKPOINT")
                postgres.freeze(folder)
            finally:
                postgres.stop()
            self.bench.log(f"made {name} in {time.monotonic() - began:.0f} s")
        return folder

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


# -- moving them --------------------------------------------------------------------------------------------


def lz4_file(postgres):
    """For outbox.kafka_config_file: it has to be the server user's alone."""
    file = postgres.folder / "kafka.properties"
    file.write_text("compression.type=lz4\n")
    file.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(file, "postgres", "postgres")
    return file


def groups(bench, postgres, **more):
    return {
        "broker": lambda: [bench.kafka.pid],
        "server": postgres.server_pids,
        "backends": postgres.backend_pids,
    } | more


def sums(verdicts):
    found = [verdict.figures() for verdict in verdicts]
    return {name: sum(one[name] for one in found) for name in found[0]}


def figures_of(backlog, seconds, verdicts, usage_figures, **more):
    return {
        "seconds": round(seconds, 4),
        "rate": round(backlog.count / seconds, 1),
        **more,
        **usage_figures,
        **sums(verdicts),
    }


def drain_outbox(bench, template, backlog, lz4=False, before=None, **settings):
    """From the call of outbox.resume() on a paused server, until every message is acknowledged and settled (as
    outbox.wait_for_delivery() says). The start of the sink, its connection to the broker and its first contact with each
    partition are in it. `appended_seconds` ends with the broker's clock at the last message instead. `before` is called
    with the server just before."""
    kafka = bench.kafka
    kafka.topics(backlog.topic_names, backlog.partitions)
    postgres = bench.postgres("outbox", template, outbox__kafka_bootstrap_servers=kafka.bootstrap, **settings)
    try:
        if lz4:
            postgres.reload(outbox__kafka_config_file=lz4_file(postgres))
        wait_for(lambda: postgres.status()["state"] == "paused", "the relay to rest")
        if before:
            before(postgres)
        with postgres.connect() as db, Usage(
            relay=lambda: [postgres.relay_pid()], sink=lambda: [postgres.sink_pid()], **groups(bench, postgres)
        ) as usage:  # fmt: skip
            started, clock = time.time(), time.perf_counter()
            db.execute("SELECT outbox.resume()")
            settled = db.execute("SELECT outbox.wait_for_delivery('600 s')").fetchone()[0]
            seconds = time.perf_counter() - clock
        if not settled:
            raise Failed(f"the backlog does not drain: {postgres.status()}")
        verdicts = [verify(kafka, topic, backlog.expected).check() for topic in backlog.topic_names]
        appended = max(verdict.last_appended for verdict in verdicts) - started
        return figures_of(backlog, seconds, verdicts, usage.figures(), appended_seconds=round(appended, 3))
    finally:
        postgres.stop()


class EndOfTopic:
    """How many messages a topic holds, asked for by one connection that stays."""

    def __init__(self, kafka, topic, partitions):
        self.topic, self.partitions = topic, partitions
        self.consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "bench"})

    def __call__(self):
        return sum(
            self.consumer.get_watermark_offsets(TopicPartition(self.topic, p), timeout=30)[1]
            for p in range(self.partitions)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.consumer.close()


def wait_for_end(count, end, connector, timeout=600):
    """Until the topic holds so many messages; a connector that has failed is noticed."""
    deadline = time.monotonic() + timeout
    while end() < count:
        if trouble := connector.worker.trouble(connector.name):
            raise Failed(f"Debezium: {trouble[:500]}")
        if time.monotonic() > deadline:
            raise Failed(f"after {timeout} s the topic holds {end():,} of {count:,} messages")
        time.sleep(0.25)


def drain_debezium(bench, worker, template, backlog, profile, lz4=False):
    """From the moment at which the connector streams (its slot is in use) until the broker has appended the last message, by
    the broker's clock. Starting the JVM is not in it, nor is starting the connector. `worker` has moved another backlog
    before: its classes are loaded and compiled. What is in it is what any restart of Debezium has before it: reading the
    WAL from where the slot stands."""
    kafka = bench.kafka
    kafka.topic(backlog.topic, backlog.partitions, exact=True)
    postgres = bench.postgres("debezium", template)
    connector = None
    try:
        connector = Debezium.start(
            postgres, kafka, profile, slot=SLOT, topic=backlog.topic, headers=backlog.headers, worker=worker,
            overrides={"producer.override.compression.type": "lz4"} if lz4 else None,
        )  # fmt: skip
        with EndOfTopic(kafka, backlog.topic, backlog.partitions) as end:
            started = connector.wait_until_streaming()
            with Usage(jvm=[connector.pid], walsender=postgres.walsender_pids, **groups(bench, postgres)) as usage:
                wait_for_end(backlog.count, end, connector)
        verdict = verify(kafka, backlog.topic, backlog.expected).check()
        return figures_of(backlog, verdict.last_appended - started, [verdict], usage.figures())
    finally:
        if connector:
            connector.stop()
        postgres.stop()


# Moved by Debezium before anything is measured, again and again, until that is not 5 % faster than the best time before.
WARM_UP = Backlog(200_000, 200, 100)
WARM_UPS = (4, 8)  # at least, and at most


def warm_worker(bench, templates):
    """A Connect worker whose code is loaded and compiled, and has no connector. It serves all of a part's measurements."""
    worker = Worker.start(bench.kafka, bench.folder / "connect")
    rates = []
    try:
        while len(rates) < WARM_UPS[0] or (len(rates) < WARM_UPS[1] and rates[-1] > 1.05 * max(rates[:-1])):
            # Both profiles take the same ways, in batches of other sizes.
            profile = "tuned" if len(rates) % 2 == 0 else "default"
            rates.append(drain_debezium(bench, worker, templates.debezium(WARM_UP), WARM_UP, profile)["rate"])
            bench.log(f"Debezium warms up: {rates[-1]:,.0f}/s")
    except BaseException:
        worker.stop()
        raise
    return worker


def run_measured(argv, **options):
    """Runs a program to its end: what it printed, its seconds, CPU seconds and peak memory."""
    began = time.perf_counter()
    process = subprocess.Popen([str(argument) for argument in argv], stdout=subprocess.PIPE, text=True, **options)
    # Not the peak that the system keeps of a child: there its parent's memory is counted, from before it became a program.
    with Usage(it=[process.pid]) as usage:
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{argv[0]} ended with {process.returncode}")
    return out, seconds, used.ru_utime + used.ru_stime, usage.peak["it"]


def fill_topic(bench, backlog, lz4=False):
    """librdkafka alone: from the first message given to it until the last acknowledgement."""
    kafka = bench.kafka
    names = [f"librdkafka-{number}" for number in range(backlog.topics)]
    kafka.topics(names, backlog.partitions)
    expected = backlog.expected
    try:
        with Usage(broker=[kafka.pid]) as usage:
            out, _, cpu, peak = run_measured(
                [bench.programs / "producer", kafka.bootstrap, ",".join(names), expected.count, backlog.bytes, backlog.keys, backlog.headers,
                 *(["compression.type=lz4"] if lz4 else [])]
            )  # fmt: skip
        verdicts = [verify(kafka, name, expected).check() for name in names]
        used = usage.figures() | {"cpu_producer": round(cpu, 3), "peak_producer": peak}
        return figures_of(backlog, json.loads(out)["seconds"], verdicts, used)
    finally:
        kafka.delete(*names)


def decode(bench, template, backlog):
    """pg_recvlogical to /dev/null, from the start of the program to its end. Nothing is delivered, so no consumer can verify it;
    that it got to the end of the WAL is what the slot says. It writes each of pgoutput's messages by itself: where transactions
    are small that costs more than a client that reads them in a batch."""
    postgres = bench.postgres("decode", template)
    try:
        end = postgres.value("SELECT pg_current_wal_insert_lsn()")
        with Usage(walsender=postgres.walsender_pids, server=postgres.server_pids) as usage:
            _, seconds, cpu, peak = run_measured(
                as_server_user([postgres.bin / "pg_recvlogical", "-d", postgres.dsn, "--slot", SLOT, "--start", "-f", "/dev/null",
                                "--endpos", end, "--no-loop", "-o", "proto_version=1", "-o", "publication_names=outbox"]),
                cwd="/",
            )  # fmt: skip
        if not postgres.value(
            f"SELECT confirmed_flush_lsn >= '{end}'::pg_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        ):
            raise Failed("pg_recvlogical did not get to the end of the WAL")
        used = usage.figures() | {"cpu_receiver": round(cpu, 3), "peak_receiver": peak}
        return {"seconds": round(seconds, 4), "rate": round(backlog.count / seconds, 1), **used}
    finally:
        postgres.stop()
