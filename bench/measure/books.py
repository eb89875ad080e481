"""The books: what a topic holds against what was sent. Drives bench/load/consumer.c."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .waiting import Failed

PROGRAMS = Path(os.environ.get("BENCH_PROGRAMS", "/nonexistent"))
ARRIVALS = "arrivals.int64"


@dataclass
class Expected:
    """Messages 1 .. count as in load/messages.h."""

    count: int | None  # None: said later, to Reader.finish()
    bytes: int = 0  # of a value; 0: a number, a blank, and anything
    keys: int = 0  # a key is the number modulo this; 0: any key
    headers: int = -1  # of the user's, beside `id`; -1: any
    duplicates: int = 0  # that are allowed
    capacity: int = 0  # highest number that can come, where the count is not known yet
    sparse: bool = False  # not all numbers up to the highest were sent: which of them, the caller compares with the arrivals

    def options(self):
        options = [f"bytes={self.bytes}", f"keys={self.keys}", f"headers={self.headers}"]
        options.append(f"capacity={max(self.capacity, self.count or 0)}")
        if self.sparse:
            options.append("sparse=1")
        if self.count is not None:
            options.append(f"count={self.count}")
        return options


@dataclass
class Verdict:
    """What the consumer found. `reason` is empty if, and only if, all is well."""

    count: int  # different messages that came
    lost: int
    duplicates: int
    disorder: int  # behind a later one of their key, or a key in two partitions
    changed: int  # other bytes than were sent, or never sent
    reason: str
    first_arrival: float = 0.0  # seconds since 1970, by the consumer's clock
    last_arrival: float = 0.0  # of the last message that had not come before
    first_appended: float = 0.0  # the messages' timestamps: the broker's clock, if the topic says LogAppendTime
    last_appended: float = 0.0
    arrivals: Path | None = field(default=None, repr=False)  # int64 by number: nanoseconds since 1970, 0: never

    @property
    def ok(self):
        return not self.reason

    @property
    def seconds_to_last(self):
        return self.last_arrival - self.first_arrival

    def check(self):
        if self.reason:
            raise Failed(self.reason)
        return self

    def figures(self):
        return {
            "count": self.count,
            "lost": self.lost,
            "duplicates": self.duplicates,
            "disorder": self.disorder,
            "changed": self.changed,
        }


def judge(found, expected):
    """A Verdict from what the consumer printed."""
    disorder = found["disorder"] + found["scattered"]
    changed = found["changed"] + found["strange"]
    wrong = []
    if not found["counted"]:
        wrong.append("the number of messages sent was never said")
    elif expected.count is not None and found["count"] != expected.count:
        wrong.append(f"judged against {found['count']:,} messages instead of {expected.count:,}")
    if found["count"] < 1:
        wrong.append("nothing was sent")
    if found["lost"]:
        wrong.append(f"{found['lost']:,} lost")
    if found["duplicates"] > expected.duplicates:
        wrong.append(f"{found['duplicates']:,} duplicates")
    if disorder:
        wrong.append(f"{disorder:,} out of order")
    if changed:
        wrong.append(f"{changed:,} with other contents than were sent")
    # The sums hold, or the consumer itself is broken.
    if found["distinct"] + found["lost"] != found["count"] and not found["strange"]:
        wrong.append(f"{found['distinct']:,} came and {found['lost']:,} did not, of {found['count']:,}")
    reason = ", ".join(wrong)
    if reason and found.get("complaint"):
        reason += f" ({found['complaint']})"
    return Verdict(
        found["distinct"], found["lost"], found["duplicates"], disorder, changed, reason,
        found["first_ns"] / 1e9, found["last_ns"] / 1e9, found["first_appended_ms"] / 1e3, found["last_appended_ms"] / 1e3,
    )  # fmt: skip


class Reader:
    """A consumer that runs beside the load: from the end of the topic as it is now, until finish()."""

    def __init__(self, kafka, topic, expected, folder=None, timeout=60.0, beginning=False):
        """With a folder, when each message came is written there at the end, and how many had come at each moment."""
        self.expected, self.folder = expected, Path(folder) if folder else None
        command = [
            PROGRAMS / "consumer",
            kafka.bootstrap,
            topic,
            str(kafka.partitions(topic)),
            *expected.options(),
            f"timeout={timeout}",
        ]
        command.append("from=beginning" if beginning else "from=end")
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            command += [f"arrivals={self.folder / ARRIVALS}", f"series={self.series}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise Failed("the consumer does not start")

    @property
    def pid(self):
        return self.process.pid

    @property
    def series(self):
        """Lines of nanoseconds since 1970 and messages so far."""
        return self.folder / "series.txt" if self.folder else None

    def finish(self, count=None):
        """So many were sent (if that was not said before): waits for them and judges."""
        if count is not None:
            self.expected.count = count
            self._say(f"count {count}")
        out, _ = self.process.communicate()
        if self.process.returncode != 0 or not out:
            raise Failed(f"the consumer ended with {self.process.returncode}")
        verdict = judge(json.loads(out), self.expected)
        verdict.arrivals = self.folder / ARRIVALS if self.folder else None
        return verdict

    def abandon(self):
        """Nobody wants to know any more."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.abandon()

    def _say(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already; its verdict says how


def verify(kafka, topic, expected, timeout=60.0, folder=None):
    """Reads the topic from its beginning to its end and judges it."""
    with Reader(kafka, topic, expected, folder, timeout, beginning=True) as reader:
        return reader.finish()
