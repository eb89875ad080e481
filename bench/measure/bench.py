"""What a part is given to measure with."""

import contextlib
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

from .servers import Kafka, Postgres
from .waiting import Failed


class Bench:
    """A folder, a broker that all share, programs; and measured(), through which every figure goes."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.programs = Path(os.environ["BENCH_PROGRAMS"])
        self._kafka = None
        self._keep = contextlib.ExitStack()

    @property
    def kafka(self):
        """Started when somebody asks for it first."""
        if self._kafka is None:
            self._kafka = Kafka.start(self.folder / "kafka")
        return self._kafka

    def stop_kafka(self):
        """For a part that wants none beside it, or has a broker of its own."""
        if self._kafka is not None:
            self._kafka.stop()
            self._kafka = None

    def postgres(self, name, template=None, **settings):
        """A server in a folder of that name."""
        return Postgres.start(self.folder / name, template, **settings)

    def log(self, words):
        print(f"{time.strftime('%H:%M:%S')}  {words}", file=sys.stderr, flush=True)

    def measured(self, results, part, row, system, round, measure):
        """Calls measure() for its figures and records them, or why there are none. An earlier run's are left as they are."""
        if results.done(part, row, system, round):
            return
        began = time.monotonic()
        figures, reason = {}, None
        try:
            figures = measure()
        except Failed as error:
            reason, figures = str(error), getattr(error, "figures", {})
        except Exception as error:
            # It costs this number, not the run.
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
        results.record(part, row, system, round, figures, reason is None, reason)
        shown = reason or ", ".join(
            f"{name} {value:,.6g}" for name, value in figures.items() if isinstance(value, (int, float))
        )
        self.log(f"{part} {round}: {row} | {system}: {shown}  [{time.monotonic() - began:.0f} s]")

    def close(self):
        with contextlib.suppress(Exception):
            self.stop_kafka()
        shutil.rmtree(self.folder, ignore_errors=True)
