"""B6 tax: what a message takes from the application's transactions, by what stands in one place of them.

pgbench, prepared, four round trips: BEGIN; UPDATE of a random one of ACCOUNTS rows; X; COMMIT. X is SELECT 1, emit, and
what others put there. Everything shares the machine: with the relay on, the broker and the relay take their part of the
two cores, and so do Debezium and its walsender where it is attached. Where they are not part of the system that is
measured they are stopped (SIGSTOP), which leaves them warm: nothing else runs beside SELECT 1.

A second kind of rows has transactions of one statement, which is X alone.

One row is not a system but a bound: SELECT 1 beside librdkafka alone, which hands the broker as many messages as the target
asks for, every EVERY ms as the relay does under such a load. Whatever brings the messages to Kafka has to leave that much.

Each measurement begins with new tables, a CHECKPOINT and a second of the same load that does not count; that takes care
of full-page images, too. What has been stored is delivered before the next one begins. A message carries a number that
a sequence gives while its account is locked, so the numbers of a key rise in the order of commits, and all of them have
to arrive: what was sent to Kafka is read and judged, what stays in a table or goes to a listener is counted.
"""

import contextlib
import os
import select
import signal
import statistics
import subprocess
import threading
from dataclasses import dataclass

from ..books import Expected, verify
from ..debezium import CREATE_PUBLICATION, CREATE_TABLE, Debezium
from ..machine import Usage
from ..report import Plot, Report, Table, bar, cell, good, in_order, ratio_cell, ratios, spread
from ..servers import Kafka
from ..waiting import Failed, wait_for

NAME = "tax"
TITLE = "tax: what a message takes from the application's transactions"

ACCOUNTS = 20_000  # many times the sessions; and the first change of each page is over soon
BYTES = 200
SECONDS, WARM_UP = 3, 1
TARGET = 0.85  # of what SELECT 1 reaches
EVERY = 10  # the relay's passes under load (worker/pace.hpp)
KEYS = 1600

PAYLOAD = f"rpad(nextval('message_number')::text || ' ', {BYTES}, 'x')"
OUTBOX = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES"


@dataclass(frozen=True)
class System:
    """`x` is SQL with {topic} and {key}; `beside` what has to run: nothing, the relay and the broker, Debezium, or librdkafka
    alone."""

    name: str
    title: str
    x: str
    beside: str = ""
    kafka: bool = False  # its messages go there, sooner or later
    table: str = ""  # or stay here
    listener: bool = False
    before: str = ""  # commands of pgbench


SYSTEMS = (
    System("select", "SELECT 1", "SELECT 1"),
    System("emit-off", "emit, relay off", "SELECT outbox.emit('{topic}', {key}, {payload})", kafka=True),
    System(
        "insert",
        "INSERT, one index",
        "INSERT INTO plain (time, id, topic, key, payload)"
        " VALUES (clock_timestamp(), gen_random_uuid(), '{topic}', {key}, {payload})",
        table="plain",
    ),
    System(
        "uuid",
        "INSERT into Debezium's table",
        f"{OUTBOX} (gen_random_uuid(), '{{topic}}', {{key}}, '', {{payload}})",
        table="outbox",
    ),
    # Both in one round trip, which few programs manage. The id is made of two numbers of pgbench's: DELETE needs it.
    System(
        "uuid-delete",
        "INSERT and DELETE there",
        "\\startpipeline\n"
        f"{OUTBOX} ((:u::text || :v::text)::uuid, '{{topic}}', {{key}}, '', {{payload}});\n"
        "DELETE FROM outbox WHERE id = (:u::text || :v::text)::uuid;\n"
        "\\endpipeline",
        before="".join(f"\\set {name} random(1000000000000000, 9999999999999999)\n" for name in "uv"),
    ),
    System("notify", "NOTIFY, one listener", "SELECT pg_notify('bench', {payload})", listener=True),
    System("emit", "emit, relay and Kafka on", "SELECT outbox.emit('{topic}', {key}, {payload})", "relay", kafka=True),
    System(
        "debezium",
        "INSERT, Debezium tuned attached",
        f"{OUTBOX} (gen_random_uuid(), '{{topic}}', {{key}}, '', {{payload}})",
        "debezium",
        kafka=True,
    ),
    System("floor", "SELECT 1, librdkafka alone producing", "SELECT 1", "producer", kafka=True),
)
BY_NAME = {system.name: system for system in SYSTEMS}


