"""B9: the broker is away for a minute while the application goes on: what is lost, what comes twice, how long until all is well."""

import contextlib
import time

import numpy as np
from confluent_kafka import KafkaException

from .. import openloop, timeline
from ..machine import Usage
from ..movers import DebeziumMover, Outbox, moving
from ..openloop import Load
from ..report import Plot, Report, Table, cell, good, in_order, ratio_cell, values
from ..servers import Kafka
from ..waiting import Failed, wait_for

NAME = "outage"
TITLE = "The broker is away for a minute, at 5,000 messages a second"

RATE = 5000
BEFORE, AWAY, AFTER = 10, 60, 45  # seconds; the load goes on all the time
DRAIN = 240  # seconds, after the load has ended
# Caught up: for a whole second, half of what comes is at most this late.
LATE_NS = 100_000_000
DUPLICATES = 10_000_000  # are counted, not forbidden: at least once is what is promised here

SYSTEMS = {"outbox": Outbox, "Debezium tuned": lambda kafka, folder: DebeziumMover(kafka, folder, "tuned")}


def run(bench, results, rounds, quick):
    """On a broker of its own, because it is stopped."""
    rate, before, away, after = (1000, 3, 20, 8) if quick else (RATE, BEFORE, AWAY, AFTER)
    todo = [
        (number, system) for number in range(1, rounds + 1) for system in SYSTEMS
        if not results.done(NAME, f"{away} s", system, number)
    ]  # fmt: skip
    if not todo:
        return
    bench.stop_kafka()
    kafka = Kafka.start(bench.folder / "kafka-outage")
    try:
        for number, system in todo:
            bench.measured(
                results, NAME, f"{away} s", system, number,
                lambda system=system: measure(bench, kafka, system, rate, before, away, after),
            )  # fmt: skip
    finally:
        with contextlib.suppress(Exception):
            kafka.stop()


# -- measuring ---------------------------------------------------------------------------------------------------


def measure(bench, kafka, system, rate, before, away, after):
    mover = SYSTEMS[system](kafka, bench.folder / "mover")
    postgres = bench.postgres("outage", **mover.settings)
    try:
        mover.start(postgres)
        openloop.warm_mover(bench, kafka, postgres, mover)
        return load(bench, kafka, postgres, mover, rate, before, away, after)
    finally:
        mover.stop()
        postgres.stop()


def load(bench, kafka, postgres, mover, rate, before, away, after):
    folder = bench.folder / "openloop"
    topic = kafka.topic("outage")
    # The broker needs a few seconds to come back, and they belong to the outage.
    seconds = before + away + after + 10
    with contextlib.ExitStack() as stack:
        consumer = stack.enter_context(openloop.follow(kafka, topic, folder, rate, seconds, DRAIN, DUPLICATES))
        sizes = timeline.Sizes(postgres, mover.relations)
        sizes.start()
        stack.callback(sizes.stop)
        load = Load(postgres, folder, mover.statement(topic), rate, seconds)
        stack.callback(load.stop)
        usage = stack.enter_context(Usage(openloop.LOOK_EVERY, **mover.groups(), consumer=[consumer.pid]))
        time.sleep(before)
        stopped = time.time_ns()
        kafka.stop(keep=True)
        time.sleep(max(0.0, away - (time.time_ns() - stopped) / 1e9))
        kafka.start_again()
        back = time.time_ns()
        sent = load.wait()
        mover.check()
        verdict, arrivals = openloop.collect(consumer, sent)
        # A vacuum or a checkpoint may follow; what stands then is what stays.
        time.sleep(2)
        rows = sizes.stop()
    wait_for(lambda: deleted(kafka, topic), f"the end of {topic}", pause=0.5)
    figures = {"target_rate": rate, "seconds": seconds, "messages": len(sent.numbers)} | verdict.figures()
    return figures | judged(sent, arrivals[sent.numbers], rows, stopped, back) | usage.figures()


def deleted(kafka, topic):
    try:
        kafka.delete(topic)
        return True
    except KafkaException:
        return False


