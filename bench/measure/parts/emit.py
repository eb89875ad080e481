"""B7 emit: what a message costs the backend that emits it (CPU, WAL, disk), beside INSERT and pgq.insert_event.

One session, nothing else at work: outbox.enabled is off, so the messages stay where emit() put them. Every system gets
the same topic, keys and payloads from the same source; the tables have the same columns as ours. Each measurement
begins with new tables (those with a random key hold FILL small messages, so that there is an index to be random in), a
CHECKPOINT and a pass that is not the measured one: right after a checkpoint the first change of a page writes the whole
page into the WAL, which says more about the size of an index than about a message. That first pass is kept as well
(`first`). The measured passes follow it without another checkpoint; what they write fits into shared_buffers.

What the loop costs without any message is measured in the same way, as a system of its own (`empty`): a statement that
reads the same key and payload, in a transaction that has an id and so a commit record. The marginal cost of a message
is the difference. CPU is the backend's own, in nanoseconds, from the kernel's clock of that process.
"""

import contextlib
import statistics
import time
import traceback
import uuid
from dataclasses import dataclass

from psycopg.pq import ExecStatus

from ..report import Plot, Report, Table, bar, cell, good, in_order, spread, values
from ..waiting import Failed

NAME = "emit"
TITLE = "emit: what a message costs the transaction"

SIZES = (200, 1024)
FILL = 100_000
PASSES = 5  # that count, in each round
SOURCE = 20_000
PIPELINE = 100  # statements that are on their way at once
TOPIC = "bench"

RANGE = "WHERE number BETWEEN $1 AND $2"
COLUMNS = """position bigserial, time timestamptz NOT NULL, id uuid NOT NULL, partition integer, topic text NOT NULL,
             key bytea, payload bytea, headers jsonb"""


@dataclass(frozen=True)
class Shape:
    """How many messages a transaction has, in how many statements, and how many transactions make a pass."""

    name: str
    messages: int
    statements: int
    transactions: int


SHAPES = (
    Shape("1", 1, 1, 2_000),
    Shape("100", 100, 1, 200),
    Shape("100 statements", 100, 100, 40),
    Shape("20,000", 20_000, 1, 1),
)


@dataclass(frozen=True)
class System:
    """One way of storing a message: `one` takes a key and a payload, `many` a range of the source, with `payload`."""

    name: str
    title: str
    kind: str = "bytea"  # of its keys and payloads
    create: tuple[str, ...] = ()
    empty: str = ""  # removes all messages
    one: str = ""
    many: str = ""
    given: bool = False  # `one` takes an id, too
    fill: str = ""  # as `many`, but for messages that are there before, each with an id of its own
    relations: str = ""  # where the messages are, one row each
    stored: str = ""  # key, payload and id of the messages that are stored


def insert(table, key, given=False, filled=False):
    """INSERT as an application would write it, into a table like ours; ids from the application or from the server."""

    def many(new_id):
        return f"{into} SELECT clock_timestamp(), {new_id}, '{TOPIC}', key, {{payload}} FROM source_bytea {RANGE}"

    into = f"INSERT INTO {table} (time, id, topic, key, payload)"
    random = "gen_random_uuid()"
    return {
        "create": (f"CREATE TABLE {table} ({COLUMNS})", f"CREATE {key}"),
        "one": f"{into} VALUES (clock_timestamp(), {'$3' if given else random}, '{TOPIC}', $1, $2)",
        "many": many("id" if given else random),
        "given": given,
        "fill": many(random) if filled else "",
        "empty": f"TRUNCATE {table}",
        "relations": f"SELECT '{table}'::regclass",
        "stored": f"SELECT key, payload, id::text FROM {table}",
    }