@dataclass(frozen=True)
class Row:
    clients: int
    durable: bool
    systems: tuple[str, ...] = tuple(BY_NAME)
    statements: int = 4

    @property
    def name(self):
        what = "" if self.statements == 4 else "one statement, "
        return f"{what}{self.clients} sessions, {'durable' if self.durable else 'synchronous_commit=off'}"


ROWS = (
    Row(8, True),
    Row(8, False),
    Row(32, True),
    Row(32, False),
    Row(8, False, ("insert", "emit-off", "emit"), statements=1),
)


def script(row, system, topic):
    key = ":id::text" if row.statements == 4 else ":client_id::text"  # a session's transactions are in order, too
    x = system.x.format(topic=topic, key=key, payload=PAYLOAD)
    end = "\n" if system.x.startswith("\\") else ";\n"
    if row.statements == 1:
        return f"{system.before}{x}{end}"
    return (
        f"\\set id random(1, {ACCOUNTS})\n{system.before}BEGIN;\n"
        f"UPDATE account SET amount = amount + 1 WHERE id = :id;\n{x}{end}COMMIT;\n"
    )


def run(bench, results, rounds, quick):
    rows = (ROWS[0], ROWS[4]) if quick else ROWS
    bench.stop_kafka()  # there is one of our own
    with contextlib.ExitStack() as stack:
        place = Place(bench, stack, 2 if quick else SECONDS)
        place.warm_up()
        for number in range(1, rounds + 1):
            for row in rows:
                for name in row.systems:
                    system = BY_NAME[name]
                    bench.measured(results, NAME, row.name, name, number, lambda r=row, s=system: place.measure(r, s))


