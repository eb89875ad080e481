"""What an outage costs: a backlog built and drained, the application's latency meanwhile, the sink's way back.

Run by bench/outage, on a real broker, which is killed (SIGKILL), stopped (SIGSTOP) and started again here.
"""

import argparse
import array
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

PARTITIONS = 6
SESSIONS = 2
KEYS = 10000  # of each session
PAYLOAD_BYTES = 200
PER_TRANSACTION = 10000


def wait_for(condition, what, timeout=60.0, pause=0.01):
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"after {timeout:g} s still waiting for {what}")
        time.sleep(pause)
    return result


def memory_kib(pid, field):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1])
    return 0


def child_of(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def mib(size):
    return f"{size / (1 << 20):,.1f}"


def quantile(ordered, q):
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


class Kafka:
    """The broker, as far as somebody else may treat it badly."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.folder = Path(os.environ["BENCH_KAFKA"])

    def pid(self):
        return int((self.folder / "pid").read_text())

    def kill(self):
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes(), "the broker's end")

    def stop(self):
        os.kill(self.pid(), signal.SIGSTOP)

    def go_on(self):
        os.kill(self.pid(), signal.SIGCONT)

    def start(self):
        subprocess.run(
            [Path(os.environ["BENCH_SCRIPTS"]) / "kafka", "start", "--dir", self.folder, "--port", self.bootstrap.split(":")[1]],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def consumer(self, topic, where, **settings):
        """One that is not ours, at the beginning or at the end of each partition."""
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": "outage", "enable.auto.commit": False,
            "isolation.level": "read_committed", **settings,
        })  # fmt: skip
        ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30) for p in range(PARTITIONS)]
        consumer.assign([TopicPartition(topic, p, low if where == "beginning" else high) for p, (low, high) in enumerate(ends)])
        return consumer, sum(high - low for low, high in ends)


class Memory(threading.Thread):
    """Watches the relay's own memory and the sink's peak, twenty times a second."""

    def __init__(self, relay):
        super().__init__(daemon=True)
        self.relay_pid, self.relay, self.sink = relay, 0, 0
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.wait(0.05):
            self.relay = max(self.relay, memory_kib(self.relay_pid, "RssAnon"))
            with contextlib.suppress(OSError):
                self.sink = max(self.sink, memory_kib(child_of(self.relay_pid), "VmHWM"))

    def stop(self):
        self.stopping.set()
        self.join()
        return f"relay {self.relay / 1024:.0f} MiB of its own, sink {self.sink / 1024:.0f} MiB"


class Outage:
    def __init__(self, arguments):
        self.arguments = arguments
        self.kafka = Kafka(arguments.bootstrap)
        self.db = psycopg.connect("", autocommit=True)
        self.results = {}

    def value(self, sql):
        return self.db.execute(sql).fetchone()[0]

    def drain(self, timeout=3600):
        if not self.value(f"SELECT outbox.wait_for_delivery('{timeout} s')"):
            sys.exit("the backlog does not drain")

    # -- a backlog ------------------------------------------------------------------------------------------

    def sizes(self):
        """Bytes on disk, by kind."""
        row = self.db.execute(
            """
            SELECT sum(pg_relation_size(s.oid)), sum(coalesce(pg_total_relation_size(nullif(s.reltoastrelid, 0)), 0)),
                   sum(pg_indexes_size(s.oid)),
                   pg_total_relation_size('outbox.deferred'),
                   pg_total_relation_size('outbox.progress_1') + pg_total_relation_size('outbox.progress_2'),
                   pg_database_size(current_database()),
                   (SELECT sum(size) FROM pg_ls_waldir())
            FROM pg_class AS s WHERE s.relnamespace = 'outbox'::regnamespace AND s.relname ~ '^segment_.$'
            """
        ).fetchone()
        return [int(size) for size in row]

    def emit(self, session, messages):
        """Numbers count up for each key; a session has keys of its own."""
        with psycopg.connect("", autocommit=True) as db:
            for first in range(0, messages, PER_TRANSACTION):
                last = min(first + PER_TRANSACTION, messages) - 1
                db.execute(
                    f"""
                    SELECT count(outbox.emit('backlog', key, rpad(key || ':' || number || ':', {PAYLOAD_BYTES}, 'x')))
                    FROM (SELECT {session * KEYS} + mod(n, {KEYS}) AS key, n / {KEYS} AS number
                          FROM generate_series({first}::bigint, {last}) AS n OFFSET 0) AS m
                    """
                )

    def backlog(self):
        each = self.arguments.messages // SESSIONS
        total = each * SESSIONS
        print(f"a backlog of {total:,} messages of {PAYLOAD_BYTES} bytes, the broker killed")
        before = self.sizes()
        self.kafka.kill()
        self.value("SELECT count(outbox.emit('warm', 'k', 'notices')) FROM generate_series(1, 1)")
        memory = Memory(self.value("SELECT relay_pid FROM outbox.status"))
        memory.start()
        threads = [threading.Thread(target=self.emit, args=(n, each)) for n in range(SESSIONS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        emitted = time.perf_counter() - began
        status = self.db.execute("SELECT backlog, backlog_bytes, state FROM outbox.status").fetchone()
        peak = self.sizes()
        print(f"  emit, {SESSIONS} sessions, {PER_TRANSACTION:,} a transaction   {total / emitted:,.0f}/s")
        print(f"  outbox.status                    backlog {status[0]:,}, backlog_bytes {mib(status[1])} MiB, state {status[2]}")

        self.kafka.start()
        delivered = self.value("SELECT delivered FROM outbox.status")
        began = time.perf_counter()
        wait_for(lambda: self.value("SELECT delivered FROM outbox.status") > delivered, "the first message", timeout=120)
        first = time.perf_counter() - began
        self.drain()
        drained = time.perf_counter() - began
        watched = memory.stop()
        print(f"  first message acknowledged       {first:.2f} s after the broker answers again")
        print(f"  drained                          {total / drained:,.0f}/s, {drained:.1f} s from then on")
        print(f"  memory, peak                     {watched}")
        # What is settled goes at once; what is left is less than a segment.
        wait_for(lambda: sum(self.sizes()[:3]) < 160 << 20, "the segments being emptied", timeout=60, pause=0.2)
        self.value("SELECT 1 FROM (SELECT pg_sleep(1)) AS s")
        after = self.sizes()
        print(f"  {'MiB on disk':<26}{'before':>12}{'peak':>12}{'after':>12}")
        names = ["segments", "  their TOAST", "  their indexes", "deferred", "progress", "the whole database", "pg_wal"]
        for name, *sizes in zip(names, before, peak, after):
            print(f"  {name:<26}{mib(sizes[0]):>12}{mib(sizes[1]):>12}{mib(sizes[2]):>12}")
        lost, disorder, duplicates, seen = self.verify(each)
        print(f"  a consumer found                 {seen:,} messages: {lost:,} lost, {disorder:,} out of order, {duplicates:,} duplicates")
        self.results |= {
            "backlog": total, "emit_per_s": total / emitted, "drain_per_s": total / drained, "peak_bytes": sum(peak[:3]),
            "after_bytes": sum(after[:3]), "relay_mib": memory.relay / 1024, "sink_mib": memory.sink / 1024,
            "lost": lost, "out_of_order": disorder, "duplicates": duplicates,
        }  # fmt: skip
        if lost or disorder:
            sys.exit("messages were lost or came out of order")

    def verify(self, each):
        """Streams through the topic; of each key only the next number is kept."""
        consumer, there = self.kafka.consumer("backlog", "beginning", **{"fetch.message.max.bytes": 4 << 20, "queued.max.messages.kbytes": 65536})
        following = array.array("q", bytes(8 * KEYS * SESSIONS))
        disorder = duplicates = seen = 0
        quiet_since = time.monotonic()
        while seen < there:
            batch = consumer.consume(20000, 1.0)
            if batch:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > 60:
                break
            for message in batch:
                if message.error():
                    raise KafkaException(message.error())
                key, number, _ = message.value().split(b":", 2)
                if key != message.key():
                    sys.exit(f"key {message.key()} came with the payload of {key}")
                key, number = int(key), int(number)
                if number == following[key]:
                    following[key] += 1
                elif number < following[key]:
                    duplicates += 1
                else:
                    # One that is missing here, or comes later: what follows is judged from this one on.
                    disorder += 1
                    following[key] = number + 1
            seen += len(batch)
        consumer.close()
        wanted = [len(range(key, each, KEYS)) for key in range(KEYS)] * SESSIONS
        lost = sum(max(0, w - f) for w, f in zip(wanted, following))
        if seen - duplicates + lost != sum(wanted):
            disorder += 1
        return lost, disorder, duplicates, seen

    # -- the application's latency --------------------------------------------------------------------------

    def latency(self, rate=400, seconds=5):
        """Transactions with an INSERT, an UPDATE and an emit, at a steady rate; how long each took, waiting for its turn apart."""
        folder = Path(os.environ["BENCH_DIR"])
        script = folder / "transaction.sql"
        script.write_text(
            "\\set account random(1, 1000)\n"
            "BEGIN;\n"
            "UPDATE accounts SET balance = balance + 1 WHERE id = :account;\n"
            "INSERT INTO history (account) VALUES (:account);\n"
            f"SELECT outbox.emit('latency', :account, repeat('x', {PAYLOAD_BYTES}));\n"
            "COMMIT;\n"
        )
        self.db.execute("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)")
        self.db.execute("INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 1000) AS n")
        self.db.execute("CREATE TABLE history (account bigint, time timestamptz DEFAULT clock_timestamp())")

        def measure():
            for old in folder.glob("log.*"):
                old.unlink()
            subprocess.run(
                ["pgbench", "-n", "-M", "prepared", "-c", "4", "-R", str(rate), "-T", str(seconds), "-l",
                 f"--log-prefix={folder}/log", "-f", script],
                capture_output=True, check=True,
            )  # fmt: skip
            taken = []
            for log in folder.glob("log.*"):
                for line in log.read_text().splitlines():
                    fields = line.split()
                    taken.append((int(fields[2]) - int(fields[6])) / 1000)
            return sorted(taken)

        def alive():
            return measure()

        def killed():
            self.kafka.kill()
            try:
                return measure()
            finally:
                self.kafka.start()
                self.drain(120)

        def hung():
            self.kafka.stop()
            try:
                return measure()
            finally:
                self.kafka.go_on()
                self.drain(120)

        # Alive twice: what differs between those two is the machine's noise.
        kinds = {"alive": alive, "alive, again": alive, "killed": killed, "hung": hung}
        rounds, pooled = [], {kind: [] for kind in kinds}
        measure()  # warms up
        for number in range(self.arguments.rounds):
            order = list(kinds)
            random.Random(number).shuffle(order)
            rounds.append({})
            for kind in order:
                self.db.execute("CHECKPOINT")
                taken = kinds[kind]()
                pooled[kind] += taken
                rounds[-1][kind] = [statistics.median(taken), quantile(taken, 0.99)]
        print(f"a transaction's latency at {rate} a second, {self.arguments.rounds} rounds of {seconds} s, ms")
        print(f"  {'the broker is':<26}{'p50':>8}{'p99':>8}{'max':>8}     beside alive: p50, p99 of all; p99 round by round")
        for kind in kinds:
            p50, p99, worst = self.quantiles(pooled[kind])
            ratios = [a / b for a, b in zip((p50, p99), self.quantiles(pooled["alive"]))]
            spread = sorted(r[kind][1] / r["alive"][1] for r in rounds)
            print(f"  {kind:<26}{p50:>8.2f}{p99:>8.2f}{worst:>8.1f}     {ratios[0]:.2f}, {ratios[1]:.2f}; {statistics.median(spread):.2f} ({spread[0]:.2f} to {spread[-1]:.2f})")
            name = kind.replace(", ", "_")
            self.results |= {f"{name}_p50_ms": p50, f"{name}_p99_ms": p99, f"{name}_p99_ratio": ratios[1]}

    @staticmethod
    def quantiles(taken):
        ordered = sorted(taken)
        return [statistics.median(ordered), quantile(ordered, 0.99), ordered[-1]]

    # -- the sink's way back --------------------------------------------------------------------------------

    def restart(self, pause=0.01):
        """From kill -9 of the sink, with a message every ten milliseconds, to what comes after it."""
        consumer, _ = self.kafka.consumer("restart", "end", **{"fetch.wait.max.ms": 10})
        stopping = threading.Event()
        sent, arrived = {}, {}
        duplicates = 0

        def send():
            with psycopg.connect("", autocommit=True) as db:
                number = 0
                while not stopping.wait(pause):
                    # Before its transaction begins: what it takes to commit is part of it.
                    sent[number] = time.time()
                    db.execute(f"SELECT outbox.emit('restart', {number % 100}::bigint, '{number}')")
                    number += 1

        def read():
            nonlocal duplicates
            while not stopping.is_set() or len(arrived) < len(sent):
                message = consumer.poll(0.1)
                if message and not message.error():
                    number = int(message.value())
                    duplicates += number in arrived
                    arrived.setdefault(number, time.time())

        threads = [threading.Thread(target=run, daemon=True) for run in (send, read)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(arrived) > 100, "messages")
        relay = self.value("SELECT relay_pid FROM outbox.status")
        kills, processes = [], []
        for _ in range(self.arguments.kills):
            old = wait_for(lambda: child_of(relay), "a sink")
            kills.append(time.time())
            os.kill(old, signal.SIGKILL)
            wait_for(lambda: child_of(relay) not in (None, old), "another sink", pause=0.0005)
            processes.append((time.time() - kills[-1]) * 1000)
            # One emitted after the kill has arrived; and some more, so that the next kill meets a sink at work.
            after = wait_for(lambda: next((n for n in list(sent) if sent[n] > kills[-1]), None), "a message")
            wait_for(lambda: after + 30 in arrived, "messages after the kill")
        stopping.set()
        for thread in threads:
            thread.join(60)
        consumer.close()
        lost = len(sent) - len(arrived)
        # The first one emitted after the kill; the first one of any that arrives is not later.
        firsts = [min(arrived[n] for n in sent if sent[n] > kill) - kill for kill in kills]
        firsts = [first * 1000 for first in firsts]
        print(f"the sink killed {len(kills)} times, a message every {pause * 1000:.0f} ms")
        print(f"  kill to another process          median {statistics.median(processes):.1f} ms, max {max(processes):.1f} ms")
        print(f"  kill to the first message emitted after it at a consumer   median {statistics.median(firsts):.1f} ms, max {max(firsts):.1f} ms")
        worst = sorted((arrived[n] - sent[n]) * 1000 for n in arrived)
        print(f"  emit to consumer, kills included p50 {quantile(worst, 0.5):.1f} ms, p99 {quantile(worst, 0.99):.1f} ms, max {worst[-1]:.1f} ms")
        print(f"  messages                         {len(sent):,} sent, {lost} lost, {duplicates} duplicates")
        self.results |= {
            "restart_process_ms": statistics.median(processes), "restart_first_ms": statistics.median(firsts),
            "restart_first_max_ms": max(firsts),
        }  # fmt: skip
        if lost:
            sys.exit("messages were lost")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--only", choices=["backlog", "latency", "restart"])
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    outage = Outage(arguments)
    for part in ("restart", "latency", "backlog"):
        if arguments.only in (None, part):
            getattr(outage, part)()
    print(json.dumps(outage.results))


main()
