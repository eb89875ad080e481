"""B2: the highest rate at which messages are written and relayed at once without falling behind. B4/B5 over it."""

import math
import statistics
import threading
import time
from dataclasses import dataclass
from functools import partial

from .. import backlogs, debezium, messages
from ..backlogs import EndOfTopic, Templates, groups
from ..books import Expected, verify
from ..debezium import Debezium
from ..machine import Usage
from ..report import Plot, Report, Table, bar, cell, good, in_order, ratio_cell, values
from ..waiting import Failed

NAME = "sustain"
TITLE = "Sustain: written and relayed at once"

OUTBOX, TUNED = "outbox", "Debezium tuned"
PARTITIONS, SLOT = 6, "sustain"
RAMP, WINDOW = 2.0, 6.0  # seconds: of each trial, the first ones do not count
BEHIND = 100.0  # milliseconds after its time at which a transaction begins, at most, on average
GROWTH = 0.02  # of the offered rate, at most: by so much a second the lag may grow
LAG = 1.0  # seconds' worth of messages that may be on their way at the end
PRECISION = 1.05  # the rate that held and the one that did not are no further apart
RATES = 12  # tried at most
KEYS = 1000  # of each session


@dataclass(frozen=True)
class Load:
    bytes: int
    per_transaction: int
    clients: int

    @property
    def name(self):
        return f"{self.bytes} B, {self.per_transaction} a transaction, {self.clients} sessions"

    def script(self, system, topic):
        """Numbers come from a sequence, and keys are the session's own: of each key they grow from commit to commit."""
        key = f":client_id::text || '-' || mod(g, {KEYS})"
        payload = messages.payload_sql("g", self.bytes)
        numbers = (
            "WITH batch AS MATERIALIZED (SELECT nextval('numbers') AS n), "
            f"numbered AS (SELECT (n - 1) * {self.per_transaction} + i AS g FROM batch, generate_series(1, {self.per_transaction}) AS i)"
        )
        if system == OUTBOX:
            return f"{numbers} SELECT count(outbox.emit('{topic}', {key}, {payload})) FROM numbered;\n"
        return f"{numbers} INSERT INTO public.outbox ({messages.insert_columns()}) SELECT '{topic}', {key}, '', {payload} FROM numbered;\n"


LOADS = [Load(200, 100, 16), Load(200, 1, 32)]


# -- what sustained means -----------------------------------------------------------------------------------


def slope(points):
    """Of the line through them, by least squares."""
    x, y = zip(*points)
    return statistics.linear_regression(x, y).slope if len(points) > 1 else 0.0


def why_not(rate, behind_ms, lags):
    """Why a rate did not hold, or None. `lags` are (seconds, messages committed and not in the topic yet) within the window."""
    # Not the rate that was committed: arrivals are random, so by itself it differs from the one that was asked for.
    if behind_ms > BEHIND:
        return "the server does not commit more"
    if len(lags) < 5:
        return "too little was seen of it"
    if slope(lags) > GROWTH * rate:
        return "the lag grows"
    if lags[-1][1] > LAG * rate:
        return "the lag is long"
    return None


def search(holds, guess, precision=PRECISION, most=RATES):
    """The highest rate that held, and the lowest that did not, by bisection on a logarithmic scale."""
    low = high = None
    rate = guess
    for _ in range(most):
        if holds(rate):
            low = max(rate, low or 0)
            rate = rate * 1.25 if high is None else math.sqrt(low * high)
        else:
            high = min(rate, high or rate)
            rate = rate / 1.25 if low is None else math.sqrt(low * high)
        if low and high and high / low <= precision:
            break
    return low, high


# -- measuring ----------------------------------------------------------------------------------------------


