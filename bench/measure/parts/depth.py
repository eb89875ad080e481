"""B10: whether a message costs more when there is more: waiting, sessions, partitions, topics; behind an old transaction."""

import statistics
from dataclasses import replace
from functools import partial

from .. import backlogs, messages
from ..backlogs import OLD, PREPARED, Backlog, Templates
from ..machine import Usage
from ..report import Plot, Report, Table, bar, cell, good, in_order, ratio_cell, spread, values
from ..waiting import Failed, wait_for

NAME = "depth"
TITLE = "Depth: does a message cost more when there is more?"

DRAIN, EMIT, ALONE = "drain", "emit", "librdkafka alone"
# 64 divides the keys and 6,400 the counts, so that the same messages can be written by 64 sessions.
KEYS = 9600
BASE = Backlog(1_024_000, 200, 100, keys=KEYS)
SHALLOW, DEEP = replace(BASE, count=10_000), replace(BASE, count=10_240_000)
MANY = replace(BASE, topics=50)
OLD_BASE = replace(DEEP, topics=50, old_writer=True)
PLAIN = "1 million waiting, 2 sessions, 6 partitions, 1 topic"
WITH_OLD, WITHOUT_OLD = "10 million in 50 topics, behind an old writer", "10 million in 50 topics, nothing old"

# Each drain: its name, the backlog, and whether an old transaction stays open.
DRAINS = {
    PLAIN: BASE,
    "10 thousand waiting": SHALLOW,
    "10 million waiting": DEEP,
    "written by 1 session": replace(BASE, sessions=1),
    "written by 8 sessions": replace(BASE, sessions=8),
    "written by 32 sessions": replace(BASE, sessions=32),
    "written by 64 sessions": replace(BASE, sessions=64),
    "1 partition": replace(BASE, partitions=1),
    "48 partitions": replace(BASE, partitions=48),
    "50 topics": MANY,
    WITHOUT_OLD: OLD_BASE,
    WITH_OLD: OLD_BASE,
}
# Where the client has more to do as well, it fills the same topics alone.
FILLED = (PLAIN, "1 partition", "48 partitions", "50 topics")
# Each emit: its name, what is waiting, and how many sessions.
EMITS = {
    PLAIN: (BASE, 1),
    "10 thousand waiting": (SHALLOW, 1),
    "10 million waiting": (DEEP, 1),
    "8 sessions": (BASE, 8),
    "32 sessions": (BASE, 32),
    "64 sessions": (BASE, 64),
}
SECONDS = 3


def hold_old(postgres, sessions):
    """The old writer stays (it is prepared), and an old reader comes: a snapshot from before anything is sent."""
    reader = postgres.connect()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox.identity")
    sessions.append(reader)


def end_old(postgres, _):
    postgres.execute(f"ROLLBACK PREPARED '{OLD}'")


def drain(bench, templates, name):
    backlog, sessions = DRAINS[name], []
    prepare = {WITH_OLD: hold_old, WITHOUT_OLD: end_old}.get(name)
    before = (lambda postgres: prepare(postgres, sessions)) if prepare else None
    try:
        return backlogs.drain_outbox(bench, templates.outbox(backlog), backlog, before=before, **PREPARED)
    finally:
        for session in sessions:
            session.close()


def emit(bench, templates, name):
    """One message a transaction while nothing is sent: the backends' CPU for each, and how many a second. synchronous_commit is
    off, so that the disk does not set the pace."""
    backlog, sessions = EMITS[name]
    postgres = bench.postgres("emit", templates.outbox(backlog), synchronous_commit="off", **PREPARED)
    try:
        wait_for(lambda: postgres.status()["state"] == "paused", "the relay to rest")
        waiting = postgres.status()["backlog"]
        if waiting != backlog.count:
            raise Failed(f"{waiting:,} messages wait instead of {backlog.count:,}")
        script = (
            f"\\set g random(1, 1000000)\nSELECT {messages.emit_sql(':g::bigint', backlog.bytes, backlog.topic)};\n"
        )
        postgres.pgbench(script, sessions, seconds=1)
        waiting = postgres.status()["backlog"]
        before = postgres.wal_lsn()
        with Usage(**backlogs.groups(bench, postgres)) as usage:
            ran = postgres.pgbench(script, sessions, seconds=SECONDS)
        wal = postgres.wal_lsn() - before
        stored = postgres.status()["backlog"] - waiting
        if ran["failed"] or stored != ran["transactions"]:
            raise Failed(f"{ran['transactions']:,} messages were emitted, {stored:,} are stored")
        return {
            "rate": ran["tps"], "backend_us": usage.cpu["backends"] / stored * 1e6, "wal_bytes": wal / stored, "count": stored,
            **usage.figures(),
        }  # fmt: skip
    finally:
        postgres.stop()


