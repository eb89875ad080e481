"""B13 attach: what an attached table takes from the statement that writes a row, beside the same INSERT into the same table
without, and beside emit().

Measured as the part `emit` does it: one session, the relay off, backend CPU and WAL a row, marginal to a loop that stores
nothing. What attaching costs is the difference between the two INSERTs.
"""

import contextlib

from ..report import Report, Table, cell, good, in_order, ratios, spread
from . import emit
from .emit import RANGE, SHAPES, Session, System

NAME = "attach"
TITLE = "attach: what an attached table takes from an INSERT"

EMPTY_SEGMENTS = "TRUNCATE outbox.segment_1, outbox.segment_2, outbox.segment_3, outbox.segment_4"
TEXTS = (
    """'{"key.converter": "org.apache.kafka.connect.storage.StringConverter", "value.converter": "org.apache.kafka.connect.storage.StringConverter"}'"""
)


def table(name, attach=""):
    """The columns of a message, one index; `attach` makes rows messages of the topic that is the table's name."""
    create = (
        f"CREATE TABLE {name} (position bigserial, time timestamptz NOT NULL, id uuid NOT NULL, key text, payload text)",
        f"CREATE INDEX ON {name} (position)",
    )
    return rows(name, create, "time, id, key, payload", "clock_timestamp(), gen_random_uuid()", attach)


def outbox_table(name, attach=""):
    """Debezium's default shape, without the random key: it would be most of the cost."""
    create = (
        f"CREATE TABLE {name} (id uuid NOT NULL, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,"
        " type varchar(255) NOT NULL, payload text)",
    )
    return rows(name, create, "id, aggregatetype, type, aggregateid, payload", f"gen_random_uuid(), '{name}', 't'", attach)


def rows(name, create, columns, first, attach):
    into = f"INSERT INTO {name} ({columns})"
    key = columns.split(", ")[-2]
    sent = f"SELECT key, payload, id::text FROM outbox.messages WHERE topic LIKE '%{name}'"
    return {
        "kind": "text",
        "create": (*create, *([attach] if attach else [])),
        "one": f"{into} VALUES ({first}, $1, $2)",
        "many": f"{into} SELECT {first}, key, {{payload}} FROM source_text {RANGE}",
        "empty": f"TRUNCATE {name}",
        "stored": sent if attach else f"SELECT convert_to({key}, 'UTF8'), convert_to(payload, 'UTF8'), id::text FROM {name}",
    }


SYSTEMS = (
    emit.BY_NAME["empty"],
    System(
        "emit",
        "outbox.emit",
        kind="text",
        empty=EMPTY_SEGMENTS,
        one="SELECT outbox.emit('emitted', $1, $2)",
        many=f"SELECT count(outbox.emit('emitted', key, {{payload}})) FROM source_text {RANGE}",
        stored="SELECT key, payload, id::text FROM outbox.messages WHERE topic = 'emitted'",
    ),
    System("loose", "INSERT", **table("loose")),
    System(
        "columns", "INSERT, attached: columns",
        **table("with_columns", "SELECT outbox.attach('with_columns', topic => 'with_columns', key => 'key', payload => 'payload')"),
    ),
    System(
        "expression", "INSERT, attached: columns, headers by an expression",
        **table(
            "with_expression",
            "SELECT outbox.attach('with_expression', topic => 'with_expression', key => 'key', payload => 'payload',"
            " headers => $$jsonb_build_object('type', TG_OP, 'at', NEW.time)$$)",
        ),
    ),
    System("outbox-loose", "INSERT into an outbox table", **outbox_table("loose_outbox")),
    System(
        "debezium", "the same, attach_debezium", **outbox_table("outbox_of_debezium", f"SELECT outbox.attach_debezium('outbox_of_debezium', {TEXTS})")
    ),
)  # fmt: skip
BY_NAME = {system.name: system for system in SYSTEMS}
# What is attached, and the same INSERT without.
PAIRS = (("columns", "loose"), ("expression", "loose"), ("debezium", "outbox-loose"))


def run(bench, results, rounds, quick):
    bench.stop_kafka()  # nothing here goes anywhere
    postgres = bench.postgres(
        NAME, shared_buffers="1536MB", checkpoint_timeout="1d", autovacuum="off", max_parallel_workers_per_gather=0, jit="off",
        outbox__enabled="off", outbox__segment_size="1TB", outbox__segment_max_age="7d",
    )  # fmt: skip
    try:
        with postgres.connect() as connection:
            connection.execute("CREATE EXTENSION outbox")
            connection.execute("CREATE EXTENSION pg_walinspect")
            connection.execute("CREATE TABLE source_text (number integer PRIMARY KEY, id uuid NOT NULL, key text, payload text)")
            connection.execute("CREATE TABLE source_bytea (number integer PRIMARY KEY, id uuid NOT NULL, key bytea, payload bytea)")
            for system in SYSTEMS:
                for statement in system.create:
                    connection.execute(statement)
        for number in range(1, rounds + 1):
            bench.log(f"{NAME} {number}")
            if not all(results.done(NAME, row(shape), system.name, number) for shape in SHAPES for system in SYSTEMS):
                one_round(postgres, results, number)
    finally:
        postgres.stop()


def row(shape):
    return emit.row_name(200, shape)


def one_round(postgres, results, number):
    with contextlib.ExitStack() as stack:
        sessions = [Session(stack.enter_context(postgres.connect()), system) for system in SYSTEMS]
        figures, complaints = emit.measure(sessions, 200)
    for (shape, system), found in figures.items():
        reason = complaints[system]
        results.record(NAME, row(shape), system, number, found, reason is None, reason)


# -- what is reported -----------------------------------------------------------------------------------------


def by_round(records, name, system, figure):
    return {one["round"]: one["figures"][figure] for one in good(records, name, system)}


def added(records, name, attached, loose, figure):
    """By round: what attaching adds to an INSERT."""
    base = by_round(records, name, loose, figure)
    return {number: value - base[number] for number, value in by_round(records, name, attached, figure).items() if number in base}


def report(records):
    names = in_order(records, "row")
    tables = []
    for figure, title, digits in (("cpu_us", "Backend CPU, microseconds a row", 2), ("wal_bytes", "WAL, bytes a row", 0)):
        lines = [[name, *[cell(records, name, system.name, figure, digits) for system in SYSTEMS]] for name in names]
        tables.append(Table(f"{title}, with the loop", ["", *[system.title for system in SYSTEMS]], lines))
        lines = []
        for name in names:
            emitted = emit.net(records, name, "emit", figure)
            for attached, loose in PAIRS:
                more = added(records, name, attached, loose, figure)
                of_emit = [more[number] / emitted[number] for number in more if emitted.get(number, 0) > 0]
                lines.append([
                    f"{name}: {BY_NAME[attached].title}", spread(list(more.values()), digits), spread(of_emit, 2),
                    spread(ratios(records, name, attached, loose, figure), 2),
                ])  # fmt: skip
        tables.append(Table(f"{title}: what attaching adds", ["", "added", "of emit()'s own", "INSERT attached ÷ not"], lines))
    return Report(
        tables=tables,
        notes=[
            "200 B, one session, synchronous_commit off, the relay off. An attached INSERT stores two rows, the table's and the message; "
            f"emit()'s own is without the loop. Medians of {emit.PASSES} passes in each round."
        ],
    )