class Place:
    """The servers: one for everything, and one that has Debezium attached, because that cannot be taken off."""

    def __init__(self, bench, stack, seconds):
        self.bench = bench
        self.seconds = seconds
        # A broker that is stopped for a minute shall not find itself expelled by its own controller.
        self.kafka = Kafka.start(bench.folder / "kafka-tax", "broker.session.timeout.ms=3600000")
        stack.callback(self.kafka.stop)
        self.ours = bench.postgres(NAME, outbox__kafka_bootstrap_servers=self.kafka.bootstrap, outbox__retention=0)
        stack.callback(self.ours.stop)
        self.theirs = bench.postgres(f"{NAME}-debezium", wal_sender_timeout=0)
        stack.callback(self.theirs.stop)
        for postgres in (self.ours, self.theirs):
            create_tables(postgres)
        self.ours.create_extension()
        self.theirs.execute(CREATE_PUBLICATION)
        self.debezium = Debezium.start(self.theirs, self.kafka, "tuned", folder=bench.folder / "connect-tax")
        stack.callback(self.debezium.stop)
        self.debezium.wait_until_streaming()
        self.stopped = set()
        self.reached = {}  # by SELECT 1, row by row
        stack.callback(lambda: self.let_run(self.kafka.pid, self.debezium.pid))

    def warm_up(self):
        """The Java programs, by the load that is to come."""
        for row in (ROWS[0], ROWS[1], ROWS[3]):
            for name in ("emit", "debezium"):
                self.measure(row, BY_NAME[name])

    # -- who runs ---------------------------------------------------------------------------------------------

    def let_run(self, *pids):
        """These, and none of the other Java programs."""
        for pid in (self.kafka.pid, self.debezium.pid):
            if pid in pids and pid in self.stopped:
                os.kill(pid, signal.SIGCONT)
                self.stopped.remove(pid)
            elif pid not in pids and pid not in self.stopped:
                os.kill(pid, signal.SIGSTOP)
                self.stopped.add(pid)

    def beside(self, system):
        if system.beside == "debezium":
            return self.kafka.pid, self.debezium.pid
        return (self.kafka.pid,) if system.beside in ("relay", "producer") else ()

    def relay(self, on):
        self.ours.execute(f"ALTER SYSTEM SET outbox.enabled = {'on' if on else 'off'}", "SELECT pg_reload_conf()")
        state = "running" if on else "disabled"
        with self.ours.connect() as db:
            wait_for(lambda: db.execute("SELECT state FROM outbox.status").fetchone()[0] == state, f"a relay {state}")

    # -- one measurement --------------------------------------------------------------------------------------

    def measure(self, row, system):
        postgres = self.theirs if system.beside == "debezium" else self.ours
        topic = "bench"
        if system.kafka:
            self.let_run(self.kafka.pid)
            topic = self.kafka.topic(NAME)
        self.relay(on=system.beside == "relay")
        begin_anew(postgres, row)
        self.let_run(*self.beside(system))
        sql = script(row, system, topic)
        with self.listening(postgres, system) as heard, self.producing(row, system, topic) as producer:
            warm = postgres.pgbench(sql, row.clients, seconds=WARM_UP)
            lsn = postgres.wal_lsn()
            with self.usage(postgres, producer) as usage:
                outcome = postgres.pgbench(sql, row.clients, seconds=self.seconds)
            lsn = postgres.wal_lsn() - lsn
        count = outcome["transactions"]
        if system.name == "select":
            self.reached[row.name] = outcome["tps"]
        figures = {name: outcome[name] for name in ("tps", "latency_ms", "transactions")}
        figures |= {f"{group}_us": used / max(count, 1) * 1e6 for group, used in usage.cpu.items()}
        figures |= {"wal_bytes": lsn / max(count, 1)}
        if outcome["failed"] or not count:
            raise with_figures(Failed(f"{outcome['failed']} transactions failed"), figures)
        try:
            self.check(postgres, system, topic, producer.count if producer else warm["transactions"] + count, heard)
        except Failed as error:
            raise with_figures(error, figures) from None
        return figures

    def usage(self, postgres, producer):
        return Usage(
            producer=[producer.pid] if producer else [],
            backends=postgres.backend_pids,
            relay=lambda: [postgres.relay_pid()],
            sink=lambda: [postgres.sink_pid()],
            walsender=postgres.walsender_pids,
            broker=[self.kafka.pid],
            jvm=[self.debezium.pid],
        )

    @contextlib.contextmanager
    def listening(self, postgres, system):
        """Somebody who hears NOTIFY, and counts."""
        heard = Heard()
        if not system.listener:
            yield heard
            return
        with postgres.connect() as connection:
            connection.execute("LISTEN bench")
            thread = threading.Thread(target=heard.listen, args=(connection,))
            thread.start()
            try:
                yield heard
            finally:
                heard.stop()
                thread.join()

    @contextlib.contextmanager
    def producing(self, row, system, topic):
        """librdkafka alone, at the rate that the target asks of the row, from before the warm-up until after the measurement."""
        if system.beside != "producer":
            yield None
            return
        if row.name not in self.reached:
            raise Failed("SELECT 1 has not been measured before it")
        producer = Producer(self.bench, self.kafka, topic, TARGET * self.reached[row.name], WARM_UP + self.seconds + 2)
        with producer:
            yield producer

    def check(self, postgres, system, topic, count, heard):
        if system.kafka:
            self.let_run(self.kafka.pid, *self.beside(system))
            if system.beside not in ("debezium", "producer"):
                self.relay(on=True)
            verdict = verify(self.kafka, topic, Expected(count=count, bytes=BYTES), timeout=120)
            self.kafka.delete(topic)
            verdict.check()
        if system.table and (found := postgres.value(f"SELECT count(*) FROM {system.table}")) != count:
            raise Failed(f"{found} of {count} messages are in the table")
        if system.listener and heard.count != count:
            raise Failed(f"{heard.count} of {count} notifications were heard")


class Producer:
    """bench/load/pacer.c at a rate, while it is entered and until its time is over; then `count` says how many there were."""

    def __init__(self, bench, kafka, topic, rate, seconds):
        words = [bench.programs / "pacer", kafka.bootstrap, topic, rate, seconds, BYTES, KEYS, 1, "/dev/null", EVERY]
        self._command = [str(word) for word in words]

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        return self

    def __exit__(self, *_):
        printed, _ = self._process.communicate()
        self.count = int(printed or 0)
        if self._process.returncode:
            raise Failed("librdkafka alone could not deliver everything")


