"""An open loop: transactions begin at random moments drawn beforehand (Poisson), each with one message, and a consumer
notes when each message comes. Whoever is slow does not slow down those who come after.

pgbench -R draws the moments and logs for each transaction when it was due and when its commit had returned. Messages
are numbered client by client: number g = (n - 1) * CLIENTS + client + 1 is the n-th one of that client. Its key is g
modulo KEYS, so that a key belongs to one client and its numbers ascend.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hdrh.histogram import HdrHistogram

from .books import Expected, Reader
from .machine import Usage
from .messages import payload_sql
from .waiting import Failed

CLIENTS = 16
KEYS = 1600  # a multiple of CLIENTS
BYTES = 200
# Seconds between looks at who uses what. One takes 2 ms of CPU: ten a second showed in the slowest hundredth of the messages.
LOOK_EVERY = 1.0

# In pgbench's terms.
VALUE = payload_sql(":g", BYTES)
NUMBER = f"\\set n :n + 1\n\\set g (:n - 1) * {CLIENTS} + :client_id + 1\n\\set k mod(:g, {KEYS})\n"


@dataclass
class Sent:
    """What has been committed: for each message its number, when it was due and when its commit had returned (ns since 1970)."""

    numbers: np.ndarray
    due: np.ndarray
    returned: np.ndarray
    failed: int = 0

    def between(self, start, end):
        """Those that were due in this part of time."""
        inside = (self.due >= start) & (self.due < end)
        return Sent(self.numbers[inside], self.due[inside], self.returned[inside], self.failed)


def read_logs(paths):
    """pgbench's logs: client, number of its transaction, microseconds since it was due, script, end (s, us), lag."""
    tables, failed = [], 0
    for path in paths:
        text = Path(path).read_text()
        lines = text.splitlines()
        good = [line for line in lines if "failed" not in line and "skipped" not in line]
        failed += len(lines) - len(good)
        if good:
            tables.append(np.array(" ".join(good).split(), dtype=np.float64).reshape(len(good), -1)[:, :6])
    if not tables:
        nothing = np.zeros(0, dtype=np.int64)
        return Sent(nothing, nothing, nothing, failed)
    rows = np.concatenate(tables).astype(np.int64)
    client, _, taken, _, seconds, micros = rows.T
    numbers = np.empty(len(rows), dtype=np.int64)
    for each in np.unique(client):
        own = np.flatnonzero(client == each)  # a client's lines are in the order in which it wrote them
        numbers[own] = np.arange(len(own)) * CLIENTS + each + 1
    returned = (seconds * 1_000_000 + micros) * 1000
    return Sent(numbers, returned - taken * 1000, returned, failed)


