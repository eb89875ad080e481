"""What breaks and comes back: a sink that is killed, a broker that is dead or hung, ten million messages behind a dead one.

`outage` compares a broker that is away with how Debezium takes it; these are about outbox alone.
"""

import contextlib
import os
import signal
import statistics
import time
from functools import partial

import numpy as np

from .. import backlogs, openloop, timeline
from ..backlogs import Backlog
from ..books import verify
from ..machine import Usage
from ..movers import Outbox
from ..openloop import Load
from ..report import NOTHING, Report, Table, cell, in_order, ratio_cell
from ..servers import Kafka
from ..waiting import Failed, wait_for

NAME = "recovery"
TITLE = "Recovery: a sink killed, a broker dead or hung, ten million messages behind a dead one"

OUTBOX = "outbox"
SINK = "a sink killed again and again, 500 messages a second"
BESIDE = "transactions at 400 a second, each with an UPDATE and a message"
# Alive twice: what differs between those two is the machine's noise.
ALIVE, AGAIN, KILLED, HUNG = "alive", "alive, again", "killed", "hung"
BEHIND = Backlog(10_000_000, 200, 10_000)
MOST_BEHIND = 3  # rounds of it

DUPLICATES = 1_000_000  # are counted, not forbidden


def run(bench, results, rounds, quick):
    """On a broker of its own, because it is killed."""
    kills, seconds, behind = (3, 3, Backlog(200_000, 200, 10_000)) if quick else (20, 10, BEHIND)
    todo = []
    for number in range(1, rounds + 1):
        todo.append((number, SINK, OUTBOX, partial(kill_sinks, kills=kills)))
        todo += [(number, BESIDE, state, partial(commit_beside, state=state, seconds=seconds)) for state in BROKERS]
        if number <= MOST_BEHIND:
            todo.append((number, row_of(behind), OUTBOX, partial(pile_up, backlog=behind)))
    todo = [one for one in todo if not results.done(NAME, one[1], one[2], one[0])]
    if not todo:
        return
    bench.stop_kafka()
    kafka = Kafka.start(bench.folder / "kafka-recovery")
    try:
        openloop.warm_broker(bench, kafka)
        for number, row, system, measure in todo:
            bench.measured(results, NAME, row, system, number, partial(measure, bench, kafka))
    finally:
        with contextlib.suppress(Exception):
            kafka.stop()


def row_of(backlog):
    return f"{backlog.count:,} messages of {backlog.bytes} bytes, written while the broker was dead"


@contextlib.contextmanager
def served(bench, kafka):
    """A server whose relay has sent something. Of what is delivered it keeps nothing."""
    mover = Outbox(kafka, bench.folder / "mover")
    postgres = bench.postgres("recovery", outbox__retention="0", **mover.settings)
    try:
        mover.start(postgres)
        openloop.warm_mover(bench, kafka, postgres, mover, seconds=3)
        yield postgres, mover
    finally:
        postgres.stop()


# -- a sink that is killed -----------------------------------------------------------------------------------------

EVERY = 1.0  # seconds between kills


def kill_sinks(bench, kafka, kills, rate=500):
    folder = bench.folder / "openloop"
    with served(bench, kafka) as (postgres, mover), contextlib.ExitStack() as stack:
        topic = kafka.topic("killed")
        seconds = int(EVERY * (kills + 2)) + 2
        consumer = stack.enter_context(openloop.follow(kafka, topic, folder, rate, seconds, duplicates=DUPLICATES))
        load = Load(postgres, folder, mover.statement(topic), rate, seconds)
        stack.callback(load.stop)
        killed, replaced = [], []
        for _ in range(kills):
            time.sleep(EVERY)
            old = wait_for(postgres.sink_pid, "a sink")
            killed.append(time.time_ns())
            os.kill(old, signal.SIGKILL)
            wait_for(lambda old=old: postgres.sink_pid() not in (None, old), "another sink", pause=0.0005)
            replaced.append(time.time_ns())
        sent = load.wait()
        verdict, arrivals = openloop.collect(consumer, sent)
    return {"kills": kills} | verdict.figures() | ways_back(sent, arrivals[sent.numbers], killed, replaced)


