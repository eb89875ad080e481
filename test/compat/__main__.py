"""python -m compat FOLDER [--cases N] [--rows N] [--seed S] [--first N] [--batch N] [--record]: cases against both, and what differs."""

import argparse
import contextlib
import random
import sys
import time
from pathlib import Path

from . import recording
from .cases import make
from .comparison import compare
from .systems import Place


def arguments():
    parser = argparse.ArgumentParser(prog="compat")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--rows", type=int, default=50, help="in each case")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--first", type=int, default=1, help="number of the first case")
    parser.add_argument("--batch", type=int, default=10, help="connectors at a time")
    parser.add_argument("--record", action="store_true", help="keep Debezium's records of the cases that are alike")
    return parser.parse_args()


def main():
    options = arguments()
    say = lambda words: print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)  # noqa: E731
    say(f"seed {options.seed}: {options.cases} cases of {options.rows} rows")
    numbers = range(options.first, options.first + options.cases)
    good = bad = rows = 0
    known, kept = {}, []
    with contextlib.closing(Place(options.folder)) as place:
        for start in range(0, len(numbers), options.batch):
            cases = [make(options.seed, number, options.rows) for number in numbers[start : start + options.batch]]
            theirs, ours, trouble = place.run(cases)
            for case in cases:
                complaints, found = compare(case, theirs, ours)
                rows += len(case.rows)
                for name, count in found.items():
                    known[name] = known.get(name, 0) + count
                if not complaints:
                    good += 1
                    kept.append(recording.recorded(case, theirs))
                    continue
                bad += 1
                say(f"case {case.number} of seed {options.seed}: {len(complaints)} differences\n{case.explain()}")
                print("\n".join(complaints[:5]))
                if trouble[case.number]:
                    print(f"Debezium failed: {trouble[case.number][:2000]}")
            say(f"{good} cases alike, {bad} not, {rows} rows; known differences: {known or 'none'}")
    if options.record:
        recording.write(kept, options.seed)
    print(f"{good} passed, {bad} failed")
    return bad > 0


sys.exit(main())
