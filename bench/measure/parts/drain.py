"""B1: how fast a backlog drains, beside librdkafka alone, Debezium, and what only decodes WAL. B4/B5 over it."""

import statistics
from functools import partial

from .. import backlogs
from ..backlogs import Backlog, Templates
from ..report import Plot, Report, Table, bar, cell, good, in_order, ratio_cell, ratios, spread, values

NAME = "drain"
TITLE = "Drain: a backlog on its way out"

OUTBOX, YARDSTICK, DEFAULT, TUNED, DECODE = (
    "outbox",
    "librdkafka alone",
    "Debezium default",
    "Debezium tuned",
    "pg_recvlogical",
)
LZ4 = ", lz4"
BACKLOGS = [
    Backlog(count, size, per_transaction, headers)
    for count, size in ((1_000_000, 200), (500_000, 1024))
    for per_transaction in (1, 100)
    for headers in (0, 4)
]
QUICK = [Backlog(400_000, 200, 100)]


def systems(backlog):
    """Debezium as it comes has a number where there are no headers of the user's; compressed is what large transactions wrote."""
    found = [OUTBOX, YARDSTICK, TUNED, DECODE]
    if not backlog.headers:
        found.insert(2, DEFAULT)
        if backlog.per_transaction > 1:
            found += [OUTBOX + LZ4, YARDSTICK + LZ4, TUNED + LZ4]
    return found


class Measuring:
    def __init__(self, bench):
        self.bench = bench
        self.templates = Templates(bench)
        self._worker = None
        # A broker's first producers wait for its coordinator, and its code is cold.
        for _ in range(2):
            backlogs.fill_topic(bench, Backlog(500_000, 200, 1))

    @property
    def worker(self):
        if self._worker is None:
            self._worker = backlogs.warm_worker(self.bench, self.templates)
        return self._worker

    def measure(self, backlog, system):
        lz4 = system.endswith(LZ4)
        system = system.removesuffix(LZ4)
        if system == OUTBOX:
            return backlogs.drain_outbox(self.bench, self.templates.outbox(backlog), backlog, lz4)
        if system == YARDSTICK:
            return backlogs.fill_topic(self.bench, backlog, lz4)
        if system == DECODE:
            return backlogs.decode(self.bench, self.templates.debezium(backlog), backlog)
        profile = "default" if system == DEFAULT else "tuned"
        return backlogs.drain_debezium(self.bench, self.worker, self.templates.debezium(backlog), backlog, profile, lz4)

    def close(self):
        if self._worker is not None:
            self._worker.stop()
        self.templates.remove()


def run(bench, results, rounds, quick):
    todo = (
        [(backlog, [OUTBOX, YARDSTICK]) for backlog in QUICK]
        if quick
        else [(backlog, systems(backlog)) for backlog in BACKLOGS]
    )
    measuring = Measuring(bench)
    try:
        for number in range(1, rounds + 1):
            for backlog, names in todo:
                for name in names:
                    bench.measured(results, NAME, backlog.name, name, number, partial(measuring.measure, backlog, name))
    finally:
        measuring.close()


# -- the report ---------------------------------------------------------------------------------------------

MOVERS = {
    OUTBOX: ("relay", "sink"),
    DEFAULT: ("jvm", "walsender"),
    TUNED: ("jvm", "walsender"),
    YARDSTICK: ("producer",),
    DECODE: ("walsender", "receiver"),
}


def movers_cpu(system):
    """CPU seconds per million messages of everything between server and broker."""
    names = MOVERS[system.removesuffix(LZ4)]
    return lambda figures: sum(figures[f"cpu_{name}"] for name in names) / (figures["rate"] * figures["seconds"]) * 1e6


def group_cpu(name):
    return lambda figures: figures.get(f"cpu_{name}", 0) / (figures["rate"] * figures["seconds"]) * 1e6


def movers_peak(system):
    names = MOVERS[system.removesuffix(LZ4)]
    return lambda figures: sum(figures[f"peak_{name}"] for name in names) / (1 << 20)


