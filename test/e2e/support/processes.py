"""Looking at processes through /proc, and running programs as the server's user."""

import os
import re
import subprocess
from pathlib import Path


def as_server_user(argv):
    """PostgreSQL refuses to run as root: then its programs run as the user postgres."""
    argv = [str(argument) for argument in argv]
    if os.geteuid() != 0:
        return argv
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *argv]


def give_to_server_user(path):
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "postgres:", str(path)], check=True)


def run(argv, **options):
    """Runs a program to its end; what it printed is in the error if it fails."""
    options.setdefault("timeout", 120)
    done = subprocess.run(
        [str(argument) for argument in argv], capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        raise AssertionError(f"{argv} exited with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def alive(pid):
    """Whether the process is there and not a zombie."""
    try:
        return re.search(r"^State:\s+[^ZX]", Path(f"/proc/{pid}/status").read_text(), re.M) is not None
    except (FileNotFoundError, ProcessLookupError):
        return False


def peak_memory(pid):
    """The highest resident size so far, in bytes (VmHWM)."""
    return _status_kb(pid, "VmHWM") * 1024


def private_memory(pid):
    """Resident memory that is not shared with other processes, in bytes (RssAnon)."""
    return _status_kb(pid, "RssAnon") * 1024


def shared_memory(pid):
    """Resident memory shared with other processes (RssShmem): the server's buffers, as far as it has touched them."""
    return _status_kb(pid, "RssShmem") * 1024


def _status_kb(pid, field):
    match = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(match.group(1))


def reset_peak_memory(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid):
    """User and system time of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sleeps(pid):
    """How often the process's first thread has gone to sleep by itself so far."""
    match = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(match.group(1))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