def ways_back(sent, arrived, killed, replaced):
    """Milliseconds from each kill to another process, and to the first arrival of what was begun after it."""
    processes = [(there - kill) / 1e6 for kill, there in zip(killed, replaced)]
    firsts = []
    for kill in killed:
        later = arrived[sent.due > kill]
        if not len(later):
            raise Failed("nothing was sent after the last kill")
        firsts.append((int(later.min()) - kill) / 1e6)
    return {
        "process_ms": statistics.median(processes), "process_most_ms": max(processes),
        "first_ms": statistics.median(firsts), "first_most_ms": max(firsts),
    }  # fmt: skip


# -- transactions beside a broker in trouble -----------------------------------------------------------------------


@contextlib.contextmanager
def killed(kafka):
    kafka.kill()
    try:
        yield
    finally:
        kafka.start_again()


@contextlib.contextmanager
def hung(kafka):
    kafka.suspend()
    try:
        yield
    finally:
        kafka.go_on()


BROKERS = {ALIVE: contextlib.nullcontext, AGAIN: contextlib.nullcontext, KILLED: killed, HUNG: hung}

ACCOUNTS = (
    "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)",
    "INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 1600) AS n",
)


def commit_beside(bench, kafka, state, seconds, rate=400):
    folder = bench.folder / "openloop"
    with served(bench, kafka) as (postgres, mover):
        postgres.execute(*ACCOUNTS, "CHECKPOINT")
        topic = kafka.topic("beside")
        script = (
            "BEGIN;\nUPDATE accounts SET balance = balance + 1 WHERE id = :k + 1;\n"
            f"{mover.statement(topic)};\nCOMMIT"
        )
        with openloop.follow(kafka, topic, folder, rate, seconds, 120, DUPLICATES) as consumer:
            with BROKERS[state](kafka):
                load = Load(postgres, folder, script, rate, seconds)
                try:
                    sent = load.wait()
                finally:
                    load.stop()
            verdict, _ = openloop.collect(consumer, sent)
    taken = openloop.histogram(sent.returned - sent.due)
    return {f"{name}_ms": value for name, value in openloop.quantiles(taken).items()} | verdict.figures()


# -- a backlog -----------------------------------------------------------------------------------------------------

SEGMENTS_AT_REST = 160 << 20  # bytes: what is left when all is settled is less than a segment


def pile_up(bench, kafka, backlog):
    with served(bench, kafka) as (postgres, mover), contextlib.ExitStack() as stack:
        kafka.topics(backlog.topic_names, backlog.partitions)
        sizes = timeline.Sizes(postgres, mover.relations)
        sizes.start()
        stack.callback(sizes.stop)
        groups = {"relay": lambda: [postgres.relay_pid()], "sink": lambda: [postgres.sink_pid()]}
        with Usage(**groups) as usage:
            wait_for(lambda: sizes.rows, "a look at the disk")
            with killed(kafka):
                began = time.time_ns()
                backlogs.fill(postgres, backlogs.emit_statement(backlog), backlog)
                filled = time.time_ns()
                status = postgres.status()
            figures = come_down(postgres, status, backlog)
            wait_for(lambda: sizes.rows[-1][2] < SEGMENTS_AT_REST, "emptied segments", 60, 0.2)
            rows = sizes.stop()
        verdict = verify(kafka, backlog.topic, backlog.expected).check()
    figures |= {"emitted_rate": backlog.count / (filled - began) * 1e9, "backlog": status["backlog"]}
    return figures | extremes(rows) | usage.figures() | verdict.figures()


