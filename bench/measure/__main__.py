"""bench/run's second half: runs the parts that are named, and writes their reports."""

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from . import machine, report
from .bench import Bench
from .results import Results

PARTS = ["drain", "sustain", "latency", "tax", "emit", "attach", "horizon", "outage", "recovery", "depth", "idle", "instructions"]
QUICK = ["emit", "drain", "latency"]


def load(name):
    return importlib.import_module(f"measure.parts.{name}")


def write_report(part, name, results):
    records = results.load(name)
    if records:
        text = report.write(part.report(records), name, part.TITLE, records, results.described(name), results.folder)
        print(text)


def main():
    there = [name for name in PARTS if (Path(__file__).parent / f"parts/{name}.py").exists()]
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures outbox beside what could be used instead.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(there)}; all without any")
    parser.add_argument("--rounds", type=int, help="5, or 3 of the quick ones")
    parser.add_argument(
        "--quick", action="store_true", help="minutes instead of hours: to be run before and after a change"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what an earlier run has begun")
    parser.add_argument("--report", action="store_true", help="measure nothing: tables and plots from what is there")
    parser.add_argument("--accept", action="store_true", help="what is measured becomes what later runs are compared with (instructions)")
    parser.add_argument("--out", type=Path, required=True, help="where records, tables and plots go")
    arguments = parser.parse_args()
    names = arguments.parts or [name for name in there if not arguments.quick or name in QUICK]
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    unknown = [name for name in names if name not in there]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are: {', '.join(there)}")

    # The server's user writes beside us.
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results(arguments.out, machine.describe(), arguments.resume or arguments.report)
    failed, complaints = 0, []
    bench = None if arguments.report else Bench(os.environ["BENCH_FOLDER"])
    try:
        for name in names:
            part = load(name)
            if bench:
                began = time.monotonic()
                results.begin(name)
                part.run(bench, results, rounds, arguments.quick)
                bench.log(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes")
            if arguments.accept and hasattr(part, "accept"):
                part.accept(results.load(name))
            write_report(part, name, results)
            if hasattr(part, "complaints"):
                complaints += part.complaints(results.load(name))
            failed += sum(not one["ok"] for one in results.load(name))
    finally:
        if bench:
            bench.close()
    if failed:
        print(f"{failed} measurements have no number", file=sys.stderr)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sys.exit(1 if failed or complaints else 0)


main()