class Heard:
    """Counts notifications with as little effort as Python can."""

    def __init__(self):
        self.count = 0
        self._reader, self._writer = os.pipe()

    def listen(self, connection):
        libpq = connection.pgconn
        while True:
            ready, _, _ = select.select([libpq.socket, self._reader], [], [])
            libpq.consume_input()
            while libpq.notifies():
                self.count += 1
            if self._reader in ready and libpq.socket not in ready:
                return

    def stop(self):
        """After what has been sent so far."""
        os.write(self._writer, b"x")


def with_figures(error, figures):
    error.figures = figures
    return error


def create_tables(postgres):
    postgres.execute(
        "CREATE SEQUENCE message_number",
        "CREATE TABLE account (id integer PRIMARY KEY, amount bigint NOT NULL, owner text) WITH (fillfactor = 50)",
        # The columns of a segment; keys and payloads are text because that is what the transactions have.
        "CREATE TABLE plain (position bigserial, time timestamptz NOT NULL, id uuid NOT NULL, partition integer,"
        " topic text NOT NULL, key text, payload text, headers jsonb)",
        "CREATE INDEX ON plain (position)",
        CREATE_TABLE,
    )


def begin_anew(postgres, row):
    commit = "on" if row.durable else "off"
    postgres.execute(
        f"ALTER DATABASE postgres SET synchronous_commit = {commit}",
        "ALTER SEQUENCE message_number RESTART",
        "TRUNCATE account, plain, outbox",
        f"INSERT INTO account SELECT n, 0, 'owner of account ' || n FROM generate_series(1, {ACCOUNTS}) n",
        "VACUUM (FREEZE, ANALYZE) account",
        "CHECKPOINT",
    )


# -- what is reported -----------------------------------------------------------------------------------------

OTHERS = ("relay", "sink", "producer", "walsender", "broker", "jvm")
# Row, system, beside which, at least.
TARGETS = (
    (ROWS[0], "emit", "select", TARGET),
    (ROWS[0], "floor", "select", TARGET),
    (ROWS[0], "emit", "debezium", 2.0),
    (ROWS[4], "emit-off", "insert", 1.0),
    (ROWS[4], "emit", "insert", 1.0),
)


def others(figures):
    """Microseconds of CPU a transaction of all that is not a backend."""
    return sum(figures.get(f"{name}_us", 0) for name in OTHERS)


def report(records):
    rows = in_order(records, "row")
    return Report(
        tables=[targets(records), *[table(records, row) for row in rows]],
        plots=[plot(records, rows)],
        notes=[
            "A transaction: BEGIN; UPDATE; the statement; COMMIT, each a round trip (one statement: that one alone). "
            "CPU is per transaction; beside: relay, sink and broker, or JVM, walsender and broker.",
            f"*librdkafka alone producing*: a C program hands {TARGET:.0%} as many messages a second as there are transactions beside "
            f"SELECT 1 straight to the broker, every {EVERY} ms: what is left is what any way to Kafka leaves on these cores.",
        ],
    )


def targets(records):
    found = []
    for row, system, beside, limit in TARGETS:
        if numbers := ratios(records, row.name, system, beside, "tps"):
            what = f"{BY_NAME[system].title} / {BY_NAME[beside].title}"
            verdict = "met" if statistics.median(numbers) >= limit else "not met"
            found.append([row.name, what, f"≥ {limit}", spread(numbers, 2), verdict])
    return Table("Transactions a second against the targets", ["", "ratio", "target", "found", ""], found)


def table(records, row):
    here = [name for name in BY_NAME if any(one["row"] == row and one["system"] == name for one in records)]
    base = "select" if "select" in here else "insert"
    lines = [
        [
            BY_NAME[name].title,
            cell(records, row, name, "tps"),
            ratio_cell(records, row, name, base, "tps"),
            cell(records, row, name, "latency_ms", 2),
            cell(records, row, name, "backends_us"),
            cell(records, row, name, others),
            cell(records, row, name, "wal_bytes"),
        ]
        for name in here
    ]
    share = f"of {BY_NAME[base].title}"
    columns = ["", "transactions/s", share, "ms", "CPU us, backends", "CPU us, beside", "WAL bytes"]
    return Table(row, columns, lines)


def plot(records, rows):
    rows = [row for row in rows if good(records, row, "select")]
    series = {
        BY_NAME[name].title: {row: bar(ratios(records, row, name, "select", "tps")) for row in rows}
        for name in BY_NAME
        if name != "select"
    }
    return Plot("tax", "Transactions a second, of those with SELECT 1", series)
