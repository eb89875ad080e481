"""A campaign: rounds of faults, healing and comparing the books, until its time is over; and the report.

A round has its own topics and empty ledgers; the server, the databases and the broker live on from one to the next.
The first round's seed is the campaign's, the next one's is one more, and so on: each can be run again alone.
"""

import faulthandler
import json
import logging
import random
import resource
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

from faults import books, conduct
from faults.fault import PROFILES
from faults.judge import Finding
from faults.load import Load, Topic
from faults.nemesis import Nemesis
from faults.vitals import Vitals
from faults.world import World
from support.waiting import wait_for

DRAIN_LIMIT = 90.0  # seconds from the end of the faults to an empty backlog: relays and topics back off up to 60 s
MOST_FAILED_ROUNDS = 3
INVARIANTS = {
    "I1": "what arrived is what was committed (and what is parked)",
    "I2": "nothing of what was rolled back",
    "I3": "in the order of the commits, for each key",
    "I4": "duplicates have the same bytes and were in flight when something died",
    "I5": f"the backlog is empty within {DRAIN_LIMIT:g} s of healing",
    "I6": "no process died, restarted or stayed behind but by the nemesis",
    "I7": "the application goes on, without errors",
    "I8": "memory, descriptors and threads are bounded and do not grow",
    "I9": "no payload and no secret in a log",
}
SHARES = {"everything": 5, "processes": 2, "kafka": 2, "operators": 1, "clean": 1}


@dataclass
class Round:
    """What is known about a round when it is over."""

    number: int
    seed: int
    profile: str
    faults: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    findings: list = field(default_factory=list)
    errors: list = field(default_factory=list)  # of these programs, not of the outbox
    latencies: dict = field(default_factory=dict)

    @property
    def good(self):
        return not self.findings and not self.errors


def profile_of(seed):
    return random.Random(f"profile {seed}").choices(list(SHARES), list(SHARES.values()))[0]