def rates(records, rows):
    there = in_order(records, "system")
    columns = ["messages a second", YARDSTICK, OUTBOX, "of librdkafka's"]
    beside = [system for system in (TUNED, DEFAULT) if system in there]
    for system in beside:
        columns += [system, "outbox is × as fast"]
    columns += [DECODE] if DECODE in there else []
    lines = []
    for row in rows:
        line = [
            row,
            cell(records, row, YARDSTICK, "rate"),
            cell(records, row, OUTBOX, "rate"),
            ratio_cell(records, row, OUTBOX, YARDSTICK, "rate"),
        ]
        for system in beside:
            line += [cell(records, row, system, "rate"), ratio_cell(records, row, OUTBOX, system, "rate", 1)]
        lines.append(line + ([cell(records, row, DECODE, "rate")] if DECODE in there else []))
    return Table("How fast a backlog drains", columns, lines)


def compressed(records, rows):
    systems_with = [YARDSTICK, OUTBOX, TUNED]
    rows = [row for row in rows if good(records, row, OUTBOX + LZ4)]
    lines = [[row, *[cell(records, row, system + LZ4, "rate") for system in systems_with],
              ratio_cell(records, row, OUTBOX + LZ4, YARDSTICK + LZ4, "rate"), ratio_cell(records, row, OUTBOX + LZ4, TUNED + LZ4, "rate", 1)]
             for row in rows]  # fmt: skip
    return (
        Table("The same with lz4", ["messages a second", *systems_with, "of librdkafka's", "× Debezium tuned"], lines)
        if lines
        else None
    )


def costs(records, rows):
    lines = []
    for row in rows:
        for system in (OUTBOX, TUNED, DEFAULT, YARDSTICK):
            if not good(records, row, system):
                continue
            parts = [
                f"{name} {statistics.median(values(records, row, system, group_cpu(name))):.1f}"
                for name in MOVERS[system]
            ]
            beside = ratios_of(records, row, system)
            lines.append([
                row, system, cell(records, row, system, movers_cpu(system), 2), ", ".join(parts), beside,
                cell(records, row, system, group_cpu("broker"), 2), cell(records, row, system, movers_peak(system), 0),
            ])  # fmt: skip
    return Table(
        "What it costs",
        [
            "backlog",
            "system",
            "CPU s per million",
            "of which (medians)",
            "outbox takes of it",
            "broker's CPU s per million",
            "peak memory, MiB",
        ],
        lines,
    )


def ratios_of(records, row, system):
    """What outbox takes of another system's CPU, round by round."""
    if system == OUTBOX:
        return ""
    ours = {one["round"]: movers_cpu(OUTBOX)(one["figures"]) for one in good(records, row, OUTBOX)}
    theirs = {one["round"]: movers_cpu(system)(one["figures"]) for one in good(records, row, system)}
    return spread([ours[number] / theirs[number] for number in ours if theirs.get(number)], 3)


def report(records):
    rows = in_order(records, "row")
    tables = [rates(records, rows), compressed(records, rows), costs(records, rows)]
    shown = [
        system for system in (YARDSTICK, OUTBOX, TUNED, DEFAULT, DECODE) if values(records, rows[0], system, "rate")
    ]
    series = {system: {row: bar(values(records, row, system, "rate")) for row in rows} for system in shown}
    plots = [Plot("drain-rates", "Draining a backlog", series, y="messages a second")]
    relative = {OUTBOX: {row: bar(ratios(records, row, OUTBOX, YARDSTICK, "rate")) for row in rows}}
    plots.append(
        Plot("drain-ceiling", "Draining, as a share of what librdkafka alone reaches", relative, y="× librdkafka alone")
    )
    notes = [
        "outbox: from `outbox.resume()` until all is acknowledged and settled, the start of the sink included. Debezium: from the "
        "moment its connector streams, in a JVM that is warm, until the broker has appended the last message. librdkafka alone: "
        "from the first message to the last acknowledgement. pg_recvlogical: decodes to /dev/null and delivers nothing, so nothing "
        "of it could be verified; every other run was, by a consumer.",
        "Memory is resident memory without the server's shared buffers. The payloads are one letter over and over: lz4 makes almost "
        "nothing of them.",
    ]
    return Report([table for table in tables if table], plots, notes)