def run(bench, results, rounds, quick):
    templates = Templates(bench)
    try:
        backlogs.fill_topic(bench, Backlog(500_000, 200, 1))
        for number in range(1, rounds + 1):
            for name in [PLAIN, "10 thousand waiting", "50 topics"] if quick else DRAINS:
                bench.measured(results, NAME, name, DRAIN, number, partial(drain, bench, templates, name))
                if name in FILLED:
                    fill = partial(backlogs.fill_topic, bench, DRAINS[name])
                    bench.measured(results, NAME, name, ALONE, number, fill)
            for name in [PLAIN, "10 thousand waiting", "8 sessions"] if quick else EMITS:
                bench.measured(results, NAME, name, EMIT, number, partial(emit, bench, templates, name))
    finally:
        templates.remove()


# -- the report ---------------------------------------------------------------------------------------------


def beside(records, row, base, system, figure):
    """Round by round, what `row` has of what `base` has."""
    of = {one["round"]: one["figures"][figure] for one in good(records, base, system)}
    return [one["figures"][figure] / of[one["round"]] for one in good(records, row, system) if of.get(one["round"])]


def relay_cpu(figures):
    return (figures["cpu_relay"] + figures["cpu_sink"]) / figures["count"] * 1e6


def peak(figures):
    return (figures["peak_relay"] + figures["peak_sink"]) / (1 << 20)


def report(records):
    rows = [
        row for row in in_order(records, "row") if any(one["row"] == row and one["system"] == DRAIN for one in records)
    ]
    drains = Table(
        "Draining",
        ["backlog", "messages a second", "of the first row's", "of librdkafka's alone", "relay and sink, CPU s per million",
         "relay and sink, peak MiB"],
        [
            [row, cell(records, row, DRAIN, "rate"), spread(beside(records, row, PLAIN, DRAIN, "rate"), 2),
             ratio_cell(records, row, DRAIN, ALONE, "rate"), cell(records, row, DRAIN, relay_cpu, 2), cell(records, row, DRAIN, peak)]
            for row in rows
        ],
    )  # fmt: skip
    rows_of_emit = [
        row for row in in_order(records, "row") if any(one["row"] == row and one["system"] == EMIT for one in records)
    ]
    emits = Table(
        "Emitting, one message a transaction",
        ["while", "backends' CPU, µs a message", "of the first row's", "messages a second", "WAL, bytes a message"],
        [
            [row.replace(", 2 sessions, 6 partitions, 1 topic", ", 1 session"), cell(records, row, EMIT, "backend_us", 1),
             spread(beside(records, row, PLAIN, EMIT, "backend_us"), 2), cell(records, row, EMIT, "rate"), cell(records, row, EMIT, "wal_bytes")]
            for row in rows_of_emit
        ],
    )  # fmt: skip
    old = beside(records, WITH_OLD, WITHOUT_OLD, DRAIN, "rate")
    notes = [
        "The backlogs are of 200-byte messages in transactions of 100; what a row does not name is as in the first."
    ]
    if old:
        notes.append(
            f"Behind an old transaction (a writer from before the backlog, which has emitted a message too, and a REPEATABLE READ reader) "
            f"{spread(old, 2)} of the rate without; the median is {statistics.median(old):.2f}."
        )
    series = {"outbox": {row: bar(values(records, row, DRAIN, "rate")) for row in rows}}
    return Report([drains, emits], [Plot("depth", "Draining, by what there is", series, y="messages a second")], notes)
