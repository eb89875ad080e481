"""The judge of conduct: what the processes did meanwhile, besides what arrived.

    drain    I5  the backlog is zero within a stated time after the faults have ended; the load never stands still
    server   I6  nothing in the server's log died, panicked or started again that the nemesis has not done itself;
                 no process outlives the one it belongs to
    vitals   I8  memory, descriptors and threads of relays, sinks and launcher stay within limits, and do not grow
    secrets  I9  no payload and no secret stands in a log

The application's latency (I7) is measured and told, not judged: on a shared machine a percentile proves little.
"""

import re
from collections import defaultdict

from faults.judge import Finding
from support.cluster import CANARY, READY

DIED = re.compile(r"\(PID (\d+)\) was terminated by signal")
NEVER = re.compile(r"PANIC: |TRAP: |stuck spinlock|Sanitizer|runtime error:|could not reattach|corrupted|invalid page")

MB = 1 << 20
# Of one process, at any time: private memory, descriptors, threads. The sink holds what is in flight twice at most,
# the relay its buffers to the sink; messages of the load are up to 1 MB, and 32 MB of them may be in flight. A process
# of the server keeps the files of relations open, up to a few hundred.
NAMES = ("memory", "descriptors", "threads")
LIMITS = {"relay": (160 * MB, 300, 1), "sink": (256 * MB, 40, 30), "launcher": (32 * MB, 100, 1)}
# Of a process that lives this long (seconds), the second half of its life may be this much above the first.
LONG_LIFE = 60
GROWTH = {"relay": (48 * MB, 100, 0), "sink": (64 * MB, 8, 6), "launcher": (8 * MB, 20, 0)}


def judge_drain(seconds, at_rest, limit):
    """`seconds`: until what was committed when the faults ended was delivered; None: not within `limit`."""
    found = []
    if seconds is None:
        found.append(Finding("I5", "drain", f"not everything is delivered {limit:g} s after the faults have ended"))
    if not at_rest:
        found.append(Finding("I5", "drain", f"a backlog, or a relay in trouble, {limit:g} s after the load has ended"))
    return found


def judge_log(lines, killed, starts):
    """`killed`: pids of server processes that the nemesis has killed; `starts`: how often the server became ready."""
    found = []
    ready = 0
    for line in lines:
        ready += READY in line
        died = DIED.search(line)
        if died and int(died.group(1)) not in killed:
            found.append(Finding("I6", "server", f"died by itself: {line.strip()}"))
        if NEVER.search(line):
            found.append(Finding("I6", "server", line.strip()))
    if ready != starts:
        found.append(Finding("I6", "server", f"the server became ready {ready} times, {starts} were to be expected"))
    return found


def judge_vitals(samples):
    """`samples`: (seconds, kind, pid, memory in bytes, descriptors, threads)."""
    found = []
    lives = defaultdict(list)
    for seconds, kind, pid, *values in samples:
        lives[kind, pid].append((seconds, *values))
    for (kind, pid), life in lives.items():
        for name, limit, highest in zip(NAMES, LIMITS[kind], map(max, list(zip(*life))[1:])):
            if highest > limit:
                found.append(Finding("I8", "vitals", f"{kind} {pid}: {name} {highest}, limit {limit}"))
        found += _growth(kind, pid, life)
    return found


def _growth(kind, pid, life):
    """Highest of the second half against highest of the first, the first seconds of a process left out."""
    found = []
    began, ended = life[0][0], life[-1][0]
    if ended - began < LONG_LIFE:
        return found
    middle = (began + 10 + ended) / 2
    early = [values for seconds, *values in life if began + 10 <= seconds < middle]
    late = [values for seconds, *values in life if seconds >= middle]
    if not early or not late:
        return found
    for name, most, before, after in zip(NAMES, GROWTH[kind], map(max, zip(*early)), map(max, zip(*late))):
        if after > before + most:
            text = f"{kind} {pid}: {name} {before} grew to {after} in {ended - began:.0f} s"
            found.append(Finding("I8", "vitals", text))
    return found


def judge_secrets(lines):
    return [Finding("I9", "secrets", line.strip()[:300]) for line in lines if CANARY in line]
