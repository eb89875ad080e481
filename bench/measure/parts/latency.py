"""B3: how long a message takes from its commit to the consumer, at rates that an open loop keeps whatever happens."""

import functools
import math
import statistics

import numpy as np

from .. import openloop
from ..machine import Usage
from ..movers import DebeziumMover, Outbox, moving
from ..openloop import Load
from ..report import NOTHING, Plot, Report, Table, cell, good, in_order, ratio_cell, select, values
from ..waiting import Failed

NAME = "latency"
TITLE = "Latency: commit to consumer"

RATES = [100, 1000, 5000, 10000]
HALF_OF_DEBEZIUM = 3500  # where the part `sustain` has not been measured
# Measured: long enough for some ten thousand messages; and what is sent before that.
SECONDS, MORE_SECONDS, LEAD = 6, {100: 12, 1000: 10}, 2
# A delay that grows by more than this in a second of load is a queue that grows.
MOST_GROWTH = 0.03
MOST_MISSING = 0.05  # of the rate: was not even begun
FLOOR, BESIDE = "librdkafka alone", "librdkafka beside INSERTs"
FLOORS = (FLOOR, BESIDE)
CREATE_PLAIN = "CREATE TABLE plain (time timestamptz, key text, payload text)"


def run(bench, results, rounds, quick):
    rates = [1000] if quick else sorted({*RATES, half_of_debezium(results)})
    duration = lambda rate: 5 if quick else MORE_SECONDS.get(rate, SECONDS)  # noqa: E731
    openloop.warm_broker(bench, bench.kafka)
    for number in range(1, rounds + 1):
        for system in systems(quick):
            todo = [rate for rate in rates if not results.done(NAME, row(rate), system, number)]
            if not todo:
                continue
            if system == FLOOR:
                for rate in todo:
                    bench.measured(results, NAME, row(rate), system, number, lambda rate=rate: floor(bench, rate, duration(rate), number))
            elif system == BESIDE:
                measure_beside(bench, results, number, todo, duration)
            else:
                measure_mover(bench, results, system, number, todo, duration)


def systems(quick):
    return SYSTEMS if not quick else [Outbox.name, "Debezium low latency", FLOOR]


MOVERS = {
    "Debezium default": lambda kafka, folder: DebeziumMover(kafka, folder, "default"),
    "Debezium tuned": lambda kafka, folder: DebeziumMover(kafka, folder, "tuned"),
    "Debezium low latency": lambda kafka, folder: DebeziumMover(kafka, folder, "low-latency"),
}


def row(rate):
    return f"{rate}/s"


