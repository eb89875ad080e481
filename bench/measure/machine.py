"""CPU time and memory of processes, from /proc; and what machine this is."""

import contextlib
import os
import platform
import re
import subprocess
import threading
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def process(pid):
    """What identifies the process, and its CPU seconds so far; None if it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return (pid, int(fields[19])), (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid):
    """Bytes of RAM now, and at most since it was last reset. The server's shared buffers are nobody's: without them."""
    try:
        found = dict(
            re.findall(r"^(VmHWM|RssAnon|RssFile|RssShmem):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
        )
    except OSError:
        return 0, 0
    if not found:  # a zombie
        return 0, 0
    now = (int(found["RssAnon"]) + int(found["RssFile"])) * 1024
    return now, (now if int(found["RssShmem"]) else int(found["VmHWM"]) * 1024)


def threads(pid):
    """By thread: its name, how often it has gone to sleep by itself, and nanoseconds of CPU, so far."""
    found = {}
    with contextlib.suppress(OSError, TypeError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                slept = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)
                used = (task / "schedstat").read_text().split()[0]
                found[int(task.name)] = (task / "comm").read_text().strip(), int(slept.group(1)), int(used)
    return found


def children(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def stopped(pid):
    """Whether the process is there and has been stopped by a signal."""
    try:
        return "\nState:\tT " in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip().decode(errors="replace")
    except OSError:
        return ""


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


class Usage:
    """CPU seconds and peak memory of named groups of processes while it is entered.

    with Usage(relay=lambda: [pg.relay_pid()], jvm=[4711]) as usage: ...
    usage.cpu["relay"], usage.peak["jvm"]

    Processes are looked for as often as `every` says, in seconds: one that lives shorter may be missed, and of one that ends what
    it used since the last look. A group's peak is that of the sum over its processes, without the server's shared buffers."""

    def __init__(self, every=0.1, **groups):
        self.every = every
        self.groups = {
            name: pids if callable(pids) else (lambda pids=list(pids): pids) for name, pids in groups.items()
        }
        self.cpu = dict.fromkeys(groups, 0.0)
        self.peak = dict.fromkeys(groups, 0)
        self._before, self._last = {}, {name: {} for name in groups}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self):
        for name, pids in self.groups.items():
            for pid in self._pids(pids):
                if (seen := process(pid)) is not None:
                    self._before[seen[0]] = seen[1]
                    with contextlib.suppress(OSError):
                        Path(f"/proc/{pid}/clear_refs").write_text("5")  # its peak starts anew
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()
        self._look()
        for name, processes in self._last.items():
            self.cpu[name] = sum(used - self._before.get(identity, 0.0) for identity, used in processes.items())

    def figures(self):
        """For a record: cpu_<group> in seconds, peak_<group> in bytes."""
        return {f"cpu_{name}": round(used, 3) for name, used in self.cpu.items()} | {
            f"peak_{name}": size for name, size in self.peak.items()
        }

    @staticmethod
    def _pids(pids):
        try:
            return [pid for pid in pids() if pid]
        except Exception:  # a server that is just starting, or has just ended, has none
            return []

    def _look(self):
        for name, pids in self.groups.items():
            now = highest = 0
            for pid in self._pids(pids):
                if (seen := process(pid)) is not None:
                    self._last[name][seen[0]] = seen[1]
                    current, peak = memory(pid)
                    now, highest = now + current, highest + peak
            self.peak[name] = max(self.peak[name], now, highest)

    def _sample(self):
        while not self._stopping.wait(self.every):
            self._look()


def _first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return (done.stdout or done.stderr).strip().splitlines()[0] if (done.stdout or done.stderr).strip() else None


def commit(root):
    """What is measured, and whether it is what was committed; the records that are being written are no part of it."""
    git = ("git", "-C", str(root))
    changed = _first_line(*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs/benchmarks")
    return (_first_line(*git, "describe", "--always", "--tags") or "unknown") + ("-dirty" if changed else "")


def describe():
    """Cores, memory, kernel and versions of what takes part."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    total = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    root = Path(__file__).resolve().parents[2]
    release = re.search(r'^PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text(), re.M)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(total.group(1)) / (1 << 20), 1),
        "system": release.group(1) if release else platform.system(),
        "kernel": platform.release(),
        "postgres": _first_line(os.environ.get("PG_CONFIG", "pg_config"), "--version"),
        "java": _first_line("java", "-version"),
        "librdkafka": _first_line("pkg-config", "--modversion", "rdkafka"),
        "kafka": _version_in(root / "scripts/kafka.pom.xml", "kafka_2.13"),
        "debezium": _version_in(root / "bench/debezium/pom.xml", "debezium-connector-postgres"),
        "outbox": commit(root),
    }  # fmt: skip


def _version_in(pom, artifact):
    found = re.search(rf"<artifactId>{re.escape(artifact)}</artifactId>\s*<version>(.*?)</version>", pom.read_text())
    return found.group(1) if found else None
