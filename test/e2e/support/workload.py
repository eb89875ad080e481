"""Sessions that emit for as long as a test wants, and write down in the same transactions what they did."""

import random
import threading

import psycopg

from support.cluster import CANARY
from support.ledger import Sent

SCHEMA = """
    CREATE TABLE counter (key text PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE ledger (id uuid PRIMARY KEY, topic text, key text, n bigint);
"""


def payload_of(key, n):
    """Payloads are recognised where they do not belong, in a server's log."""
    return f"{CANARY} {key}:{n}"


class Workload:
    """Transactions of `sessions` sessions on `keys` keys.

    Each takes row locks on one to three keys, in a fixed order, and emits one message for each of them; some
    roll back, some use savepoints, and with `prepared` (a probability) some are prepared first. The row of the ledger commits with the message, so after whatever happened
    the ledger table tells what has to arrive, and per key in which order.
    """

    def __init__(self, database, topics, sessions=4, keys=8, rate=None, seed=1, prepared=0.0):
        self.database = database
        self.topics = topics if isinstance(topics, list) else [topics]
        self.keys = [f"k{n}" for n in range(keys)]
        self.random = random.Random(seed)
        self.prepared = prepared
        self.pause = sessions / rate if rate else 0
        self.stopping = threading.Event()
        self.errors = []
        self.committed = 0
        self.threads = [threading.Thread(target=self._session, args=(n,), daemon=True) for n in range(sessions)]
        database.sql(SCHEMA)
        with database.connect() as connection:
            connection.cursor().executemany("INSERT INTO counter VALUES (%s, 0)", [(key,) for key in self.keys])

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a session of the workload hangs"

    def _session(self, number):
        chance = random.Random(self.random.random() + number)
        while not self.stopping.is_set():
            try:
                with self.database.connect(autocommit=False) as connection:
                    while not self.stopping.wait(self.pause):
                        self._transaction(connection, chance)
            except psycopg.OperationalError as error:
                # The server is restarting, or the test terminates sessions: try again.
                self.errors.append(error)
                self.stopping.wait(0.05)

    def _transaction(self, connection, chance):
        topic = chance.choice(self.topics)
        keys = sorted(chance.sample(self.keys, chance.randint(1, 3)))
        for key in keys:
            if chance.random() < 0.1:
                connection.execute("SAVEPOINT s")
                connection.execute("SELECT outbox.emit(%s, %s, 'undone')", (topic, key))
                connection.execute("ROLLBACK TO s")
            connection.execute(
                """
                WITH next AS (UPDATE counter SET n = n + 1 WHERE key = %(key)s RETURNING n)
                INSERT INTO ledger
                SELECT outbox.emit(%(topic)s, %(key)s, concat(%(canary)s::text, ' ', %(key)s::text, ':', n)),
                       %(topic)s, %(key)s, n
                FROM next
                """,
                {"topic": topic, "key": key, "canary": CANARY},
            )
        undo = chance.random() < 0.1
        if chance.random() < self.prepared:
            name = f"load {chance.getrandbits(64):x}"
            connection.execute(f"PREPARE TRANSACTION '{name}'")
            self.stopping.wait(chance.random() * 0.05)
            connection.autocommit = True
            connection.execute(f"{'ROLLBACK' if undo else 'COMMIT'} PREPARED '{name}'")
            connection.autocommit = False
        elif undo:
            connection.rollback()
        else:
            connection.commit()
        self.committed += not undo

    def sent(self):
        return ledger(self.database)


def emit_many(database, topic, keys, first, last):
    """In one transaction: messages numbered `first` to `last`, on `keys` keys of their own."""
    database.sql(
        """
        INSERT INTO ledger
        SELECT outbox.emit(topic, key, concat(%s::text, ' ', key, ':', n)), topic, key, n
        FROM (
            SELECT %s AS topic, concat('many ', mod(n, %s)) AS key, n FROM generate_series(%s::bigint, %s::bigint) AS n
        ) AS s
        """,
        CANARY,
        topic,
        keys,
        first,
        last,
    )


def ledger(database):
    """What the ledger says was committed, in the order of each key's numbers."""
    rows = database.sql("SELECT id::text, topic, key, n FROM ledger ORDER BY n")
    return [Sent(i, topic, key.encode(), payload_of(key, n).encode()) for i, topic, key, n in rows]