def half_of_debezium(results):
    """Half of what Debezium tuned has been seen to sustain with one message a transaction, in round figures."""
    best = [
        record["figures"]["rate"] for record in results.load("sustain")
        if record["ok"] and record["system"] == "Debezium tuned" and ", 1 a transaction" in record["row"] and record["figures"].get("rate")
    ]  # fmt: skip
    return max(int(statistics.median(best) / 2 // 500 * 500), 500) if best else HALF_OF_DEBEZIUM


# -- measuring ---------------------------------------------------------------------------------------------------


def measure_mover(bench, results, system, number, rates, duration):
    """A server of its own, and all rates on it, the lower ones first: what a higher one piles up is gone with the server."""
    mover = MOVERS.get(system, Outbox)(bench.kafka, bench.folder / "mover")
    postgres = bench.postgres("latency", **mover.settings)
    try:
        start = functools.cache(lambda: prepare(bench, postgres, mover))
        for rate in rates:

            def measure(rate=rate):
                start()
                return load(bench, postgres, mover, rate, LEAD, duration(rate), number)

            bench.measured(results, NAME, row(rate), system, number, measure)
    finally:
        mover.stop()
        postgres.stop()


def prepare(bench, postgres, mover):
    recycled_wal(postgres)
    mover.start(postgres)
    openloop.warm_mover(bench, bench.kafka, postgres, mover)


def recycled_wal(postgres, segments=16):
    """A server that has run for a while writes into files that are there; a new one would make and sync them meanwhile."""
    with postgres.connect() as db:
        for _ in range(segments):
            db.execute("SELECT pg_logical_emit_message(false, 'bench', 'x')")
            db.execute("SELECT pg_switch_wal()")
        db.execute("CHECKPOINT")


def load(bench, postgres, mover, rate, lead, seconds, seed):
    folder = bench.folder / "openloop"
    topic = bench.kafka.topic("latency")
    postgres.execute("CHECKPOINT")
    with openloop.follow(bench.kafka, topic, folder, rate, lead + seconds) as consumer:
        load = Load(postgres, folder, mover.statement(topic), rate, lead + seconds, seed)
        groups = mover.groups() | {
            "server": postgres.server_pids, "broker": [bench.kafka.pid], "consumer": [consumer.pid], "pgbench": [load.pid],
        }  # fmt: skip
        try:
            with Usage(openloop.LOOK_EVERY, **groups) as usage:
                sent = load.wait()
        finally:
            load.stop()
        _, arrivals = openloop.collect(consumer, sent)
    bench.kafka.delete(topic)
    return judged(sent, arrivals, rate, lead, seconds) | usage.figures()


def judged(sent, arrivals, rate, lead, seconds):
    """Figures of those messages that were due after the first seconds."""
    start = sent.due.min() + lead * 1_000_000_000
    window = sent.between(start, start + seconds * 1_000_000_000)
    if len(window.numbers) == 0:
        raise Failed("no transaction was due in the time that is measured")
    arrived = arrivals[window.numbers]
    figures = {
        "target_rate": rate, "messages": len(window.numbers), "seconds": seconds, "loaded_seconds": lead + seconds,
        "rate": round(len(window.numbers) / seconds, 1), "early": int((arrived < window.returned).sum()),
        "growth_commit": round(openloop.growth(window.due, (window.returned - window.due) / 1e9), 4),
        "growth_delivery": round(openloop.growth(window.due, (arrived - window.returned) / 1e9), 4),
    }  # fmt: skip
    for name, delay in (
        ("commit", window.returned - window.due), ("delivery", arrived - window.returned), ("whole", arrived - window.due),
    ):  # fmt: skip
        figures |= summary(name, delay)
    return figures


def summary(name, delay):
    counted = openloop.histogram(delay)
    return {f"{name}_{q}_ms": value for q, value in openloop.quantiles(counted).items()} | {f"{name}_hdr": openloop.encoded(counted)}


def floor(bench, rate, seconds, seed):
    """A producer that stamps, without any database: librdkafka, broker and consumer alone."""
    sent, acknowledged, arrivals, usage = openloop.paced(bench, bench.kafka, rate, LEAD + seconds, seed)
    inside = sent.due >= sent.due.min() + LEAD * 1_000_000_000
    delays = summary("acknowledged", (acknowledged - sent.returned)[inside])
    return judged(sent, arrivals, rate, LEAD, seconds) | usage.figures() | delays


def measure_beside(bench, results, number, rates, duration):
    """The same, while a server on the same cores commits as many INSERTs a second."""
    postgres = bench.postgres("latency")
    try:
        recycled_wal(postgres)
        postgres.execute(CREATE_PLAIN)
        for rate in rates:
            bench.measured(results, NAME, row(rate), BESIDE, number, lambda rate=rate: beside(bench, postgres, rate, duration(rate), number))
    finally:
        postgres.stop()


def beside(bench, postgres, rate, seconds, seed):
    postgres.execute("CHECKPOINT")
    statement = f"INSERT INTO plain VALUES (clock_timestamp(), :k::bigint::text, {openloop.VALUE})"
    lasts = LEAD + seconds + 5  # the producer waits for its consumer first
    load = Load(postgres, bench.folder / "beside", statement, rate, lasts, seed)
    try:
        figures = floor(bench, rate, seconds, seed)
        if load.process.poll() is not None:
            raise Failed("the load ended before the producer did")
        inserted = load.wait()
        if inserted.failed or len(inserted.numbers) < rate * lasts * (1 - MOST_MISSING) - 3 * math.sqrt(rate * lasts):
            raise Failed(f"{len(inserted.numbers)} transactions were committed in {lasts} s, {inserted.failed} failed")
        return figures
    finally:
        load.stop()


# -- the report --------------------------------------------------------------------------------------------------

SYSTEMS = [Outbox.name, *MOVERS, *FLOORS]


def report(records):
    rows = sorted(in_order(records, "row"), key=lambda name: int(name.split("/")[0]))
    there = [system for system in SYSTEMS if system in in_order(records, "system")]
    found = Report()
    for figure, title in (
        ("delivery", "Commit returned to consumer, ms"), ("whole", "Intended time to consumer, ms"), ("commit", "The application's own: intended time to commit returned, ms"),
    ):  # fmt: skip
        found.tables.append(delays(records, rows, there, figure, title))
    found.tables += [ratios_table(records, rows, there), cores(records, rows, there)]
    found.notes += NOTES
    for name in rows:
        for figure, title in (("delivery", "commit returned to consumer"), ("whole", "intended time to consumer")):
            if series := percentile_series(records, name, there, figure):
                file = f"latency-{name.split('/')[0]}-{figure}"
                found.plots.append(Plot(file, f"{name.split('/')[0]} a second: {title}", series, "percentile", "ms", "percentiles", log_y=True))
    return found


def kept_up(figures):
    """Whether neither the application nor what moves the messages fell further and further behind."""
    return figures["growth_delivery"] < MOST_GROWTH and committed_in_time(figures)


def committed_in_time(figures):
    """Moments that are drawn are not evenly spread: what is missing has to be more than chance."""
    target = figures["target_rate"]
    least = target * (1 - MOST_MISSING) - 3 * math.sqrt(target / figures["seconds"])
    return figures["growth_commit"] < MOST_GROWTH and figures["rate"] >= least


def state(records, name, system):
    """Why a row has no latencies, or None. In one round of several, delays that go up to a second can grow by chance."""
    of = select(records, row=name, system=system)
    if not of:
        return NOTHING
    if broken := [one for one in of if not one["ok"]]:
        return f"no number: {broken[0]['reason']}"
    behind = [one["figures"] for one in of if not kept_up(one["figures"])]
    if len(behind) <= len(of) // 2:
        return None
    if not any(committed_in_time(figures) for figures in behind):
        return "does not keep up: the commits already fall behind"
    return "does not keep up"


def delays(records, rows, systems, figure, title):
    table = Table(title, ["rate, system", "p50", "p99", "p99.9", "max", "committed a second"], [])
    for name in rows:
        for system in systems:
            why = state(records, name, system)
            if why == NOTHING:
                continue
            rate = cell(records, name, system, "rate")
            cells = [why, "", "", ""] if why else [cell(records, name, system, f"{figure}_{q}_ms", 2) for q in ("p50", "p99", "p99.9", "max")]
            table.rows.append([f"{name}, {system}", *cells, rate])
    return table


def ratios_table(records, rows, systems):
    """outbox against the others, round by round."""
    table = Table("outbox ÷ the other, commit returned to consumer", ["rate, system", "p50", "p99", "cores"], [])
    for name in rows:
        for system in systems:
            if system == Outbox.name or state(records, name, system) or state(records, name, Outbox.name):
                continue
            cells = [ratio_cell(records, name, Outbox.name, system, f"delivery_{q}_ms", 3) for q in ("p50", "p99")]
            cells.append(ratio_cell(records, name, Outbox.name, system, moving, 3) if system not in FLOORS else "")
            table.rows.append([f"{name}, {system}", *cells])
    return table


def cores(records, rows, systems):
    """How many processors' worth of time each group took while the load ran."""
    table = Table("Cores used", ["rate, system", "moving", "of it", "broker", "consumer", "clients' backends", "rest of the server"], [])
    for name in rows:
        for system in systems:
            if not good(records, name, system):
                continue
            used = lambda group: lambda figures: figures.get(f"cpu_{group}", 0) / figures["loaded_seconds"]  # noqa: E731
            parts = [group for group in ("relay", "sink", "jvm", "walsender", "producer") if values(records, name, system, f"cpu_{group}")]
            split = ", ".join(f"{group} {statistics.median(values(records, name, system, used(group))):.3f}" for group in parts)
            total = cell(records, name, system, lambda figures: moving(figures) / figures["loaded_seconds"], 3) if system not in FLOORS else ""
            others = [cell(records, name, system, used(group), 3) for group in ("broker", "consumer")]
            others += [cell(records, name, system, used(group), 3) if system not in FLOORS else "" for group in ("clients", "server")]
            table.rows.append([f"{name}, {system}", total, split, *others])
    return table


def percentile_series(records, name, systems, figure):
    """Of all rounds together: x is 1 / (1 - percentile), as HdrHistogram's own plots have it. Below 0.1 ms is drawn as that."""
    series = {}
    for system in systems:
        if state(records, name, system):
            continue
        series[system] = percentile_curve([one["figures"][f"{figure}_hdr"] for one in good(records, name, system)])
    return series


def percentile_curve(texts):
    counted = openloop.decoded(texts)
    most = max(counted.get_total_count(), 2)
    inverse = np.geomspace(1, most, 200)
    return inverse.tolist(), [max(counted.get_value_at_percentile(100 * (1 - 1 / x)), 100) / 1000 for x in inverse.tolist()]


NOTES = [
    "An open loop: pgbench draws the moments beforehand (Poisson), 16 sessions, one message of 200 bytes a transaction, one statement."
    " Whoever is slow does not slow down those who come after; where they queue, the intended time shows it."
    " *Commit returned* is when the application has its answer: messages that had arrived before that count as 0."
    " p50 to max are each round's own, the median of the rounds and their range; the plots take all rounds together.",
    "*does not keep up*: the delay grew by more than 3 % of the time that passed, or more than 5 % of the transactions were not even begun, in most rounds, so there is no latency to speak of."
    " Everything shares the machine's cores, load, server, broker and consumer too.",
    "*librdkafka alone* is a C program that produces at such moments straight to the broker, no linger; its *commit* is the call that"
    " hands the message over. It is what broker and consumer take, whoever moves the messages. *beside INSERTs*: while pgbench has the"
    " server commit as many INSERTs a second, which nobody reads: what is left for any way to Kafka on these cores.",
    "Who uses what is looked at once a second: of the backends, which end with the load, up to a second of CPU is missing.",
]
