"""Servers whose processes can be told to die, fail or wait at certain places (src/fault_point.hpp)."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from support.cluster import PG_BIN, Cluster, private_installation
from support.processes import give_to_server_user
from support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build/fault-points"
LIBRARY, FILE_SINK, KAFKA_SINK = (BUILD / name for name in ("outbox.so", "outbox-file", "outbox-kafka"))
MARK = b"outbox-fault-point:"


def points(binary):
    """Names of the fault points in a library or program, sorted."""
    if not binary.exists():
        return []
    return sorted({name.decode() for name in re.findall(re.escape(MARK) + rb"([a-z0-9-]+)\0", binary.read_bytes())})


def pg_config(option):
    return Path(
        subprocess.run([PG_BIN / "pg_config", option], capture_output=True, text=True, check=True).stdout.strip()
    )


def install(directory):
    """An installation of the server of its own with our library and sinks in it; returns its folder of programs."""
    assert LIBRARY.exists(), f"{LIBRARY} is not built: make fault-points"
    programs, library = private_installation(Path(directory))
    for file in (LIBRARY, FILE_SINK, KAFKA_SINK):
        (library / file.name).unlink(missing_ok=True)
        shutil.copy(file, library)
    return programs


class FaultyCluster(Cluster):
    """A server with fault points."""

    def create(self, template=None):
        super().create(template)
        self.faults = self.data / "outbox_faults"
        self.faults.mkdir()
        give_to_server_user(self.faults)
        return self

    def arm(self, point, action):
        """What the next process does that comes to the point: crash, error or wait."""
        new = self.faults / f"{point}.new"
        new.write_text(action)
        give_to_server_user(new)
        new.rename(self.faults / point)

    def armed(self, point):
        return (self.faults / point).exists()

    def release(self, point):
        """Who waits there goes on, and nobody stops there any more."""
        (self.faults / point).unlink(missing_ok=True)
        (self.faults / f"{point}.waiting").unlink(missing_ok=True)

    def release_all(self):
        for file in self.faults.iterdir():
            file.unlink(missing_ok=True)

    def waiting(self, point):
        """The process that waits at the point, or None."""
        try:
            return int((self.faults / f"{point}.waiting").read_text() or 0) or None
        except FileNotFoundError:
            return None

    def wait_for_waiting(self, point):
        return wait_for(lambda: self.waiting(point), f"a process at {point}")

    def wait_until_passed(self, point, timeout=30.0):
        wait_for(lambda: not self.armed(point), f"a process that comes to {point}", timeout)


def marks_in(file):
    """Whether a program or library has fault points in it."""
    return MARK in Path(file).read_bytes() or b"outbox_faults" in Path(file).read_bytes()


def installed():
    """What a release build has installed: library and sinks."""
    libraries = pg_config("--pkglibdir")
    return [libraries / name for name in sorted(os.listdir(libraries)) if name.startswith("outbox")]
