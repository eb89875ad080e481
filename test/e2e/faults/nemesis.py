"""The nemesis: things that go wrong, and things that operators do, at random times drawn from a seed.

A fault is a method with the mark @fault. It lasts as long as it says and leaves things as it found them. What it
holds (the server, the broker, a table) only one fault has at a time. Faults come in streams that run at the same
time: what happens to processes, to the broker, and what operators do. So the sequence of faults in each stream and
their parameters follow from the seed alone, whatever the machine's speed.
"""

import contextlib
import os
import random
import signal
import threading
import time
import traceback

import psycopg

from faults.conduct import Finding
from faults.load import Topic
from faults.world import IN_FLIGHT, Proxy
from support.processes import alive
from support.waiting import wait_for

PAUSE = (1, 6)  # seconds between two faults of a stream
STANDSTILL = 60  # seconds in which the application must get something done
# A clean stop may find unanswered messages for this long (seconds) after a trouble, and last this long itself.
GRACE, STOPPING = 10, 12
ORPHAN = 5  # seconds that a process may outlive its parent
# How far saved progress may be behind when a server crashes: it is saved every 50 ms, without a flush of its own;
# the WAL writer flushes within three of its rounds of 400 ms. Nearly twice that, because the machine is busy.
UNSAVED = 2.0
FAULTS = {}


def fault(*holds, weight=1.0):
    """A fault's name is the method's; what it holds first says which stream it belongs to."""

    def mark(method):
        FAULTS[method.__name__] = method
        method.holds = holds
        method.weight = weight
        return method

    return mark


STREAMS = {
    "processes": {"server", "relay", "sink", "sessions"},
    "broker": {"broker", "topic"},
    "operators": {"operator", "table", "database"},
}

# What a round is made of. In "kafka" no process of the server dies: relays and sinks live on; in "clean" nothing
# may arrive twice.
PROFILES = {
    "everything": lambda name, stream: True,
    "processes": lambda name, stream: stream == "processes",
    "kafka": lambda name, stream: stream == "broker" or name == "terminate_sessions",
    "operators": lambda name, stream: stream == "operators" or name == "terminate_sessions",
    "clean": lambda name, stream: stream == "operators"
    or name in ("restart_fast", "restart_smart", "terminate_relay", "terminate_launcher", "cancel_workers"),
}


def stream_of(name):
    return next(stream for stream, kinds in STREAMS.items() if FAULTS[name].holds[0] in kinds)


