"""The load: sessions whose transactions emit messages and write the same down in a ledger, of every kind there is.

Whatever becomes of a transaction, the ledger tells the truth afterwards: a row of it commits with its message. No
answer that a client got is believed.
"""

import os
import random
import socket
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass

import psycopg
from psycopg import IsolationLevel

from faults.contents import BINARY, DENSE, SCHEMA, TEXT, TOMBSTONE

KEYS = range(40)
# Keys of transactions that stay open or prepared: their row locks are in nobody else's way.
SLOW_KEYS = range(100, 120)
LARGE_KEYS = range(200, 206)
POST = "SELECT post(%s, %s, %s, %s, %s, %s, %s)"
# What may happen to a session while servers restart and others work: serialization failure, deadlock, lock timeout,
# terminated, crashed, starting up, connection lost. Anything else is the outbox's doing.
EXPECTED = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "57P05", "08006", "08003", "08000", None}
# How many sessions commit asynchronously. With 1.0 nobody prepares or finishes, either: that would flush for all.
MOODS = (1.0, 1.0, 0.5, 0.0)
MOOD_SECONDS = 4


@dataclass
class Topic:
    """A topic of a round. With `asked_for`, the load names the partition itself."""

    number: int
    name: str
    partitions: int
    asked_for: bool = False


class Gone(Exception):
    """The session has cut its own connection."""