SYSTEMS = (
    System(
        "empty",
        "no message",
        kind="text",
        one="SELECT pg_current_xact_id(), length($1), length($2)",
        many=f"SELECT pg_current_xact_id(), count(key), count(payload) FROM source_text {RANGE}",
    ),
    System(
        "emit",
        "outbox.emit",
        kind="text",
        empty="TRUNCATE outbox.segment_1, outbox.segment_2, outbox.segment_3, outbox.segment_4",
        one=f"SELECT outbox.emit('{TOPIC}', $1, $2)",
        many=f"SELECT count(outbox.emit('{TOPIC}', key, {{payload}})) FROM source_text {RANGE}",
        relations="SELECT format('outbox.segment_%s', n)::regclass FROM generate_series(1, 4) n",
        stored="SELECT key, payload, id::text FROM outbox.messages",
    ),
    System("insert", "INSERT, one index", **insert("plain", "INDEX ON plain (position)")),
    System("insert-given", "INSERT, one index, ids given", **insert("given", "INDEX ON given (position)", given=True)),
    System("uuid", "INSERT, uuid key", **insert("keyed", "UNIQUE INDEX ON keyed (id)", filled=True)),
    System(
        "uuid-given", "INSERT, uuid key, ids given", **insert("keyed_given", "UNIQUE INDEX ON keyed_given (id)", True, True)
    ),
    # Its event has a number and a time of its own, so it is given no uuid: topic, payload and key.
    System(
        "pgq",
        "pgq.insert_event",
        kind="text",
        create=("CREATE EXTENSION pgq", "SELECT pgq.create_queue('bench')"),
        empty="TRUNCATE pgq.event_1_0, pgq.event_1_1, pgq.event_1_2",
        one=f"SELECT pgq.insert_event('bench', '{TOPIC}', $2, $1, NULL, NULL, NULL)",
        many=f"SELECT count(pgq.insert_event('bench', '{TOPIC}', {{payload}}, key, NULL, NULL, NULL))"
        f" FROM source_text {RANGE}",
        relations="SELECT format('pgq.event_1_%s', n)::regclass FROM generate_series(0, 2) n",
        stored="SELECT convert_to(ev_extra1, 'UTF8'), convert_to(ev_data, 'UTF8'), ev_id::text FROM pgq.event_1",
    ),
)
BY_NAME = {system.name: system for system in SYSTEMS}


def run(bench, results, rounds, quick):
    bench.stop_kafka()  # nothing here goes anywhere
    postgres = bench.postgres(
        NAME,
        shared_buffers="1536MB",  # everything that a round writes fits
        checkpoint_timeout="1d",  # none but ours
        autovacuum="off",  # it writes WAL and flushes buffers when it pleases
        max_parallel_workers_per_gather=0,
        jit="off",
        outbox__enabled="off",
        outbox__segment_size="1TB",
        outbox__segment_max_age="7d",
    )
    try:
        with postgres.connect() as connection:
            prepare_database(connection)
        for number in range(1, rounds + 1):
            for size in SIZES[:1] if quick else SIZES:
                if not all(done(results, number, size)):
                    one_round(bench, postgres, results, number, size)
    finally:
        postgres.stop()


def prepare_database(connection):
    connection.execute("CREATE EXTENSION IF NOT EXISTS outbox")
    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
    for kind in ("text", "bytea"):
        connection.execute(
            f"CREATE TABLE source_{kind} (number integer PRIMARY KEY, id uuid NOT NULL, key {kind}, payload {kind})"
        )
    for system in SYSTEMS:
        for statement in system.create:
            connection.execute(statement)


def row_name(size, shape):
    return f"{size} B, {shape.name} a transaction"


def done(results, number, size):
    return [results.done(NAME, row_name(size, shape), system.name, number) for shape in SHAPES for system in SYSTEMS]


def one_round(bench, postgres, results, number, size):
    try:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(postgres.connect()) for _ in SYSTEMS]
            sessions = [Session(*pair) for pair in zip(connections, SYSTEMS, strict=True)]
            figures, complaints = measure(sessions, size)
    except Exception as error:
        # It costs this round's numbers, not the run.
        traceback.print_exc()
        figures = {(shape, system.name): {} for shape in SHAPES for system in SYSTEMS}
        complaints = dict.fromkeys(BY_NAME, f"{type(error).__name__}: {error}")
    for (shape, system), found in figures.items():
        reason = complaints[system]
        results.record(NAME, row_name(size, shape), system, number, found, reason is None, reason)
    bench.log(f"{NAME} {number}: {size} B: {', '.join(filter(None, complaints.values())) or 'done'}")


