"""B8: what an old transaction, or an idle replication slot, does to those who move messages."""

import contextlib
import os
import time

from .. import openloop, timeline
from ..machine import Usage
from ..movers import DebeziumMover, Outbox, Polling, moving
from ..openloop import Load
from ..report import NOTHING, Plot, Report, Table, cell, good, in_order, values
from ..waiting import Failed

NAME = "horizon"
TITLE = "An old transaction, or an idle slot, at 2,000 messages a second"

RATE = 2000
# Before the obstacle and after it: what the same server does without it, just before, and whether it recovers.
CLEAR = 30
# Checkpoints and vacuums as a server of some size has them in minutes, so that a few minutes show what an hour would:
# pg_wal is emptied at checkpoints, and a table by vacuum, if nothing is in the way.
SETTINGS = {"checkpoint_timeout": "30s", "autovacuum_naptime": "10s", "min_wal_size": "80MB"}
OUTBOX_SETTINGS = {"outbox__retention": "0", "outbox__segment_size": "16MB"}

# Seconds: a reader's harm grows with what it has seen deleted, a slot's is a straight line from the beginning.
# BENCH_HORIZON_SECONDS=600 makes it ten minutes each.
SECONDS = {"old reader": 300, "old writer": 150, "idle slot": 120}
CASES = {
    "old reader": "a REPEATABLE READ transaction that has taken its snapshot",
    "old writer": "a transaction that has written a row and sent a message, and stays open",
    "idle slot": "a logical replication slot that nobody reads",
}
SYSTEMS = {
    "outbox": Outbox,
    "SKIP LOCKED": Polling,
    "Debezium tuned": lambda kafka, folder: DebeziumMover(kafka, folder, "tuned", delete=True),
}
DRAIN = 120  # seconds, after the load has ended


def run(bench, results, rounds, quick):
    """One round, whatever is asked for elsewhere: each case goes on for minutes, and within it before is compared with during."""
    cases = ["old reader"] if quick else CASES
    asked, clear = (15, 5) if quick else (int(os.environ.get("BENCH_HORIZON_SECONDS", "0")), CLEAR)
    openloop.warm_broker(bench, bench.kafka)
    for case in cases:
        for system in SYSTEMS:
            seconds = asked or SECONDS[case]
            figures = lambda case=case, system=system, seconds=seconds: measure(bench, case, system, seconds, clear)  # noqa: E731
            bench.measured(results, NAME, case, system, 1, figures)


# -- measuring ---------------------------------------------------------------------------------------------------