class Load:
    """Runs `sessions` sessions, and one slow one, in each database, at about `rate` transactions a second in all."""

    def __init__(self, databases, topics, seed, sessions=4, rate=50, largest=1_047_000):
        self.databases = databases
        self.topics = list(topics)
        self.seed = seed
        self.largest = largest
        self.pause = sessions * len(databases) / rate
        self.stopping = threading.Event()
        self.finishing = threading.Event()
        self.away = threading.Event()  # sessions disconnect while it is set
        self.counts = Counter()  # of transactions, by kind, and "committed"
        self.expected_errors = Counter()  # by SQLSTATE
        self.unexpected_errors = []
        self.failures = []  # of the load itself
        self.latencies = {}  # weather -> seconds of plain transactions
        self.weather = lambda: "quiet"
        self.began = time.monotonic()
        self.threads = []
        self.finishers = []
        for place, database in enumerate(databases):
            self.finishers.append(self._thread(self._finish_prepared, database))
            self.threads += [
                self._thread(self._session, database, f"{seed}-{place}-{number}", number == sessions)
                for number in range(sessions + 1)
            ]

    def _thread(self, what, *arguments):
        def run():
            try:
                what(*arguments)
            except Exception:
                self.failures.append(traceback.format_exc())

        return threading.Thread(target=run, daemon=True)

    @property
    def committed(self):
        return self.counts["committed"]

    @property
    def mood(self):
        number = int((time.monotonic() - self.began) / MOOD_SECONDS)
        return random.Random(f"{self.seed}-{number}").choice(MOODS)

    # -- its tables ----------------------------------------------------------------------------------------

    @staticmethod
    def create_tables(database):
        database.sql(SCHEMA)

    def empty_tables(self):
        for database in self.databases:
            with database.connect() as connection:
                connection.execute("SET lock_timeout = '60s'")
                connection.execute("TRUNCATE ledger, counter, topic")
            for topic in self.topics:
                self._announce(database, topic)

    def _announce(self, database, topic):
        keys = [*KEYS, *SLOW_KEYS, *LARGE_KEYS]
        database.sql(
            "WITH t AS (INSERT INTO topic VALUES (%s, %s)) INSERT INTO counter SELECT %s, unnest(%s::integer[]), 0",
            topic.number, topic.name, topic.number, keys,
        )

    def add_topic(self, topic):
        for database in self.databases:
            self._announce(database, topic)
        self.topics.append(topic)

    # -- starting and stopping ---------------------------------------------------------------------------------

    def start(self):
        for thread in self.finishers + self.threads:
            thread.start()

    def stop(self):
        """Ends the sessions; what is prepared is left to finish_prepared()."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a session of the load hangs"

    def stop_finishing(self):
        self.finishing.set()
        for thread in self.finishers:
            thread.join(60)
            assert not thread.is_alive(), "who finishes prepared transactions hangs"

    # -- sessions ------------------------------------------------------------------------------------------

    def _session(self, database, seed, slow):
        session = Session(self, random.Random(seed), slow)
        while not self.stopping.is_set():
            try:
                if self.away.is_set():
                    self.stopping.wait(0.05)
                    continue
                with database.connect(autocommit=False, application_name="load") as connection:
                    session.use(connection)
                    while not self.away.is_set() and not self.stopping.wait(session.pause()):
                        self._one(session)
            except (psycopg.Error, Gone) as error:
                # The server is away, or the nemesis terminates sessions: connect again.
                self._note(error)
                self.stopping.wait(0.05)

    def _one(self, session):
        try:
            session.transaction()
        except psycopg.Error as error:
            if session.connection.closed or session.connection.broken:
                raise
            self._note(error)
            session.connection.rollback()

    def _note(self, error):
        if isinstance(error, Gone):
            return
        state = getattr(error, "sqlstate", None)
        if state in EXPECTED or (state is None and isinstance(error, psycopg.OperationalError)):
            self.expected_errors[state or "connection"] += 1
        else:
            self.unexpected_errors.append(f"{state} {type(error).__name__}: {error}")

    def _finish_prepared(self, database):
        """Prepared transactions wait up to a few seconds, and outlive crashes. Their names say what becomes of them."""
        chance = random.Random(f"{self.seed}-finisher")
        while not self.finishing.is_set():
            try:
                with database.connect(application_name="finisher") as connection:
                    while not self.away.is_set() and not self.finishing.wait(0.2):
                        self._finish_some(connection, chance)
            except psycopg.Error as error:
                self._note(error)
            self.finishing.wait(0.1)

    def _finish_some(self, connection, chance):
        rows = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
        for (gid,) in rows:
            if self.mood == 1.0 and not self.stopping.is_set():
                return
            if self.stopping.is_set() or chance.random() < 0.08:
                connection.execute(f"{'ROLLBACK' if gid.startswith('rollback') else 'COMMIT'} PREPARED '{gid}'")
                self.counts["prepared"] += 1

    def anything_prepared(self):
        return any(
            database.sql("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            for database in self.databases
        )


class Session:
    """What one session does: which transaction comes next is drawn from its own seed."""

    def __init__(self, load, chance, slow):
        self.load = load
        self.chance = chance
        self.slow = slow
        self.kinds = (
            {self.slow_commit: 3, self.prepare: 4, self.old_snapshot: 1}
            if slow
            else {
                self.plain: 70, self.undone_parts: 9, self.large: 0.8, self.roll_back: 6, self.fail: 3,
                self.vanish: 1.5, self.vanish_in_commit: 1.5, self.prepare: 1.5, self.whole: 1,
            }
        )

    def use(self, connection):
        self.connection = connection
        self.asynchronous = None
        connection.execute("SET lock_timeout = '2s'")
        connection.commit()

    def pause(self):
        return self.load.pause if not self.slow else 0.3

    def transaction(self):
        self._follow_the_mood()
        [kind] = self.chance.choices(list(self.kinds), list(self.kinds.values()))
        level = self.chance.random()
        self.connection.isolation_level = (
            IsolationLevel.SERIALIZABLE if level < 0.06 else IsolationLevel.REPEATABLE_READ if level < 0.15 else None
        )
        self.topics = list(self.load.topics)  # those that its snapshot will show
        self.load.counts[kind.__name__] += 1
        kind()

    def _follow_the_mood(self):
        """For some seconds everybody commits asynchronously: a crash then takes back what was visible."""
        asynchronous = self.chance.random() < self.load.mood
        if asynchronous != self.asynchronous:
            self.connection.execute(f"SET synchronous_commit = {'off' if asynchronous else 'on'}")
            self.connection.commit()
            self.asynchronous = asynchronous

    # -- parts of a transaction ----------------------------------------------------------------------------

    def _post(self, topic, key, number=1, size=0, shape=TEXT, fate=None):
        parts = topic.partitions if topic.asked_for and key is not None else -1
        self.connection.execute(POST, (topic.number, key, number, size, shape, fate, parts))

    def _size(self):
        dice = self.chance.random()
        if dice < 0.80:
            return self.chance.randint(0, 400)
        if dice < 0.95:
            return self.chance.randint(400, 4000)
        if dice < 0.98:
            return TOMBSTONE
        return self.chance.randint(20_000, 110_000) if dice < 0.992 else 0

    def _posts(self, keys=KEYS, fate=None, most=3):
        """On some keys of some topics, mostly in the order of their locks."""
        places = [
            (self.chance.randrange(len(self.topics)), self.chance.choice(keys))
            for _ in range(self.chance.randint(1, most))
        ]
        if self.chance.random() < 0.95:
            places.sort()
        for topic, key in places:
            dice = self.chance.random()
            number = 1 if dice < 0.6 else self.chance.randint(2, 10) if dice < 0.93 else self.chance.randint(30, 60)
            size = self._size() if number == 1 else self.chance.randint(0, 400)
            shape = DENSE if size > 20_000 and dice < 0.5 else self.chance.choice((TEXT, BINARY))
            keyless = fate is None and self.chance.random() < 0.08
            self._post(self.topics[topic], None if keyless else key, number, size, shape, fate)

    def _commit(self):
        self.connection.commit()
        self.load.counts["committed"] += 1

    # -- kinds of transactions -----------------------------------------------------------------------------

    def plain(self):
        weather = self.load.weather()
        began = time.monotonic()
        self._posts()
        self._commit()
        if weather == self.load.weather():
            self.load.latencies.setdefault(weather, []).append(time.monotonic() - began)

    def undone_parts(self):
        """Savepoints that are rolled back, some of them one in another, and exception blocks."""
        execute = self.connection.execute
        self._posts(most=1)
        execute("SAVEPOINT one")
        self._posts(fate="savepoint", most=2)
        if self.chance.random() < 0.5:
            execute("SAVEPOINT two")
            self._posts(fate="inner savepoint", most=1)
            execute("RELEASE SAVEPOINT two")
        execute("ROLLBACK TO SAVEPOINT one")
        topic = self.chance.choice(self.topics)
        execute("SELECT post_in_vain(%s, %s, %s, 100, 0)", (topic.number, self.chance.choice(KEYS), 2))
        self._posts(most=1)
        self._commit()

    def large(self):
        topic = self.chance.choice(self.topics)
        self._post(topic, self.chance.choice(LARGE_KEYS), self.chance.randint(200, 3000), 150)
        self._commit()

    def whole(self):
        """A message of the largest size there is, or of next to it."""
        topic = self.chance.choice(self.topics)
        dense = self.chance.random() < 0.5
        size = self.load.largest - self.chance.choice((0, 0, 300_000, 800_000))
        self._post(topic, self.chance.choice(LARGE_KEYS), 1, size, DENSE if dense else TEXT)
        self._commit()

    def roll_back(self):
        self._posts(fate="rollback")
        self.connection.rollback()

    def fail(self):
        self._posts(fate="error")
        try:
            self.connection.execute("SELECT 1 / 0")
        except psycopg.errors.DivisionByZero:
            self.connection.rollback()

    def vanish(self):
        """The client is gone in the middle of a transaction."""
        self._posts(fate="vanished client")
        self._cut()

    def vanish_in_commit(self):
        """The client is gone while its commit is under way: only the ledger knows what became of it."""
        self._posts()
        self.connection.pgconn.send_query(b"COMMIT")
        self.connection.pgconn.flush()
        time.sleep(self.chance.choice((0, 0.001)))
        self._cut()

    def _cut(self):
        with socket.socket(fileno=os.dup(self.connection.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
        raise Gone

    def prepare(self):
        if self.load.mood == 1.0:
            self.slow_commit()
            return
        undo = self.chance.random() < 0.25
        self._posts(keys=SLOW_KEYS, fate="rollback prepared" if undo else None, most=2)
        name = f"{'rollback' if undo else 'commit'} {self.chance.getrandbits(60):x}"
        self.connection.execute(f"PREPARE TRANSACTION '{name}'")

    def slow_commit(self):
        """Open for seconds with its messages emitted, at times with its locks on busy keys."""
        self._posts(keys=SLOW_KEYS, most=2)
        self.load.stopping.wait(self.chance.choice((0.2, 0.5, 1, 4)))
        self._commit()

    def old_snapshot(self):
        self.connection.isolation_level = IsolationLevel.REPEATABLE_READ
        self.connection.execute("SELECT count(*) FROM topic")
        self.load.stopping.wait(self.chance.choice((1, 3, 6)))
        self._posts(keys=SLOW_KEYS, most=1)
        self._commit()