def measure(sessions, size, shapes=SHAPES, fill=FILL):
    """Figures by shape and system, and for each system why they do not count (None: they do)."""
    messages = message_parameters(size)
    control = sessions[0].connection
    fill_sources(control, size)
    for session in sessions:
        session.make_ready()
    figures, complaints = {}, dict.fromkeys(session.system.name for session in sessions)
    for shape in shapes:
        for session in sessions:
            session.begin_anew(fill)
        control.execute("CHECKPOINT")
        passes = []
        for _ in range(1 + PASSES):
            fill_sources(control, size)  # with other ids
            passes.append([one_pass(session, shape, messages) for session in sessions])
        flush_wal(control)
        count = (1 + PASSES) * shape.messages * shape.transactions
        for session, (first, *others) in zip(sessions, zip(*passes, strict=True), strict=True):
            name = session.system.name
            figures[shape, name] = middle(control, others) | {"first": {k: v for k, v in first.items() if k != "wal"}}
            complaints[name] = complaints[name] or complaint(session, count)
    return figures, complaints


def middle(control, passes):
    """The median of each figure; types of WAL records as the last pass had them."""
    names = [name for name in passes[0] if name != "wal"]
    wal = wal_by_type(control, *passes[-1]["wal"], passes[-1]["messages"])
    return {name: statistics.median(p[name] for p in passes) for name in names} | {"wal": wal}


class Session:
    """A connection used with nothing between it and libpq: what the client does costs the backend cache and time."""

    def __init__(self, connection, system):
        self.connection = connection
        self.system = system
        self.libpq = connection.pgconn
        self.pid = connection.info.backend_pid

    def make_ready(self):
        self.connection.execute("SET synchronous_commit = off")
        self.connection.execute("SET client_min_messages = error")
        self.prepare("one", self.system.one)
        self.prepare("many", self.system.many.format(payload="payload"))
        if self.system.fill:
            self.prepare("fill", self.system.fill.format(payload="''"))

    def begin_anew(self, fill):
        if self.system.empty:
            self.connection.execute(self.system.empty)
        if self.system.fill:
            for _ in range(fill // SOURCE):
                self.call("fill", 1, SOURCE)

    def prepare(self, name, sql):
        self._check(self.libpq.prepare(name.encode(), sql.encode()))

    def call(self, name, *parameters):
        self._check(self.libpq.exec_prepared(name.encode(), [str(p).encode() for p in parameters]))

    def call_each(self, messages):
        """A transaction for each. Many are on their way at once: the backend never sleeps, or that would be the cost."""
        for low in range(0, len(messages), PIPELINE):
            portion = messages[low : low + PIPELINE]
            self.libpq.enter_pipeline_mode()
            for message in portion:
                self.libpq.send_query_prepared(b"one", message)
                self.libpq.pipeline_sync()
            for _ in portion:
                self._results(1)
            self.libpq.exit_pipeline_mode()

    def call_together(self, messages):
        """A transaction with a statement for each."""
        self.libpq.enter_pipeline_mode()
        self.libpq.send_query_params(b"BEGIN", None)
        for message in messages:
            self.libpq.send_query_prepared(b"one", message)
        self.libpq.send_query_params(b"COMMIT", None)
        self.libpq.pipeline_sync()
        self._results(len(messages) + 2)
        self.libpq.exit_pipeline_mode()

    def _results(self, count):
        """Of so many statements, and of the end of the pipeline behind them."""
        for _ in range(count):
            self._check(self.libpq.get_result())
            self.libpq.get_result()  # nothing: the statement's end
        if self.libpq.get_result().status != ExecStatus.PIPELINE_SYNC:
            raise Failed("the pipeline does not end where it should")

    def _check(self, result):
        if result.error_message:
            raise Failed(result.error_message.decode().strip())

    def cpu_seconds(self):
        """Of the backend, in nanoseconds' resolution: the clock that clock_getcpuclockid(3) names."""
        return time.clock_gettime((~self.pid << 3) | 2)


def payload_of(number, size):
    text = f"{number} "
    return text + "x" * (size - len(text))


def message_parameters(size):
    return [[str(number).encode(), payload_of(number, size).encode()] for number in range(1, SOURCE + 1)]


def fill_sources(connection, size):
    for kind in ("text", "bytea"):
        fill_source(connection, kind, size)


def fill_source(connection, kind, size):
    of_kind = {"text": "{}", "bytea": "convert_to({}, 'UTF8')"}[kind]
    key, payload = of_kind.format("g::text"), of_kind.format(f"rpad(g || ' ', {size}, 'x')")
    connection.execute(f"TRUNCATE source_{kind}")
    connection.execute(
        f"INSERT INTO source_{kind} SELECT g, gen_random_uuid(), {key}, {payload}"
        f" FROM generate_series(1, {SOURCE}) g"
    )
    connection.execute(f"VACUUM (FREEZE, ANALYZE) source_{kind}")


def one_pass(session, shape, messages):
    """Each message of the source is stored once at most."""
    if session.system.given:
        wanted = messages[: shape.messages * shape.transactions]
        messages = [[*message, str(uuid.uuid4()).encode()] for message in wanted]
    bytes_before = disk_bytes(session)
    lsn = wal_position(session.connection)
    cpu, wall = session.cpu_seconds(), time.perf_counter()
    if shape.messages == 1:
        session.call_each(messages[: shape.transactions])
    for low in range(0, shape.messages * shape.transactions, shape.messages):
        if shape.statements > 1:
            session.call_together(messages[low : low + shape.messages])
        elif shape.messages > 1:
            session.call("many", low + 1, low + shape.messages)
    cpu, wall = session.cpu_seconds() - cpu, time.perf_counter() - wall
    count = shape.messages * shape.transactions
    end = wal_position(session.connection)
    return {
        "messages": count,
        "cpu_us": cpu / count * 1e6,
        "wall_us": wall / count * 1e6,
        "wal_bytes": wal_distance(session.connection, lsn, end) / count,
        "disk_bytes": (disk_bytes(session) - bytes_before) / count,
        "wal": (lsn, end),
    }


def wal_position(connection):
    return connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]