def measure(bench, case, system, seconds, clear):
    mover = SYSTEMS[system](bench.kafka, bench.folder / "mover")
    settings = SETTINGS | (OUTBOX_SETTINGS if system == "outbox" else {}) | mover.settings
    postgres = bench.postgres("horizon", **settings)
    try:
        postgres.execute("CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
        mover.start(postgres)
        openloop.warm_mover(bench, bench.kafka, postgres, mover)
        return load(bench, postgres, mover, case, seconds, clear)
    finally:
        mover.stop()
        postgres.stop()


def load(bench, postgres, mover, case, seconds, clear):
    folder = bench.folder / "openloop"
    topic = bench.kafka.topic("horizon")
    with contextlib.ExitStack() as stack:
        consumer = stack.enter_context(openloop.follow(bench.kafka, topic, folder, RATE, seconds, timeout=DRAIN))
        sizes = timeline.Sizes(postgres, mover.relations)
        sizes.start()
        stack.callback(sizes.stop)
        load = Load(postgres, folder, mover.statement(topic), RATE, seconds)
        stack.callback(load.stop)
        usage = stack.enter_context(Usage(openloop.LOOK_EVERY, **mover.groups(), broker=[bench.kafka.pid], consumer=[consumer.pid]))
        time.sleep(clear)
        opened = time.time_ns()
        with obstacle(postgres, mover, topic, case):
            time.sleep(seconds - 2 * clear)
        closed = time.time_ns()
        sent = load.wait()
        mover.check()
        verdict, arrivals = openloop.collect(consumer, sent)
        rows = sizes.stop()
    bench.kafka.delete(topic)
    figures = {"target_rate": RATE, "seconds": seconds, "messages": len(sent.numbers), "drained": verdict.last_arrival - sent.returned.max() / 1e9}
    return figures | judged(sent, arrivals[sent.numbers], rows, opened, closed) | usage.figures()


@contextlib.contextmanager
def obstacle(postgres, mover, topic, case):
    with postgres.connect() as db:
        if case == "idle slot":
            db.execute("SELECT pg_create_logical_replication_slot('idle', 'pgoutput')")
            yield
            db.execute("SELECT pg_drop_replication_slot('idle')")
        elif case == "old reader":
            db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            db.execute("SELECT count(*) FROM business")
            yield
            db.execute("COMMIT")
        else:
            # Its message would be a phantom: it is rolled back, and a number that nobody sends is a fault.
            db.execute("BEGIN")
            db.execute("INSERT INTO business DEFAULT VALUES")
            db.execute(mover.statement(topic, key="7", value="'0 never'"))
            yield
            db.execute("ROLLBACK")


def judged(sent, arrived, rows, opened, closed):
    """Figures of the time before the obstacle, of the last third of it, and of the end."""
    start, end = int(sent.due.min()), int(sent.due.max())
    sizes = timeline.sizes_series(rows, start)
    figures = {
        "opened": (opened - start) / 1e9, "closed": (closed - start) / 1e9, "sizes": sizes,
        "flow": timeline.flow_series(sent, arrived, start, max(end, int(arrived.max()))),
    }  # fmt: skip
    third = closed - (closed - opened) // 3
    for name, since, until in (("before", start + 2_000_000_000, opened), ("during", third, closed), ("after", closed, end)):
        figures |= phase(name, sent, arrived, since, until)
        figures |= {f"{kind}_{name}": timeline.at(sizes, kind, (until - start) / 1e9) for kind in ("wal", "table", "database")}
    minutes = (closed - opened) / 6e10
    for kind in ("wal", "table"):
        figures[f"{kind}_a_minute"] = (figures[f"{kind}_during"] - figures[f"{kind}_before"]) / minutes
    return figures


def phase(name, sent, arrived, since, until):
    inside = (sent.due >= since) & (sent.due < until)
    if not inside.any():
        raise Failed(f"nothing was due in the time {name}")
    counted = openloop.histogram(arrived[inside] - sent.due[inside])
    came = ((arrived >= since) & (arrived < until)).sum()
    return {f"rate_{name}": float(came / ((until - since) / 1e9))} | {f"{q}_{name}": v for q, v in openloop.quantiles(counted).items()}


# -- the report --------------------------------------------------------------------------------------------------

MIB = 1 << 20


def report(records):
    found = Report()
    systems = [system for system in SYSTEMS if system in in_order(records, "system")]
    for case in in_order(records, "row"):
        table = Table(
            f"{case}: {CASES[case]}",
            ["system", "delivered a second before", "with it, at its end", "p99 before, ms", "with it, at its end", "after it",
             "table before, MiB", "at its end", "a minute", "pg_wal before, MiB", "at its end", "CPU a million, s"],
            [],
        )  # fmt: skip
        for system in systems:
            table.rows.append([system, *cells(records, case, system)])
        found.tables.append(table)
        found.plots += plots(records, case, systems)
    found.notes += [
        f"An open loop of {RATE:,} single-row transactions a second, 200 bytes. The obstacle is there from the {CLEAR}th second until {CLEAR} s"
        " before the end; *at its end* is the last third of that time. p99 is from the intended time to the consumer."
        " Each system has a server of its own, one after the other. Every message was verified at the end, with all the backlog drained.",
        "Checkpoints every 30 s and autovacuum every 10 s for all; outbox with segments of 16 MB and no retention, so that minutes show"
        " what hours would. Debezium's rows are deleted in the transaction that inserts them, the polling relay's when they are acknowledged.",
    ]
    return found


def cells(records, case, system):
    if not good(records, case, system):
        return [cell(records, case, system, "rate_before"), *[NOTHING] * 10]
    size = lambda name: cell(records, case, system, lambda figures: figures[name] / MIB)  # noqa: E731
    return [
        cell(records, case, system, "rate_before"), cell(records, case, system, "rate_during"),
        cell(records, case, system, "p99_before", 1), cell(records, case, system, "p99_during", 1), cell(records, case, system, "p99_after", 1),
        size("table_before"), size("table_during"), size("table_a_minute"), size("wal_before"), size("wal_during"),
        cell(records, case, system, lambda figures: moving(figures) / figures["messages"] * 1e6, 1),
    ]  # fmt: skip


def plots(records, case, systems):
    file = f"horizon-{case.replace(' ', '-')}"
    there = {system: figures[0] for system in systems if (figures := values(records, case, system, lambda one: one))}
    if not there:
        return []
    steps = lambda one, name, scale=1: drawable(one["flow"]["t"], one["flow"][name], scale)  # noqa: E731
    sizes = lambda one, name: drawable(one["sizes"]["t"], one["sizes"][name], MIB)  # noqa: E731
    return [
        Plot(f"{file}-p99", f"{case}: p99, intended time to consumer", {s: steps(one, "p99") for s, one in there.items()}, "s", "ms", "lines", log_y=True),
        Plot(f"{file}-rate", f"{case}: delivered a second", {s: steps(one, "rate") for s, one in there.items()}, "s", "messages/s", "lines"),
        Plot(f"{file}-table", f"{case}: what holds the messages", {s: sizes(one, "table") for s, one in there.items()}, "s", "MiB", "lines"),
        Plot(f"{file}-wal", f"{case}: pg_wal", {s: sizes(one, "wal") for s, one in there.items()}, "s", "MiB", "lines"),
    ]


def drawable(x, y, scale):
    pairs = [(a, b / scale) for a, b in zip(x, y) if b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]