class Campaign:
    """Runs rounds for `seconds` of faults in all, and tells about them."""

    def __init__(self, directory, seconds, seed, round_seconds=120, profile=None, rate=50):
        self.directory = directory
        self.seconds = seconds
        self.seed = seed
        self.round_seconds = round_seconds
        self.profile = profile
        self.rate = rate
        self.rounds = []
        self.complete = False
        self.world = None
        self.vitals = None
        self.log_offset = 0
        self.worlds = 0

    def run(self):
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # connections die all the time
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # sinks are aborted by the dozen
        self.directory.mkdir(parents=True, exist_ok=True)
        self.history = (self.directory / "history.jsonl").open("w", buffering=1)
        self.text = (self.directory / "report.txt").open("w", buffering=1)
        self.began = time.monotonic()
        self.say(f"seed {self.seed}, {self.seconds:g} s of faults, in {self.directory}")
        done = 0.0
        try:
            while done < self.seconds and sum(not one.good for one in self.rounds) < MOST_FAILED_ROUNDS:
                seconds = min(self.round_seconds, self.seconds - done)
                if self.seconds - done - seconds < self.round_seconds / 4:
                    seconds = self.seconds - done
                done += seconds
                self._one_round(seconds)
            self.complete = True
        finally:
            self._leave_world(keep=bool(self.rounds) and not self.rounds[-1].good)
            self.report()
        return self.status

    @property
    def status(self):
        """0: all is well; 1: the promise was broken; 2: these programs failed, and nothing can be said."""
        if any(one.findings for one in self.rounds):
            return 1
        return 2 if not self.complete or any(one.errors for one in self.rounds) else 0

    def say(self, text):
        print(text, flush=True)
        self.text.write(text + "\n")

    def tell(self, **entry):
        self.history.write(json.dumps(entry) + "\n")

    # -- worlds ---------------------------------------------------------------------------------------------

    def _enter_world(self):
        if self.world:
            return
        self.worlds += 1
        self.world = World(self.directory / f"world-{self.worlds}")
        self.world.create()
        for database in self.world.databases:
            Load.create_tables(database)
        self.vitals = Vitals(self.world.server, self.world.databases)
        self.vitals.start()
        self.log_offset = 0

    def _leave_world(self, keep=False):
        if self.vitals:
            self.vitals.stop()
        if self.world:
            try:
                self.world.remove(keep)
            except Exception:
                self.say(traceback.format_exc())
        self.world = self.vitals = None

    # -- a round --------------------------------------------------------------------------------------------

    def _one_round(self, seconds):
        seed = self.seed + len(self.rounds)
        one = Round(len(self.rounds) + 1, seed, self.profile or profile_of(seed))
        self.rounds.append(one)
        self.say(f"\nround {one.number}: seed {seed}, {one.profile}, {seconds:.0f} s of faults")
        load = None
        # Should something hang that must not: where.
        faulthandler.dump_traceback_later(seconds + 900, file=self.text)
        try:
            self._enter_world()
            load = self._make_load(one)
            self._play(one, load, seconds)
        except Exception:
            one.errors.append(traceback.format_exc())
        finally:
            if load:
                load.stopping.set()
                load.finishing.set()
        self._say_round(one)
        if not one.good:
            logs = f"world-{self.worlds}/pg/postgres.log, world-{self.worlds}/kafka/kafka.log"
            self.say(f"    look at {self.directory}: history.jsonl, {logs}")
            self.say(f"    to run it again: scripts/faults --seed {seed} --profile {one.profile} --seconds {seconds:g}")
            self._leave_world(keep=True)

    def _make_load(self, one):
        name = f"r{one.number}"
        topics = [
            Topic(1, f"{name}-three", 3),
            Topic(2, f"{name}-one", 1),
            Topic(3, f"{name}-asked", 6, asked_for=True),
            Topic(4, f"{name}-five", 5),
        ]
        for topic in topics:
            self.world.broker.create_topic(topic.name, topic.partitions)
        load = Load(self.world.databases, topics, one.seed, rate=self.rate)
        load.empty_tables()
        return load

    def _play(self, one, load, seconds):
        def tell(**entry):
            self.tell(round=one.number, **entry)

        nemesis = Nemesis(self.world, load, self.vitals, one.seed, one.profile, tell)
        nemesis.starts = 1 if self.log_offset == 0 else 0
        load.weather = nemesis.weather
        load.start()
        nemesis.run(seconds)
        nemesis.heal()
        drained = self.world.wait_until_delivered(DRAIN_LIMIT)
        load.stop()
        wait_for(lambda: not load.anything_prepared(), "the end of what was prepared", timeout=60)
        load.stop_finishing()
        at_rest = self.world.wait_until_at_rest(DRAIN_LIMIT)
        one.faults = dict(sorted(nemesis.counts.items()))
        one.errors += nemesis.errors + load.failures
        one.findings += nemesis.findings + conduct.judge_drain(drained, at_rest, DRAIN_LIMIT)
        self._compare_books(one, load, nemesis)
        self._judge_conduct(one, load, nemesis)
        one.figures["drained in"] = None if drained is None else round(drained, 2)
        if one.good:
            for database in self.world.databases:
                database.sql("SELECT outbox.discard()")
            self.world.delete_topics([topic.name for topic in load.topics])

    def _compare_books(self, one, load, nemesis):
        began = time.monotonic()
        allowed = nemesis.duplicates_allowed()
        judge = books.compare(
            self.world.databases,
            self.world.broker.bootstrap,
            [topic.name for topic in load.topics],
            allowed,
        )
        one.findings += judge.close()
        one.figures |= {
            "faults": sum(nemesis.counts.values()),
            "transactions": load.committed + load.counts["prepared"],
            "committed": len(judge.entries),
            "arrived": judge.messages,
            "parked": len(judge.parked_ids),
            **{kind: judge.counts[kind] for kind in ("loss", "phantom", "undone", "disorder", "repetition", "changed")},
            "duplicates": sum(judge.duplicates.values()),
            "duplicates allowed": sum(allowed.values()),
            "server starts": nemesis.starts,
            "compared in": round(time.monotonic() - began, 1),
        }

    def _judge_conduct(self, one, load, nemesis):
        lines = self.world.server.log_since(self.log_offset)
        self.log_offset = self.world.server.log_size()
        one.findings += conduct.judge_log(lines, nemesis.killed, nemesis.starts)
        one.findings += conduct.judge_secrets(lines)
        samples = self.vitals.take_samples()
        one.findings += conduct.judge_vitals(samples)
        one.findings += [Finding("I7", "error", text) for text in load.unexpected_errors[:10]]
        one.latencies = load.latencies
        for kind in conduct.LIMITS:
            mine = [values for _, k, _, *values in samples if k == kind]
            if mine:
                memory, descriptors, threads = map(max, zip(*mine))
                one.figures[kind] = f"{memory >> 20} MB, {descriptors} descriptors, {threads} threads"
        self.tell(round=one.number, kinds=dict(load.counts), errors=dict(load.expected_errors))

    # -- telling --------------------------------------------------------------------------------------------

    def _say_round(self, one):
        self.tell(round=one.number, seed=one.seed, profile=one.profile, faults=one.faults, figures=one.figures)
        figures = ", ".join(f"{name} {value}" for name, value in one.figures.items())
        self.say(f"    faults: {', '.join(f'{name} {count}' for name, count in one.faults.items())}")
        self.say(f"    {figures}")
        for finding in one.findings:
            self.say(f"    VIOLATED {finding}")
        for error in one.errors:
            self.say(f"    FAILED {error}")

    def report(self):
        total = Counter()
        faults = Counter()
        latencies = {}
        for one in self.rounds:
            total.update({name: value for name, value in one.figures.items() if isinstance(value, int)})
            faults.update(one.faults)
            for weather, seconds in one.latencies.items():
                latencies.setdefault(weather, []).extend(seconds)
        drains = [one.figures.get("drained in") for one in self.rounds if one.figures.get("drained in") is not None]
        self.say(f"\n{len(self.rounds)} rounds, seed {self.seed}, {time.monotonic() - self.began:.0f} s in all")
        for name, count in sorted(faults.items()):
            self.say(f"    {count:5} {name}")
        for name, value in total.items():
            self.say(f"    {name}: {value}")
        if drains:
            self.say(f"    drained after healing: {min(drains)} to {max(drains)} s")
        self._say_latencies(latencies)
        broken = Counter(finding.invariant for one in self.rounds for finding in one.findings)
        for invariant, promise in INVARIANTS.items():
            verdict = f"VIOLATED, {broken[invariant]} findings" if broken[invariant] else "holds"
            if not self.rounds or (self.status == 2 and not broken[invariant]):
                verdict = "not known"
            self.say(f"{invariant} {verdict:8} {promise}")
        if broken["--"]:
            self.say("the load's own books are wrong: nothing above can be relied on")
        words = {0: "all is well", 1: "THE PROMISE IS BROKEN", 2: "FAILED, or broken off: nothing can be said"}
        self.say(words[self.status])

    def _say_latencies(self, latencies):
        """The application's transactions: while the broker was ill, and while nothing was."""
        p99 = {}
        for weather, seconds in latencies.items():
            if len(seconds) >= 100:
                seconds.sort()
                p99[weather] = seconds[int(len(seconds) * 0.99)]
                median = seconds[len(seconds) // 2] * 1000
                self.say(f"    transactions, {weather}: median {median:.1f} ms, p99 {p99[weather] * 1000:.1f} ms")
        if "quiet" in p99 and "broker" in p99:
            self.say(f"    p99 with the broker ill against quiet: {p99['broker'] / p99['quiet']:.2f}")


def check_profile(name):
    if name is not None and name not in PROFILES:
        raise SystemExit(f"no profile {name}; there are: {', '.join(PROFILES)}")