def judged(sent, arrived, rows, stopped, back):
    start, end = int(sent.due.min()), int(sent.due.max())
    sizes = timeline.sizes_series(rows, start)
    after = arrived > back
    if not after.any():
        raise Failed("nothing came after the outage")
    caught = caught_up(sent, arrived, back)
    last = (max(int(arrived.max()), end) - start) / 1e9
    figures = {
        "away": (back - stopped) / 1e9, "stopped": (stopped - start) / 1e9, "back": (back - start) / 1e9, "load_ended": (end - start) / 1e9,
        "first_after": float((arrived[after].min() - back) / 1e9), "caught_up": (caught - back) / 1e9,
        "caught_up_under_load": bool(caught < end),
        "waiting_when_back": int(((sent.returned < back) & (arrived > back)).sum()),
        "commit_p99_before_ms": commits(sent, start, stopped), "commit_p99_away_ms": commits(sent, stopped, back),
        "sizes": sizes, "flow": timeline.flow_series(sent, arrived, start, int(max(arrived.max(), end)), 2),
    }  # fmt: skip
    for kind in ("wal", "table", "database"):
        figures[f"{kind}_before"] = timeline.at(sizes, kind, figures["stopped"])
        figures[f"{kind}_highest"] = timeline.highest(sizes, kind, figures["stopped"], last)
        figures[f"{kind}_end"] = sizes[kind][-1]
    return figures


def caught_up(sent, arrived, back):
    """The first moment after which, for a second, half of what comes is hardly late; the last arrival if there is none."""
    order = np.argsort(arrived)
    order = order[arrived[order] > back]
    moments, delays = arrived[order], (arrived - sent.due)[order]
    for moment in range(int(back), int(moments[-1]), 100_000_000):
        first, last = np.searchsorted(moments, [moment, moment + 1_000_000_000])
        if last > first and np.median(delays[first:last]) < LATE_NS:
            return moment
    return int(moments[-1])


def commits(sent, since, until):
    inside = (sent.due >= since) & (sent.due < until)
    return float(np.percentile((sent.returned - sent.due)[inside], 99) / 1e6) if inside.any() else None


# -- the report --------------------------------------------------------------------------------------------------

MIB = 1 << 20


def report(records):
    found = Report()
    systems = [system for system in SYSTEMS if system in in_order(records, "system")]
    for row in in_order(records, "row"):
        table = Table(f"Away for {row}", ["", *systems], [])
        line = lambda title, figure, digits=0, row=row, table=table: table.rows.append(  # noqa: E731
            [title, *[cell(records, row, system, figure, digits) for system in systems]]
        )
        line("from the signal until it answers again, s", "away", 1)
        line("sent", "messages")
        line("lost", "lost")
        line("came twice", "duplicates")
        line("out of order", "disorder")
        line("waiting when it was back", "waiting_when_back")
        line("first message after that, s", "first_after", 2)
        table.rows.append(["no lag any more, s after that", *[caught_cell(records, row, system) for system in systems]])
        line("a commit's p99 before, ms", "commit_p99_before_ms", 1)
        line("a commit's p99 meanwhile, ms", "commit_p99_away_ms", 1)
        for kind, title in (("database", "database"), ("table", "what holds the messages"), ("wal", "pg_wal")):
            for moment, when in (("before", "before"), ("highest", "at most"), ("end", "at the end")):
                line(f"{title} {when}, MiB", lambda figures, name=f"{kind}_{moment}": figures[name] / MIB)
        line("CPU seconds a million messages", lambda figures: moving(figures) / figures["messages"] * 1e6, 1)
        found.tables.append(table)
        if len(systems) == 2:
            ratio = ratio_cell(records, row, systems[0], systems[1], "caught_up", 3)
            found.notes.append(f"Time until there is no lag, {systems[0]} ÷ {systems[1]}: {ratio}.")
        found.plots += plots(records, row, systems)
    found.notes.append(
        f"An open loop of single-row transactions, 200 bytes, that goes on before ({BEFORE} s), meanwhile and afterwards ({AFTER} s). The broker"
        " is told to stop (SIGTERM) and is started again on the same data; *back* is when it answers. No lag: for a second, half of what"
        " arrives is less than 100 ms behind its intended time. Where that took longer than the load went on, the rest was drained without"
        " load, and it says so. outbox keeps what it has sent for ten minutes (its default), so its tables do not shrink within the run;"
        " Debezium's table is never emptied here."
    )
    return found


def caught_cell(records, row, system):
    text = cell(records, row, system, "caught_up", 1)
    late = [one for one in good(records, row, system) if not one["figures"]["caught_up_under_load"]]
    return f"{text}, after the load had ended" if late else text


def plots(records, row, systems):
    there = {system: figures[0] for system in systems if (figures := values(records, row, system, lambda one: one))}
    if not there:
        return []
    flow = {system: (one["flow"]["t"], one["flow"]["rate"]) for system, one in there.items()}
    sizes = {system: (one["sizes"]["t"], [size / MIB for size in one["sizes"]["wal"]]) for system, one in there.items()}
    return [
        Plot("outage-rate", f"The broker away for {row}: messages a second at the consumer", flow, "s", "messages/s", "lines"),
        Plot("outage-wal", f"The broker away for {row}: pg_wal", sizes, "s", "MiB", "lines"),
    ]