class Nemesis:
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

    # -- what faults need ------------------------------------------------------------------------------------

    def last(self, seconds):
        """The fault lasts; healing cuts it short."""
        self.ending.wait(seconds)

    def weather(self):
        """For the application's latency: what is wrong at this moment."""
        kinds = {holds[0] for _, holds in self.active}
        return "quiet" if not kinds else "broker" if kinds <= {"broker"} else "other"

    def _database(self, chance):
        return chance.choice(self.world.databases)

    @contextlib.contextmanager
    def _trouble(self):
        """Meanwhile, and a little longer, acknowledgements may be missing where a relay stops."""
        interval = [time.monotonic(), float("inf")]
        self.troubles.append(interval)
        try:
            yield
        finally:
            interval[1] = time.monotonic()

    @contextlib.contextmanager
    def _relays_stop(self, databases=None):
        """Cleanly, so nothing may arrive twice, unless something keeps the acknowledgements away."""
        began = time.monotonic()
        try:
            yield
        finally:
            for database in databases or self.world.databases:
                self.stops.append((began, time.monotonic(), database.name))

    def _sink_dies(self, database):
        """What it had not acknowledged may arrive twice."""
        self.may_repeat[database.name] += IN_FLIGHT

    def _server_crashes(self):
        """What was acknowledged since progress was last on disk may arrive twice, too."""
        for database in self.world.databases:
            unsaved = self.vitals.delivered_lately(database, UNSAVED)
            self.may_repeat[database.name] += IN_FLIGHT + unsaved

    def _kill_server_process(self, pid, name):
        """PostgreSQL then restarts everything, as it must."""
        before = self.world.log_size()
        sinks = self._sinks()
        self.killed.add(pid)
        self._server_crashes()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return f"{name} {pid} was gone"
        self.starts += 1
        self._expect_end(sinks)
        self.world.wait_for_crash_restart(before, pid)
        return f"{name} {pid}"

    def _sinks(self):
        return [pid for kind, _, pid in self.vitals.processes() if kind == "sink"]

    def _expect_end(self, pids):
        """None of them publishes on without its relay."""
        try:
            wait_for(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}", ORPHAN)
        except AssertionError as error:
            self.findings.append(Finding("I6", "orphan", str(error)))

    # -- processes -------------------------------------------------------------------------------------------

    @fault("sink", weight=3)
    def kill_sink(self, chance):
        database = self._database(chance)
        which = chance.choice((signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV))
        pid = self.vitals.pid("sink", database)
        if not pid:
            return "no sink"
        self._sink_dies(database)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)
        return f"{which.name} {pid}"

    @fault("sink")
    def suspend_sink(self, chance):
        return self._suspend("sink", self._database(chance), chance.uniform(0.2, 6))

    @fault("relay")
    def suspend_relay(self, chance):
        return self._suspend("relay", self._database(chance), chance.uniform(0.2, 4))

    def _suspend(self, kind, database, seconds):
        pid = self.vitals.pid(kind, database)
        if not pid:
            return f"no {kind}"
        with self._trouble(), contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self.last(seconds)
            os.kill(pid, signal.SIGCONT)
        return f"{kind} {pid} for {seconds:.1f} s"

    @fault("relay", weight=2)
    def terminate_relay(self, chance):
        database = self._database(chance)
        with self._relays_stop([database]):
            self.server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'outbox relay' AND datname = %s",
                database.name,
            )

    @fault("relay", weight=0.5)
    def cancel_workers(self, chance):
        self.server.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'outbox %'")

    @fault("relay", weight=0.7)
    def terminate_launcher(self, chance):
        """At times with the relays: they die while nobody is there to start others."""
        which = chance.choice(("launcher", "launcher", "%"))
        with self._relays_stop():
            self.server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'outbox ' || %s", which
            )
        return which

    @fault("server", "sink", "relay")
    def kill_relay(self, chance):
        pid = self.vitals.pid("relay", self._database(chance))
        return self._kill_server_process(pid, "relay") if pid else "no relay"

    @fault("server", "sink", "relay", weight=0.5)
    def kill_launcher(self, chance):
        pid = self.vitals.pid("launcher")
        return self._kill_server_process(pid, "launcher") if pid else "no launcher"

    @fault("server", "sink", "relay", weight=2)
    def kill_backend(self, chance):
        """A session in the middle of whatever it does, or one of the server's own processes."""
        kind = chance.choice(("client backend", "client backend", "walwriter", "checkpointer", "background writer"))
        rows = self.server.sql(
            "SELECT pid FROM pg_stat_activity "
            "WHERE backend_type = %s AND (datname IS NULL OR application_name = 'load') ORDER BY pid",
            kind,
        )
        return self._kill_server_process(chance.choice(rows)[0], kind) if rows else f"no {kind}"

    @fault("server", "sink", "relay", weight=2)
    def kill_postmaster(self, chance):
        sinks = self._sinks()
        self._server_crashes()
        os.kill(self.server.postmaster_pid, signal.SIGKILL)
        self._expect_end(sinks)
        self.last(chance.uniform(0, 1))
        self.server.recover_after_kill()
        self.starts += 1

    @fault("server", "sink", "relay")
    def restart_fast(self, chance):
        with self._relays_stop():
            self._restart("fast", chance)

    @fault("server", "sink", "relay", weight=2)
    def restart_immediate(self, chance):
        sinks = self._sinks()
        self._server_crashes()
        self._restart("immediate", chance)
        self._expect_end(sinks)

    @fault("server", "sink", "relay", "operator", "table", "database", "sessions", weight=0.7)
    def restart_smart(self, chance):
        """Which waits for the sessions to leave, so they do."""
        everybody = (self.load.away, self.vitals.away)
        for away in everybody:
            away.set()
        try:
            with self._relays_stop():
                self._restart("smart", chance)
        finally:
            for away in everybody:
                away.clear()

    def _restart(self, mode, chance):
        self.server.stop(mode)
        self.last(chance.choice((0, 0, 1)))
        self.server.start()
        self.starts += 1

    @fault("sessions")
    def terminate_sessions(self, chance):
        rows = self.server.sql(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'load' "
            "ORDER BY pid LIMIT %s) AS s", chance.randint(1, 5),
        )
        return f"{len(rows)} sessions"

    @fault("sessions")
    def hiccup(self, chance):
        """Every session stands still for a moment, wherever it is: at times between its positions and its rows."""
        for _ in range(10):
            rows = self.server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'load'")
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for (pid,) in rows:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                if number == signal.SIGSTOP:
                    self.last(chance.uniform(0.05, 0.3))
            self.last(chance.uniform(0.05, 0.2))

    # -- the broker ------------------------------------------------------------------------------------------

    @fault("broker", weight=2)
    def suspend_broker(self, chance):
        seconds = chance.choice((0.3, 1, 3, 8))
        with self._trouble():
            self.world.suspend_broker()
            self.last(seconds)
            self.world.resume_broker()
        return f"for {seconds} s"

    @fault("broker", weight=2)
    def kill_broker(self, chance):
        seconds = chance.choice((0, 1, 3))
        self._broker_restarts()
        with self._trouble():
            self.world.kill_broker()
            self.last(seconds)
            self.world.start_broker()
        return f"down for {seconds} s"

    @fault("broker", weight=0.7)
    def stop_broker(self, chance):
        self._broker_restarts()
        with self._trouble():
            self.world.broker.stop()
            self.last(chance.choice((3, 20)))
            self.world.start_broker()

    def _broker_restarts(self):
        """A broker that was killed may make the client give up and begin anew: a fatal error of the producer."""
        for database in self.world.databases:
            self._sink_dies(database)

    if Proxy:

        @fault("broker")
        def reset_connections(self, chance):
            """Nobody knows which requests have arrived; the broker does, and drops what comes again."""
            times = chance.choice((1, 1, 5))
            with self._trouble():
                for _ in range(times):
                    self.world.network.reset()
                    self.last(0.3)
            return f"{times} times"

        @fault("broker")
        def lose_acknowledgements(self, chance):
            with self._trouble():
                self.world.network.lose_replies = chance.choice((1, 3, 10))
                self.last(chance.uniform(1, 5))
                self.world.network.heal()
            return f"{self.world.network.lost} lost so far"

        @fault("broker")
        def silence_network(self, chance):
            """Half-open: connections are there, and nothing passes."""
            seconds = chance.choice((0.5, 3, 12))
            with self._trouble():
                self.world.network.hang()
                self.last(seconds)
                self.world.network.heal()
            return f"for {seconds} s"

        @fault("broker", weight=0.7)
        def refuse_connections(self, chance):
            with self._trouble():
                self.world.network.refuse()
                self.last(chance.uniform(0.5, 5))
                self.world.network.heal()

        @fault("broker", weight=0.7)
        def slow_network(self, chance):
            delay, rate = chance.choice((0.02, 0.2, 1)), chance.choice((0, 0, 200_000))
            with self._trouble():
                self.world.network.delay, self.world.network.rate = delay, rate
                self.last(chance.uniform(2, 8))
                self.world.network.heal()
            return f"{delay} s each way, {rate or 'any number of'} bytes a second"

    @fault("topic", weight=0.7)
    def late_topic(self, chance):
        """The application emits to a topic that somebody creates only later."""
        if len(self.late_topics) >= 4:
            return "enough of them"
        number, partitions = 100 + len(self.late_topics), chance.randint(1, 3)
        seconds = chance.choice((1, 5, 15))
        name = f"{self.load.topics[0].name}-late-{number}"
        self.late_topics.append((name, partitions))
        self.load.add_topic(Topic(number, name, partitions))
        self.last(seconds)
        if not self.ending.is_set():
            with self.held["broker"]:
                self.world.broker.create_topic(name, partitions)
        return f"{name} after {seconds} s"

    @fault("topic")
    def refuse_messages(self, chance):
        """The broker takes only small messages of a topic for a while: larger ones are parked, and retried."""
        topic = self.load.topics[chance.randrange(4)].name
        seconds = chance.choice((1, 4, 10))
        too_soon = chance.random() < 0.5
        with self.held["broker"]:
            self.world.set_topic(topic, **{"max.message.bytes": "800"})
        self.last(seconds / 2)
        if too_soon:
            self._retry(topic)
        self.last(seconds / 2)
        with self.held["broker"]:
            self.world.set_topic(topic, **{"max.message.bytes": None})
        return f"{topic} for {seconds} s, {self._retry(topic)} parked"

    def _retry(self, topic):
        numbers = []
        for database in self.world.databases:
            self._persist(lambda d=database: numbers.append(d.value("SELECT outbox.retry(%s::text)", topic)))
        return sum(numbers)

    # -- operators -------------------------------------------------------------------------------------------

    @fault("operator")
    def pause(self, chance):
        database = self._database(chance)
        with self._relays_stop([database]):
            try:
                database.sql("SELECT outbox.pause()")
                self.last(chance.uniform(0.2, 5))
            finally:
                self._persist(lambda: database.sql("SELECT outbox.resume()"))

    @fault("operator", weight=0.5)
    def disable(self, chance):
        with self._relays_stop():
            try:
                self._persist(lambda: self.server.reload(outbox__enabled="off"))
                self.last(chance.uniform(0.2, 4))
            finally:
                self._persist(lambda: self.server.reload(outbox__enabled=None))

    def _persist(self, action):
        """Whoever puts things right again does not give up because the server is restarting."""

        def tried():
            try:
                action()
                return True
            except psycopg.Error:
                return False

        wait_for(tried, "an operator's command", timeout=120, pause=0.2)

    @fault("operator")
    def change_settings(self, chance):
        database = self._database(chance)
        settings = {
            "outbox__segment_size": chance.choice(("64kB", "1MB", "16MB")),
            "outbox__max_in_flight_messages": str(chance.choice((1, 50, IN_FLIGHT, IN_FLIGHT))),
            "outbox__max_in_flight_bytes": chance.choice(("64kB", "2MB", "32MB")),
        }
        with self._relays_stop([database]):
            self._persist(lambda: database.set(**settings))
            self.last(3)
            usual = {"outbox__max_in_flight_messages": str(IN_FLIGHT), "outbox__segment_size": "16MB"}
            self._persist(lambda: database.set(**usual))
        return ", ".join(settings.values())

    @fault("operator", weight=0.5)
    def reload_often(self, chance):
        with self._relays_stop():
            for _ in range(20):
                self.server.sql("SELECT pg_reload_conf()")

    @fault("table", weight=0.7)
    def rebuild_table(self, chance):
        number, command = chance.randint(1, 4), chance.choice(("VACUUM FULL", "VACUUM", "REINDEX TABLE", "ANALYZE"))
        self._database(chance).sql(f"{command} outbox.segment_{number}")
        return f"{command} {number}"

    @fault("table")
    def lock_like_a_dump(self, chance):
        with self._database(chance).connect(autocommit=False) as session:
            session.execute("LOCK TABLE outbox.segment_1, outbox.segment_2, outbox.segment_3 IN ACCESS SHARE MODE")
            self.last(chance.uniform(0.5, 5))

    @fault("table", weight=0.5)
    def drop_extension_and_think_better_of_it(self, chance):
        database = self._database(chance)
        self._sink_dies(database)  # what needs the database for itself lets the sink finish for a second only
        with database.connect(autocommit=False) as session:
            session.execute("SET lock_timeout = '3s'")
            session.execute("DROP EXTENSION outbox CASCADE")
            session.rollback()

    @fault("table", weight=0.5)
    def read_everything(self, chance):
        """A long report under an old snapshot, as somebody looks at the backlog."""
        with self._database(chance).connect(autocommit=False) as session:
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.execute("SELECT count(*) FROM outbox.messages")
            self.last(chance.uniform(1, 15))

    @fault("table", weight=0.5)
    def checkpoint(self, chance):
        self.server.sql(chance.choice(("CHECKPOINT", "SELECT pg_switch_wal()")))

    @fault("database")
    def another_database(self, chance):
        """Comes with the extension, emits, and is dropped under its relay."""
        self.server.sql("DROP DATABASE IF EXISTS other WITH (FORCE)")
        self.server.sql("CREATE DATABASE other")
        with self.server.connect("other") as session:
            session.execute("CREATE EXTENSION outbox")
            session.execute("SELECT outbox.emit('nobody', 'k', 'p')")
        self.last(chance.uniform(0, 2))
        self.server.sql("DROP DATABASE other WITH (FORCE)")

    @fault("database", weight=0.5)
    def clone_database(self, chance):
        """Refused while sessions are there; the relay has left for it, and comes back."""
        database = self._database(chance)
        self._sink_dies(database)
        try:
            self.server.sql(f"CREATE DATABASE clone TEMPLATE {database.name}")
        except psycopg.errors.ObjectInUse:
            return "refused"
        self.server.sql("DROP DATABASE clone WITH (FORCE)")
        return "cloned"