def wal_distance(connection, begin, end):
    return int(connection.execute("SELECT %s::pg_lsn - %s::pg_lsn", (end, begin)).fetchone()[0])


def flush_wal(connection):
    """What is not on disk cannot be looked at."""
    connection.execute("SET synchronous_commit = on")
    connection.execute("SELECT pg_logical_emit_message(true, 'bench', '')")
    connection.execute("SET synchronous_commit = off")


def wal_by_type(connection, begin, end, count):
    """Per message: [records, their bytes, bytes of full pages] of each type of record."""
    rows = connection.execute(
        'SELECT "resource_manager/record_type", count, record_size, fpi_size FROM pg_get_wal_stats(%s, %s, true)'
        " WHERE count > 0",
        (begin, end),
    ).fetchall()
    return {kind: [n / count, size / count, pages / count] for kind, n, size, pages in rows}


def disk_bytes(session):
    if not session.system.relations:
        return 0
    sql = f"SELECT sum(pg_total_relation_size(r)) FROM ({session.system.relations}) s(r)"
    return int(session.connection.execute(sql).fetchone()[0])


def complaint(session, count):
    """What is wrong unless all messages are stored, byte for byte, each with an id of its own."""
    system = session.system
    if not system.stored:
        return None
    found, ids = session.connection.execute(
        f"SELECT count(*), count(DISTINCT m.id) FROM ({system.stored}) m(key, payload, id)"
        f" JOIN source_{system.kind} s ON {key_equals(system.kind, 'key')} AND {key_equals(system.kind, 'payload')}"
    ).fetchone()
    if found != count:
        return f"{found} of {count} messages are stored as they were given"
    if ids != count:
        return f"{count} messages have {ids} ids"
    return None


def key_equals(kind, column):
    return f"m.{column} = " + (f"s.{column}" if kind == "bytea" else f"convert_to(s.{column}, 'UTF8')")


# -- what is reported -----------------------------------------------------------------------------------------

STORING = [system.name for system in SYSTEMS if system.name != "empty"]
RIVALS = [name for name in STORING if name != "emit"]
MANY = ("100", "20,000")  # a transaction: what the targets are about


def net(records, row, system, figure):
    """By round: what the loop with a message takes beyond the loop without."""
    empty = {one["round"]: one["figures"][figure] for one in good(records, row, "empty")}
    return {
        one["round"]: one["figures"][figure] - empty[one["round"]]
        for one in good(records, row, system)
        if one["round"] in empty
    }


def net_ratios(records, row, system, figure):
    """Of emit to the other, round by round."""
    ours, other = net(records, row, "emit", figure), net(records, row, system, figure)
    return [ours[number] / other[number] for number in ours if other.get(number, 0) > 0]


def first(figure):
    return lambda figures: figures["first"][figure]


