"""Raw records: one line of JSON for each measurement, written as soon as there is one."""

import json
import os
import time
from pathlib import Path


class Results:
    """The records of all parts, one file each: <part>.jsonl. Its first line describes the machine."""

    def __init__(self, folder, machine=None, resume=False):
        self.folder, self.machine, self.resume = Path(folder), machine or {}, resume
        self._begun = set()

    def path(self, part):
        return self.folder / f"{part}.jsonl"

    def begin(self, part):
        """Without resume, what an earlier run has written goes."""
        if part in self._begun:
            return
        self._begun.add(part)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.resume or not self.path(part).exists():
            self.path(part).write_text("")
            self._write(part, {"machine": self.machine, "at": _now()})

    def record(self, part, row, system, round, figures, ok=True, reason=None):
        """`figures` of what failed are kept for whoever looks for the cause; no report shows them."""
        self.begin(part)
        self._write(
            part,
            {"row": row, "system": system, "round": round, "ok": bool(ok), "reason": reason, "figures": figures, "at": _now()},
        )  # fmt: skip

    def done(self, part, row, system, round):
        """Whether an earlier run has that measurement already. What failed is tried again."""
        return self.resume and any(
            (one["row"], one["system"], one["round"]) == (row, system, round) and one["ok"] for one in self.load(part)
        )

    def load(self, part):
        """The last record of each measurement, in the order in which they were first made."""
        found = {}
        for record in self._lines(part):
            if "row" in record:
                found[record["row"], record["system"], record["round"]] = record
        return list(found.values())

    def described(self, part):
        """The machine that the records come from."""
        return next((record["machine"] for record in self._lines(part) if "machine" in record), {})

    def _lines(self, part):
        if not self.path(part).exists():
            return
        for line in self.path(part).read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # a run was killed while it wrote this

    def _write(self, part, record):
        with self.path(part).open("a+b") as file:
            # Behind half a line of a run that was killed.
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(record, default=str).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
