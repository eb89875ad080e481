"""Counts instructions: programs under valgrind's callgrind, and what it wrote about them."""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import psycopg

from .servers import Postgres, as_server_user
from .waiting import Failed, wait_for

# glibc's malloc takes short or long ways depending on what was freed before it, which depends on how threads were
# scheduled: that moves a sink's count by 15 %. With caches as large as this every way is the short one.
STEADY_MALLOC = (
    "glibc.malloc.tcache_count=60000:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824"
)

_NAME = re.compile(r"(c?fn)=\((\d+)\)(?: (.*))?")


def command(output, threads=False):
    """What to put in front of a program. %p in the name of the output stands for the process, whose children each
    write a file of their own; with `threads`, -01 for the main thread, -02 … are added to it."""
    valgrind = ["valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={output}"]
    return ["env", f"GLIBC_TUNABLES={STEADY_MALLOC}", *valgrind, *(["--separate-threads=yes"] if threads else [])]


class Profile:
    """A file of callgrind's: the instructions of each function, alone and with all that it called.

    Functions are known by their names; several of the same name count as one."""

    def __init__(self, path):
        self.path = Path(path)
        self._own, self._called, self._times = Counter(), Counter(), Counter()
        names, function, callee, times = {}, None, None, None
        with self.path.open(errors="replace") as file:
            for line in file:
                if line[0] in "+-*0123456789":
                    cost = int(line.split()[1])
                    if times is None:
                        self._own[function] += cost
                    else:
                        self._called[function] += cost
                        self._times[callee] += times
                        times = None
                elif line.startswith("calls="):
                    times = int(line[6:].split()[0])
                elif found := _NAME.match(line):
                    kind, number, name = found.groups()
                    name = names.setdefault(number, name)
                    if kind == "fn":
                        function = name
                    else:
                        callee = name
        self.total = sum(self._own.values())

    def instructions(self, *functions):
        """Of the functions and all that they called. Wrong for those that call themselves or one another."""
        return sum(self._own[name] + self._called[name] for name in map(self._known, functions))

    def times(self, function):
        """How often it was called."""
        return self._times[self._known(function)]

    def _known(self, function):
        if function not in self._own:
            raise Failed(f"callgrind has not seen {function}: has it another name now, or was it inlined?")
        return function


class Slope:
    """Two profiles of the same work on different numbers of messages: what a message costs, without what is fixed."""

    def __init__(self, few, many, messages):
        self.few, self.many, self.messages = few, many, messages

    @property
    def total(self):
        return (self.many.total - self.few.total) / self.messages

    def instructions(self, *functions):
        return (self.many.instructions(*functions) - self.few.instructions(*functions)) / self.messages

    def times(self, function):
        return (self.many.times(function) - self.few.times(function)) / self.messages


class Server(Postgres):
    """A server all of whose processes run under callgrind, but not the programs that they start."""

    process = None

    def restart(self, **settings):
        super().shut_down()
        self.settings |= {name.replace("__", "."): value for name, value in settings.items()}
        self.write_settings()
        self.profiles = self.folder / "profiles"
        self.profiles.mkdir(exist_ok=True)
        self.profiles.chmod(0o777)
        argv = [*command(self.profiles / "%p"), self.bin / "postgres", "-D", self.data]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(as_server_user(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        wait_for(self._answers, "the server under callgrind", timeout=120, pause=0.1)

    def _answers(self):
        if self.process.poll() is not None:
            raise Failed(f"the server does not start: {self.log.read_text()[-2000:]}")
        try:
            return self.value("SELECT 1")
        except psycopg.OperationalError:
            return None

    def shut_down(self, mode="fast"):
        super().shut_down(mode)
        if self.process:
            self.process.wait(60)

    def profile(self, pid):
        """Of a process that ends now or has ended."""
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), f"the end of process {pid}")
        return Profile(self.profiles / str(pid))