class Lag(threading.Thread):
    """Looks five times a second at how many numbers were given out and how many messages the topic holds."""

    def __init__(self, postgres, kafka, topic, per_transaction):
        super().__init__(daemon=True)
        self.postgres, self.kafka, self.topic, self.per_transaction = postgres, kafka, topic, per_transaction
        self.seen = []  # seconds, committed, delivered
        self.stopping = threading.Event()

    def run(self):
        with self.postgres.connect() as db, EndOfTopic(self.kafka, self.topic, PARTITIONS) as end:
            began = time.monotonic()
            while not self.stopping.wait(0.2):
                # In this order: what is delivered grows between the two, so a lag is rather found too large.
                delivered = end()
                given = db.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM numbers").fetchone()[0]
                self.seen.append((time.monotonic() - began, given * self.per_transaction, delivered))

    def stop(self):
        self.stopping.set()
        self.join()

    def within(self, first, last):
        return [(at, given - delivered) for at, given, delivered in self.seen if first <= at <= last]

    def delivered_rate(self, first, last):
        within = [(at, delivered) for at, _, delivered in self.seen if first <= at <= last]
        return slope(within)


class Trials:
    """One system on a server of its own, and the rates tried on it."""

    def __init__(self, bench, system, load, worker):
        self.bench, self.system, self.load = bench, system, load
        self.connector = None
        self.postgres = bench.postgres("sustain", outbox__kafka_bootstrap_servers=bench.kafka.bootstrap)
        try:
            self.postgres.execute("CREATE SEQUENCE numbers")
            if system == OUTBOX:
                self.postgres.create_extension()
            else:
                self.postgres.execute(debezium.CREATE_TABLE, debezium.CREATE_PUBLICATION)
                self.connector = Debezium.start(self.postgres, bench.kafka, "tuned", slot=SLOT, worker=worker())
                self.connector.wait_until_streaming()
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.connector:
            self.connector.stop()
        self.postgres.stop()

    def usage(self):
        if self.connector:
            movers = {"jvm": [self.connector.pid], "walsender": self.postgres.walsender_pids}
        else:
            movers = {"relay": lambda: [self.postgres.relay_pid()], "sink": lambda: [self.postgres.sink_pid()]}
        return Usage(**groups(self.bench, self.postgres, **movers))

    def offer(self, rate=None, seconds=RAMP + WINDOW):
        """A rate for so many seconds, or as fast as it goes; all of it is delivered and verified before this returns."""
        load, kafka = self.load, self.bench.kafka
        topic = kafka.topic("sustain", PARTITIONS)
        self.postgres.execute("ALTER SEQUENCE numbers RESTART", "CHECKPOINT")
        lag = Lag(self.postgres, kafka, topic, load.per_transaction)
        with self.usage() as usage:
            lag.start()
            # The last lag that counts is the one before the load ends, not after.
            ran = self.postgres.pgbench(
                load.script(self.system, topic), load.clients, seconds=round(seconds), rate=rate and rate / load.per_transaction
            )  # fmt: skip
            lag.stop()
            count = ran["transactions"] * load.per_transaction
            self._wait_for(count, topic)
        verdict = verify(kafka, topic, Expected(count, load.bytes)).check()
        kafka.delete(topic)
        lags = lag.within(RAMP, seconds)
        reason = why_not(rate, ran["behind_ms"], lags) if rate else None
        return {
            "rate": round(rate) if rate else None, "why_not": reason, "committed_rate": round(ran["tps"] * load.per_transaction),
            "delivered_rate": round(lag.delivered_rate(RAMP, seconds)), "lag": lags[-1][1] if lags else None,
            "behind_ms": ran["behind_ms"],
            "lag_growth": round(slope(lags)) if len(lags) > 1 else None, **usage.figures(), **verdict.figures(),
        }  # fmt: skip

    def _wait_for(self, count, topic):
        if self.connector:
            with EndOfTopic(self.bench.kafka, topic, PARTITIONS) as end:
                backlogs.wait_for_end(count, end, self.connector)
        else:
            self.postgres.wait_for_delivery(600)

    def highest(self):
        """Figures of the highest rate that held."""
        free = self.offer()
        held, tried = {}, []

        def holds(rate):
            figures = self.offer(rate)
            tried.append(
                {
                    name: figures[name]
                    for name in (
                        "rate",
                        "why_not",
                        "behind_ms",
                        "committed_rate",
                        "delivered_rate",
                        "lag",
                        "lag_growth",
                    )
                }
            )
            self.bench.log(f"    {self.system}: {rate:,.0f}/s: {figures['why_not'] or 'holds'}")
            if figures["why_not"] is None:
                held[rate] = figures
            return figures["why_not"] is None

        low, high = search(holds, 0.9 * min(free["delivered_rate"], free["committed_rate"]))
        if low is None:
            raise Failed(f"no rate held, down to {high:,.0f} a second")
        return held[low] | {
            "rate": round(low),
            "unlimited_rate": free["committed_rate"],
            "first_not": high and round(high),
            "tried": tried,
        }