def come_down(postgres, status, backlog):
    """The broker answers: until the first message is acknowledged, and until all are."""
    began = time.perf_counter()
    with postgres.connect() as db:
        delivered = "SELECT delivered FROM outbox.status"
        wait_for(lambda: db.execute(delivered).fetchone()[0] > status["delivered"], "the first message", 120)
        first = time.perf_counter() - began
        if not db.execute("SELECT outbox.wait_for_delivery('1 h')").fetchone()[0]:
            raise Failed("the backlog does not drain")
    seconds = time.perf_counter() - began
    return {"first_s": first, "drain_s": seconds, "rate": backlog.count / seconds}


def extremes(rows):
    """Bytes on disk before, at most, and at the end."""
    found = {}
    for column, kind in enumerate(("wal", "table", "database"), 1):
        found |= {f"{kind}_before": int(rows[0, column]), f"{kind}_highest": int(np.max(rows[:, column])), f"{kind}_end": int(rows[-1, column])}
    return found


# -- the report ----------------------------------------------------------------------------------------------------

MIB = 1 << 20


def report(records):
    tables = []
    for row in in_order(records, "row"):
        if row == SINK:
            tables.append(of_sinks(records))
        elif row == BESIDE:
            tables.append(of_transactions(records))
        else:
            tables.append(of_backlog(records, row))
    notes = [
        "Every message was looked for by a consumer: none lost, none out of order; what came twice is counted. A transaction's time is"
        " from when it was due until its COMMIT had returned, in an open loop, so that waiting for an earlier one counts.",
    ]
    return Report(tables, notes=notes)


def heading(row):
    return row[0].upper() + row[1:]


def of_sinks(records):
    line = lambda title, figure, digits=1: [title, cell(records, SINK, OUTBOX, figure, digits)]  # noqa: E731
    return Table(heading(SINK), ["", OUTBOX], [
        line("killed, times", "kills", 0),
        line("until another process, ms, median of the kills", "process_ms"),
        line("the same, longest", "process_most_ms"),
        line("until what was begun after the kill arrived, ms, median", "first_ms"),
        line("the same, longest", "first_most_ms"),
        line("messages", "count", 0), line("lost", "lost", 0), line("came twice", "duplicates", 0),
    ])  # fmt: skip


def of_transactions(records):
    lines = []
    for state in in_order([one for one in records if one["row"] == BESIDE], "system"):
        beside = ratio_cell(records, BESIDE, state, ALIVE, "p99_ms") if state != ALIVE else NOTHING
        lines.append([state, cell(records, BESIDE, state, "p50_ms", 2), cell(records, BESIDE, state, "p99_ms", 1),
                      cell(records, BESIDE, state, "max_ms", 0), beside])  # fmt: skip
    return Table(heading(BESIDE), ["the broker is", "p50, ms", "p99, ms", "max, ms", "p99 beside alive"], lines)


def of_backlog(records, row):
    table = Table(heading(row), ["", OUTBOX], [])
    line = lambda title, figure, digits=0: table.rows.append([title, cell(records, row, OUTBOX, figure, digits)])  # noqa: E731
    line("written a second, two sessions", "emitted_rate")
    line("first one acknowledged, s after the broker answers", "first_s", 1)
    line("all acknowledged, s after that moment", "drain_s", 1)
    line("messages a second meanwhile", "rate")
    for group in ("relay", "sink"):
        line(f"{group}, peak memory, MiB", lambda figures, group=group: figures[f"peak_{group}"] / MIB)
    for kind, title in (("table", "segments, with their indexes"), ("database", "the whole database"), ("wal", "pg_wal")):
        for moment, when in (("before", "before"), ("highest", "at most"), ("end", "at the end")):
            line(f"{title}, {when}, MiB", lambda figures, name=f"{kind}_{moment}": figures[name] / MIB, 1)
    line("lost", "lost")
    line("came twice", "duplicates")
    return table
