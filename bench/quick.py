"""Where the speed stands: emit beside INSERT, drain beside librdkafka's own rate, commit to consumer.

Run by bench/quick. Everything in one run, interleaved, on a real broker; what is compared are ratios within a round,
and their median. Every drain is checked against the topic's end offsets.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, TopicPartition

PAYLOAD = "x" * 200


def end_offsets(bootstrap, topic, partitions=6):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    try:
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(partitions))
    finally:
        consumer.close()


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_kib(pid, field="VmHWM"):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def timed(connection, sql):
    start = time.perf_counter()
    connection.execute(sql)
    return time.perf_counter() - start


def spread(values, unit="", digits=2):
    return f"{statistics.median(values):.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


class Bench:
    def __init__(self, arguments):
        self.bootstrap = arguments.bootstrap
        self.rounds = arguments.rounds
        self.db = psycopg.connect("", autocommit=True)
        self.results = {}

    def value(self, sql):
        return self.db.execute(sql).fetchone()[0]

    def rest(self):
        self.db.execute("SELECT outbox.pause()")
        while self.value("SELECT state FROM outbox.status") != "paused":
            time.sleep(0.01)

    def wait_for_drain(self):
        if not self.value("SELECT outbox.wait_for_delivery('300 s')"):
            sys.exit("the backlog does not drain")

    # -- emit and INSERT ------------------------------------------------------------------------------------

    def emit_in_bulk(self, messages=20000):
        """Microseconds a message, many in one transaction, client and commit included."""
        emit, insert = [], []
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS plain (position bigserial, time timestamptz, id uuid, partition int,"
            " topic text, key bytea, payload bytea, headers jsonb)"
        )
        self.db.execute("CREATE INDEX IF NOT EXISTS plain_position ON plain (position)")
        for number in range(self.rounds + 1):
            self.db.execute("TRUNCATE plain")
            self.rest()
            self.db.execute("CHECKPOINT")
            inserted = timed(
                self.db,
                "INSERT INTO plain (time, id, topic, key, payload) SELECT clock_timestamp(), gen_random_uuid(), 'bench',"
                f" convert_to(g::text, 'UTF8'), convert_to('{PAYLOAD}', 'UTF8') FROM generate_series(1, {messages}) g",
            )
            self.db.execute("CHECKPOINT")
            emitted = timed(
                self.db,
                f"SELECT count(outbox.emit('bench', g::bigint, '{PAYLOAD}')) FROM generate_series(1, {messages}::bigint) g",
            )
            self.db.execute("SELECT outbox.resume()")
            self.wait_for_drain()
            if number > 0:  # the first round warms up
                emit.append(emitted / messages * 1e6)
                insert.append(inserted / messages * 1e6)
        ratios = [e / i for e, i in zip(emit, insert)]
        print(f"emit, {messages:,} a transaction      {spread(emit, ' us')} a message")
        print(f"INSERT, one index, the same      {spread(insert, ' us')}")
        print(f"  emit / INSERT                  {spread(ratios)}")
        self.results["emit_bulk_ratio"] = statistics.median(ratios)

    def emit_one_by_one(self, seconds=3):
        """Transactions a second of one session with one message each."""
        scripts = {
            "emit": f"SELECT outbox.emit('bench', 'k', '{PAYLOAD}');\n",
            "insert": "INSERT INTO plain (time, id, topic, key, payload) VALUES (clock_timestamp(), gen_random_uuid(),"
            f" 'bench', convert_to('k', 'UTF8'), convert_to('{PAYLOAD}', 'UTF8'));\n",
        }
        rates = {"emit": [], "insert": []}
        folder = Path(os.environ["BENCH_DIR"])
        for name, sql in scripts.items():
            (folder / f"{name}.sql").write_text(sql)
        self.rest()
        for _ in range(self.rounds):
            for name in scripts:
                out = subprocess.run(
                    ["pgbench", "-n", "-M", "prepared", "-c", "1", "-T", str(seconds), "-f", folder / f"{name}.sql"],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                rates[name].append(float(out.split("tps = ")[1].split()[0]))
        self.db.execute("SELECT outbox.resume()")
        self.wait_for_drain()
        ratios = [e / i for e, i in zip(rates["emit"], rates["insert"])]
        print(f"emit, 1 a transaction            {spread(rates['emit'], '/s', 0)}")
        print(f"INSERT, the same                 {spread(rates['insert'], '/s', 0)}")
        print(f"  emit / INSERT                  {spread(ratios)}")
        self.results["emit_single_ratio"] = statistics.median(ratios)

    # -- drain ----------------------------------------------------------------------------------------------

    def drain(self, messages=500000):
        relay_rates, producer_rates, relay_cpu, memory = [], [], [], {}
        for number in range(self.rounds + 1):
            before = end_offsets(self.bootstrap, "bench")
            seconds = json.loads(
                subprocess.run(
                    [os.environ["BENCH_PRODUCER"], self.bootstrap, "bench", str(messages), "200", str(messages), "0"],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
            )["seconds"]
            assert end_offsets(self.bootstrap, "bench") == before + messages
            self.rest()
            for _ in range(messages // 1000):
                self.db.execute(f"SELECT count(outbox.emit('bench', g::bigint, '{PAYLOAD}')) FROM generate_series(1, 1000) g")
            before = end_offsets(self.bootstrap, "bench")
            relay = self.value("SELECT relay_pid FROM outbox.status")
            used = cpu_seconds(relay)
            start = time.perf_counter()
            self.db.execute("SELECT outbox.resume()")
            self.wait_for_drain()
            drained = time.perf_counter() - start
            assert end_offsets(self.bootstrap, "bench") == before + messages
            sink = self.value("SELECT sink_pid FROM outbox.status")
            used = cpu_seconds(relay) - used + cpu_seconds(sink)
            memory = {"relay": peak_kib(relay, "RssAnon"), "sink": peak_kib(sink)}
            if number > 0:
                relay_rates.append(messages / drained)
                producer_rates.append(messages / seconds)
                relay_cpu.append(used / messages * 1e6)
        ratios = [r / p for r, p in zip(relay_rates, producer_rates)]
        print(f"drain of {messages:,} x 200 B         {spread(relay_rates, '/s', 0)}")
        print(f"librdkafka filling the topic     {spread(producer_rates, '/s', 0)}")
        print(f"  drain / librdkafka             {spread(ratios)}")
        print(f"  relay and sink, CPU a million  {spread(relay_cpu, ' s')}")
        print(f"  memory at the end              relay {memory['relay'] / 1024:.0f} MiB of its own, sink {memory['sink'] / 1024:.0f} MiB at its peak")
        self.results["drain_ratio"] = statistics.median(ratios)

    # -- latency --------------------------------------------------------------------------------------------

    def latency(self, rate=1000, seconds=15):
        """From before the statement that emits and commits, to the consumer; and what it costs."""
        latencies, stop = [], threading.Event()
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": "latency", "auto.offset.reset": "latest",
            "fetch.wait.max.ms": 10, "enable.auto.commit": False,
        })  # fmt: skip
        consumer.assign([TopicPartition("latency", p, -1) for p in range(6)])
        consumer.poll(2)

        def read():
            while not stop.is_set():
                # One at a time: consume() would wait for a batch to fill.
                message = consumer.poll(0.1)
                if message and not message.error():
                    latencies.append((time.time() - float(message.value())) * 1000)

        reader = threading.Thread(target=read)
        reader.start()
        script = Path(os.environ["BENCH_DIR"]) / "latency.sql"
        script.write_text(
            "SELECT outbox.emit('latency', (random() * 1000)::bigint, extract(epoch FROM clock_timestamp())::text);\n"
        )
        status = self.db.execute("SELECT relay_pid, sink_pid FROM outbox.status").fetchone()
        used = [cpu_seconds(pid) for pid in status]
        subprocess.run(
            ["pgbench", "-n", "-M", "prepared", "-c", "4", "-R", str(rate), "-T", str(seconds), "-f", script],
            capture_output=True, check=True,
        )  # fmt: skip
        used = [cpu_seconds(pid) - before for pid, before in zip(status, used)]
        self.wait_for_drain()
        time.sleep(0.5)  # what the consumer has not read by now was late, and is missing from the count below
        stop.set()
        reader.join()
        consumer.close()
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * q)] for q in (0.5, 0.99))
        print(f"latency at {rate:,} transactions/s   p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {latencies[-1]:.1f} ms ({len(latencies):,} messages)")
        print(f"  cores used                     relay {used[0] / seconds:.3f}, sink {used[1] / seconds:.3f}")
        self.results |= {"latency_p50_ms": p50, "latency_p99_ms": p99, "relay_cores": used[0] / seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["emit", "drain", "latency"])
    arguments = parser.parse_args()
    bench = Bench(arguments)
    if arguments.only in (None, "emit"):
        bench.emit_in_bulk()
        bench.emit_one_by_one()
    if arguments.only in (None, "drain"):
        bench.drain()
    if arguments.only in (None, "latency"):
        bench.latency()
    print(json.dumps(bench.results))


main()