class Load:
    """pgbench in the background. `statement` is SQL with :g (the message's number), :k (its key); one a transaction."""

    def __init__(self, postgres, folder, statement, rate, seconds, seed=1):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prefix = self.folder / "pgbench_log"
        for old in self.folder.glob(self.prefix.name + ".*"):
            old.unlink()
        script = self.folder / "load.sql"
        script.write_text(NUMBER + statement.rstrip(";\n") + ";\n")
        self.output = (self.folder / "pgbench.out").open("w+")
        self.process = subprocess.Popen(
            [postgres.bin / "pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-R", str(rate), "-T", str(seconds),
             "-l", f"--log-prefix={self.prefix}", f"--random-seed={seed}", "-D", "n=0", "-f", script, postgres.dsn],
            stdout=self.output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def pid(self):
        return self.process.pid

    def wait(self):
        status = self.process.wait()
        self.output.seek(0)
        if status != 0:
            raise Failed(f"pgbench ended with {status}: {self.output.read()[-2000:]}")
        self.output.close()
        return read_logs(sorted(self.folder.glob(self.prefix.name + ".*")))

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


# -- the consumer ------------------------------------------------------------------------------------------------


def follow(kafka, topic, folder, rate, seconds, timeout=60.0, duplicates=0):
    """A consumer beside the load. The numbers have holes, because clients do not get equal shares."""
    capacity = int(rate * seconds * 3) + 100_000
    expected = Expected(None, BYTES, KEYS, duplicates=duplicates, capacity=capacity, sparse=True)
    return Reader(kafka, topic, expected, folder, timeout)


def collect(reader, sent):
    """Waits for everything that was sent; its verdict, and when each number came (ns since 1970). Raises if something is wrong."""
    if sent.failed:
        raise Failed(f"{sent.failed} transactions failed")
    verdict = reader.finish(len(sent.numbers)).check()
    arrivals = np.fromfile(verdict.arrivals, dtype=np.int64)
    missing = int((arrivals[sent.numbers] == 0).sum())
    if missing:
        raise Failed(f"{missing} did not come, and as many came that were never sent")
    return verdict, arrivals


# -- without a database ------------------------------------------------------------------------------------------


def paced(bench, kafka, rate, seconds, seed=1):
    """bench/load/pacer.c straight to the broker: what was sent, as if handing over were committing; when it was
    acknowledged and when it came (ns since 1970); and what it took."""
    folder = bench.folder / "openloop"
    topic = kafka.topic("paced")
    with follow(kafka, topic, folder, rate, seconds) as consumer:
        command = [bench.programs / "pacer", kafka.bootstrap, topic, rate, seconds, BYTES, KEYS, seed, folder / "paced"]
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
        with Usage(LOOK_EVERY, producer=[process.pid], broker=[kafka.pid], consumer=[consumer.pid]) as usage:
            if process.wait():
                raise Failed("the producer failed")
        due, produced, acknowledged = np.fromfile(folder / "paced", dtype=np.int64).reshape(-1, 3)[1:].T
        sent = Sent(np.arange(1, len(due) + 1), due, produced)
        _, arrivals = collect(consumer, sent)
    kafka.delete(topic)
    return sent, acknowledged, arrivals, usage


def warm_broker(bench, kafka, rate=5000, seconds=20):
    """One that has just been started spends its time compiling: that is nobody's to pay for."""
    paced(bench, kafka, rate, seconds)


def warm_mover(bench, kafka, postgres, mover, seconds=10, rate=2000):
    """A JVM is slow before it is warm; whoever has none gets the same."""
    topic = kafka.topic("warm")
    with follow(kafka, topic, bench.folder / "openloop", rate, seconds) as consumer:
        load = Load(postgres, bench.folder / "openloop", mover.statement(topic), rate, seconds)
        try:
            collect(consumer, load.wait())
        finally:
            load.stop()
    kafka.delete(topic)


# -- latencies ---------------------------------------------------------------------------------------------------

LONGEST_US = 3_600_000_000


def histogram(nanoseconds):
    """Of microseconds, three digits. What is below zero counts as zero."""
    counted = HdrHistogram(1, LONGEST_US, 3)
    values, counts = np.unique(np.maximum(nanoseconds, 0) // 1000, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist()):
        counted.record_value(value, count)
    return counted


def quantiles(counted):
    """In milliseconds."""
    return {
        "p50": counted.get_value_at_percentile(50) / 1000,
        "p99": counted.get_value_at_percentile(99) / 1000,
        "p99.9": counted.get_value_at_percentile(99.9) / 1000,
        "max": counted.get_max_value() / 1000,
    }


def encoded(counted):
    return counted.encode().decode("ascii")


def decoded(texts):
    """One histogram of several."""
    together = HdrHistogram(1, LONGEST_US, 3)
    for text in texts:
        together.decode_and_add(text)
    return together


def growth(due, delay):
    """Seconds that a delay (in seconds) grows by in each second of load: what comes in faster than it goes out piles up.

    Between the medians of the first and of the last quarter, so that one hiccup does not count; and nothing, if that is within
    what half of the delays differ by anyway: whoever polls twice a second has delays of any length up to half a second.
    """
    if len(due) < 8:
        return 0.0
    order = np.argsort(due)
    quarter = len(order) // 4
    first, last = order[:quarter], order[-quarter:]
    span = (np.median(due[last]) - np.median(due[first])) / 1e9
    rise = np.median(delay[last]) - np.median(delay[first])
    usual = np.subtract(*np.percentile(delay[first], [75, 25]))
    return float(rise / span) if span > 0 and abs(rise) > usual else 0.0
