"""Faults of the operating system (test/e2e/preload/faults.c) for a server and the sinks that it starts."""

import mmap
import struct
from pathlib import Path

from support.processes import give_to_server_user, run

SOURCE = Path(__file__).resolve().parents[1] / "preload/faults.c"


def build(directory):
    """The library, compiled."""
    library = Path(directory) / "faults.so"
    if not library.exists():
        run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"])
        library.chmod(0o755)
    return library


class System:
    """What is wrong with the operating system that a server sees. Give `environment` to the server."""

    def __init__(self, directory, library):
        self.directory = Path(directory)
        self.directory.mkdir()
        clock = self.directory / "clock"
        clock.write_bytes(bytes(8))
        with clock.open("r+b") as file:
            self.clock = mmap.mmap(file.fileno(), 8)
        give_to_server_user(self.directory)
        self.environment = {"LD_PRELOAD": str(library), "OUTBOX_PRELOAD_DIR": str(self.directory)}

    def set_clock(self, seconds):
        """The time of day is wrong by this much from now on."""
        self.clock[:8] = struct.pack("=q", int(seconds * 1_000_000))

    def break_(self, what):
        (self.directory / what).touch()

    def mend(self, what):
        (self.directory / what).unlink(missing_ok=True)