class Measuring:
    def __init__(self, bench):
        self.bench = bench
        self.templates = Templates(bench)
        self._worker = None

    def worker(self):
        if self._worker is None:
            self._worker = backlogs.warm_worker(self.bench, self.templates)
        return self._worker

    def measure(self, load, system):
        trials = Trials(self.bench, system, load, self.worker)
        try:
            return trials.highest()
        finally:
            trials.close()

    def close(self):
        if self._worker is not None:
            self._worker.stop()
        self.templates.remove()


def run(bench, results, rounds, quick):
    measuring = Measuring(bench)
    try:
        for number in range(1, rounds + 1):
            for load in LOADS[:1] if quick else LOADS:
                for system in (OUTBOX, TUNED):
                    bench.measured(results, NAME, load.name, system, number, partial(measuring.measure, load, system))
    finally:
        measuring.close()


# -- the report ---------------------------------------------------------------------------------------------

MOVERS = {OUTBOX: ("relay", "sink"), TUNED: ("jvm", "walsender")}


def cpu(names):
    return lambda figures: sum(figures.get(f"cpu_{name}", 0) for name in names) / figures["count"] * 1e6


def peak(names):
    return lambda figures: sum(figures[f"peak_{name}"] for name in names) / (1 << 20)


def report(records):
    rows = in_order(records, "row")
    lines = [
        [
            row,
            cell(records, row, OUTBOX, "rate"),
            cell(records, row, TUNED, "rate"),
            ratio_cell(records, row, OUTBOX, TUNED, "rate", 1),
        ]
        for row in rows
    ]
    rates = Table("Highest rate sustained", ["messages a second", OUTBOX, TUNED, "outbox is × as fast"], lines)
    costs = Table(
        "What it costs at that rate",
        ["load", "system", "CPU s per million", "backends'", "broker's", "peak memory, MiB", "what gave way at the next rate"],
        [
            [row, system, cell(records, row, system, cpu(MOVERS[system]), 2), cell(records, row, system, cpu(["backends"]), 2),
             cell(records, row, system, cpu(["broker"]), 2), cell(records, row, system, peak(MOVERS[system])),
             limits(good(records, row, system))]
            for row in rows
            for system in MOVERS
            if good(records, row, system)
        ],
    )  # fmt: skip
    series = {system: {row: bar(values(records, row, system, "rate")) for row in rows} for system in MOVERS}
    notes = [
        (
            f"Sustained: over {WINDOW:.0f} s, after {RAMP:.0f} s that do not count, pgbench begins a transaction no more than {BEHIND:.0f} ms after its "
            f"time, on average (open loop, Poisson arrivals, synchronous_commit on); the lag (messages committed and not in the topic yet) "
            f"grows by no more than {GROWTH:.0%} of that rate, and at the end is under {LAG:.0f} s worth of messages. The rate is raised until "
            f"that fails, and found by bisection to {PRECISION - 1:.0%}. After each trial all of it is delivered and verified."
        ),
        "pgbench, server, broker and what is between them share the machine. Everything but the broker, backends and pgbench is counted as the "
        "system's own CPU.",
    ]  # fmt: skip
    return Report(
        [rates, costs], [Plot("sustain", "Written and relayed at once", series, y="messages a second")], notes
    )


def limits(records):
    found = [
        next(
            (one["why_not"] for one in record["figures"]["tried"] if one["rate"] == record["figures"]["first_not"]),
            None,
        )
        for record in records
    ]
    return ", ".join(sorted({reason for reason in found if reason}))