def report(records):
    rows = in_order(records, "row")
    return Report(
        tables=[
            targets(records, rows),
            net_table("Backend CPU, microseconds a message, marginal: without the loop", records, rows, "cpu_us", 2),
            whole_table("The same with the loop", records, rows, "cpu_us", 2),
            whole_table("Wall clock, microseconds a message, with the loop", records, rows, "wall_us", 2),
            net_table("WAL, bytes a message, without the commit record", records, rows, "wal_bytes", 0),
            whole_table(
                "WAL, bytes a message, in the first pass after a checkpoint: with the full pages",
                records, rows, first("wal_bytes"), 0,
            ),
            net_table("Disk, bytes a message, indexes included", records, rows, "disk_bytes", 0),
            wal_table(records, rows),
        ],
        plots=[
            net_plot("emit-cpu", "Backend CPU a message, marginal", "microseconds", records, rows, "cpu_us"),
            net_plot("emit-wal", "WAL a message", "bytes", records, rows, "wal_bytes"),
        ],
        notes=[
            "100 and 20,000: one statement, from a table of messages. 100 statements: one for each message. Statements of one message come without a pause between them. "
            "Ids given: by the application; otherwise the server makes them, as emit() does. The loop: the same statement with a SELECT of the same key and payload, in a transaction with an id. "
            "synchronous_commit is off, the relay is off. pgq's events carry no uuid."
        ],
    )  # fmt: skip


def targets(records, rows):
    wanted = (
        ("CPU against INSERT, one index", "insert", "cpu_us", 0.9),
        ("the same, ids given", "insert-given", "cpu_us", 0.9),
        ("CPU against INSERT, uuid key", "uuid", "cpu_us", 0.4),
        ("the same, ids given", "uuid-given", "cpu_us", 0.4),
        ("WAL against INSERT, one index", "insert", "wal_bytes", 0.85),
    )
    found = []
    for row in rows:
        if not row.endswith(tuple(f", {many} a transaction" for many in MANY)):
            continue
        for what, system, figure, limit in wanted:
            ratios = net_ratios(records, row, system, figure)
            if ratios:
                verdict = "met" if statistics.median(ratios) <= limit else "not met"
                found.append([row, what, f"≤ {limit}", spread(ratios, 2), verdict])
    return Table("emit against the targets, marginal cost a message", ["", "ratio", "target", "found", ""], found)


def net_table(title, records, rows, figure, digits):
    """With the ratios of emit to each of the others."""
    found = []
    for row in rows:
        cells = [
            spread(list(net(records, row, name, figure).values()), digits) if good(records, row, name) else "no number"
            for name in STORING
        ]
        found.append([row, *cells, *[spread(net_ratios(records, row, name, figure), 2) for name in RIVALS]])
    columns = [BY_NAME[name].title for name in STORING] + [f"emit / {BY_NAME[name].title}" for name in RIVALS]
    return Table(title, ["", *columns], found)


def whole_table(title, records, rows, figure, digits):
    columns = [system.title for system in SYSTEMS]
    return Table(
        title, ["", *columns], [[row, *[cell(records, row, name, figure, digits) for name in BY_NAME]] for row in rows]
    )


def wal_table(records, rows):
    """Which records the WAL of a message is made of."""
    row = next((row for row in rows if row.endswith(f", {MANY[-1]} a transaction")), rows[0])
    found = []
    for name in STORING:
        kinds = {kind for wal in values(records, row, name, "wal") for kind in wal}
        sizes = {k: [wal.get(k, [0, 0, 0])[1] for wal in values(records, row, name, "wal")] for k in kinds}
        largest = sorted(kinds, key=lambda kind: -statistics.median(sizes[kind]))
        if BY_NAME[name].given:
            continue  # its records are those of the one before
        for kind in [kind for kind in largest if statistics.median(sizes[kind]) >= 1]:
            count = [wal.get(kind, [0])[0] for wal in values(records, row, name, "wal")]
            found.append([BY_NAME[name].title, kind, spread(count, 3), spread(sizes[kind], 1)])
    return Table(f"WAL by type of record, {row}", ["", "record", "records a message", "bytes a message"], found)


def net_plot(name, title, unit, records, rows, figure):
    series = {
        BY_NAME[system].title: {
            row.removesuffix(" a transaction"): bar(list(net(records, row, system, figure).values())) for row in rows
        }
        for system in STORING
    }
    return Plot(name, title, series, y=unit)
