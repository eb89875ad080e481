"""The command line of a campaign; scripts/faults starts it."""

import argparse
import faulthandler
import random
import signal
import sys
from pathlib import Path

from faults.campaign import Campaign
from faults.fault import PROFILES


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Random faults under a load, and the books compared. Exit status: 0, all is well; 1, the promise "
        "was broken; 2, these programs failed and nothing can be said.",
    )
    parser.add_argument("--seconds", type=float, default=120, help="of faults, in all (120)")
    parser.add_argument("--seed", type=int, help="the first round's; the next one's is one more (random)")
    parser.add_argument("--round", type=float, default=120, help="seconds of faults of a round (120)")
    parser.add_argument("--profile", choices=PROFILES, help="which faults (drawn from each round's seed)")
    parser.add_argument("--rate", type=float, default=50, help="transactions a second, about (50)")
    parser.add_argument("--dir", type=Path, required=True, help="where the report, the history and all data go")
    options = parser.parse_args()
    # As Ctrl-C does: what was started is stopped.
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    seed = random.SystemRandom().randrange(1, 1_000_000) if options.seed is None else options.seed
    return Campaign(options.dir, options.seconds, seed, options.round, options.profile, options.rate).run()


if __name__ == "__main__":
    sys.exit(main())
