"""The nemesis: things that go wrong, and things that operators do, at random times drawn from a seed.

A fault is a method with the mark @fault. It lasts as long as it says and leaves things as it found them. What it
holds (the server, the broker, a table) only one fault has at a time. Faults come in streams that run at the same
time: what happens to processes, to the broker, and what operators do. So the sequence of faults in each stream and
their parameters follow from the seed alone, whatever the machine's speed.
"""

import random
import threading
import time
import traceback

import psycopg

from faults.conduct import Finding
from faults.fault import FAULTS, PROFILES, STREAMS, stream_of
from faults.of_broker import FaultsOfBroker
from faults.of_operators import FaultsOfOperators
from faults.of_processes import FaultsOfProcesses
from faults.world import IN_FLIGHT

PAUSE = (1, 6)  # seconds between two faults of a stream
STANDSTILL = 60  # seconds in which the application must get something done
# A clean stop may find unanswered messages for this long (seconds) after a trouble, and last this long itself.
GRACE, STOPPING = 10, 12


class Nemesis(FaultsOfProcesses, FaultsOfBroker, FaultsOfOperators):
    """Runs faults for a time; then heal() ends what still lasts."""

    def __init__(self, world, load, vitals, seed, profile="everything", tell=lambda **entry: None):
        self.world = world
        self.server = world.server
        self.load = load
        self.vitals = vitals
        self.seed = seed
        self.names = {stream: [] for stream in STREAMS}
        for name in sorted(FAULTS):
            if PROFILES[profile](name, stream_of(name)):
                self.names[stream_of(name)].append(name)
        self.tell = tell
        self.over = threading.Event()  # no more faults
        self.ending = threading.Event()  # cuts short what lasts
        self.held = {what: threading.Lock() for method in FAULTS.values() for what in method.holds}
        self.streams = []
        self.active = []  # (name, what it holds)
        self.troubles = []  # [from, to]: of broker or sink, acknowledgements may be missing
        self.stops = []  # (from, to, database): a relay or a sink was stopped cleanly
        self.findings = []
        self.errors = []  # of the nemesis itself
        self.counts = {}
        self.killed = set()  # pids of server processes
        self.starts = 0  # how often the server is to become ready
        self.may_repeat = dict.fromkeys((d.name for d in world.databases), 0)
        self.late_topics = []

    # -- the schedule ----------------------------------------------------------------------------------------

    def schedule(self, stream):
        """Endless (pause, name, seed of the fault); nothing but the seed decides."""
        chance = random.Random(f"{stream} {self.seed}")
        names = self.names[stream]
        weights = [FAULTS[name].weight for name in names]
        while True:
            [name] = chance.choices(names, weights)
            yield chance.uniform(*PAUSE), name, chance.getrandbits(32)

    def run(self, seconds):
        self.began = time.monotonic()
        for stream, names in self.names.items():
            if names:
                self.streams.append(threading.Thread(target=self._stream, args=(stream,), daemon=True))
                self.streams[-1].start()
        self._watch_the_load(self.began + seconds)
        self.over.set()

    def _stream(self, stream):
        for pause, name, seed in self.schedule(stream):
            if self.over.wait(pause) or self.errors:
                return
            self._do(name, seed)

    def _watch_the_load(self, end):
        """Whatever is wrong with the broker, the relay or the sink: the application goes on."""
        seen, since = self.load.committed, time.monotonic()
        while time.monotonic() < end and not self.errors:
            time.sleep(max(0, min(1, end - time.monotonic())))
            if self.load.committed > seen:
                seen, since = self.load.committed, time.monotonic()
            elif time.monotonic() - since > STANDSTILL:
                text = f"no transaction was committed for {STANDSTILL} s, during {[name for name, _ in self.active]}"
                self.findings.append(Finding("I7", "standstill", text))
                return

    def _do(self, name, seed):
        method = FAULTS[name]
        # In a fixed order, so that two that want the same never wait for one another.
        locks = [self.held[what] for what in sorted(method.holds)]
        for lock in locks:
            lock.acquire()
        place = (name, method.holds)
        began = time.monotonic()
        self.active.append(place)
        outcome = "done"
        try:
            if self.over.is_set():
                return
            outcome = method(self, random.Random(seed)) or outcome
        except psycopg.Error as error:
            # Its session fell victim to another fault.
            outcome = f"cut short: {' '.join(str(error).split())[:100]}"
        except Exception:
            outcome = "failed"
            self.errors.append(f"{name} (seed {seed}):\n{traceback.format_exc()}")
        finally:
            self.active.remove(place)
            for lock in locks:
                lock.release()
        self.counts[name] = self.counts.get(name, 0) + 1
        self.tell(
            at=round(began - self.began, 2), fault=name, seed=seed, seconds=round(time.monotonic() - began, 2),
            outcome=outcome,
        )

    def heal(self):
        """Ends everything; what the outbox has to recover from is then over."""
        self.over.set()
        self.ending.set()
        for thread in self.streams:
            thread.join(180)
            if thread.is_alive():
                self.errors.append(f"these faults do not end: {self.active}")
        self.world.heal()
        for name, partitions in self.late_topics:
            if not self.world.has_topic(name):
                self.world.broker.create_topic(name, partitions)
        # Where an operator forgets to, what is parked stands, and counts as such.
        if random.Random(f"heal {self.seed}").random() < 0.8:
            for database in self.world.databases:
                database.sql("SELECT outbox.retry()")

    def duplicates_allowed(self):
        """By database: what was in flight, at most, when something died that had not answered."""
        allowed = dict(self.may_repeat)
        for began, ended, database in self.stops:
            if any(began <= until + GRACE and since <= ended + STOPPING for since, until in self.troubles):
                allowed[database] += IN_FLIGHT
        return allowed

    def weather(self):
        """For the application's latency: what is wrong at this moment."""
        kinds = {holds[0] for _, holds in self.active}
        return "quiet" if not kinds else "broker" if kinds <= {"broker"} else "other"
