"""A load of every kind of transaction while random things go wrong; afterwards the books are compared.

OUTBOX_TEST_SEED and OUTBOX_TEST_SECONDS repeat and prolong it.
"""

import os
import random
import signal
import time

import pytest

from support.kafka import RealKafka
from support.ledger import check, duplicates
from support.waiting import wait_for

SEED = int(os.environ.get("OUTBOX_TEST_SEED", "20"))
DURATION = float(os.environ.get("OUTBOX_TEST_SECONDS", "15"))


HELPERS = {"__init__", "__module__", "__doc__", "__dict__", "__weakref__", "broker_pid", "finish_orphans", "heal"}


class Nemesis:
    """Things that go wrong, or that operators do. Each leaves the system able to heal."""

    def __init__(self, chance, database, broker):
        self.chance = chance
        self.database = database
        self.server = database.cluster
        self.broker = broker
        self.open_transactions = []

    @property
    def broker_pid(self):
        return int((self.broker.directory / "pid").read_text())

    def kill_sink(self):
        pid = self.database.sink_pid
        if pid:
            os.kill(pid, self.chance.choice([signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV]))

    def terminate_workers(self):
        which = self.chance.choice(["relay", "launcher", "%"])
        self.server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'outbox ' || %s", which
        )

    def restart_server(self):
        self.server.restart(self.chance.choice(["fast", "immediate"]))

    def kill_postmaster(self):
        os.kill(self.server.postmaster_pid, signal.SIGKILL)
        self.server.recover_after_kill()

    def suspend_broker(self):
        os.kill(self.broker_pid, signal.SIGSTOP)
        time.sleep(self.chance.random())
        os.kill(self.broker_pid, signal.SIGCONT)

    def restart_broker(self):
        os.kill(self.broker_pid, signal.SIGKILL)
        wait_for(lambda: not os.path.exists(f"/proc/{self.broker_pid}"), "the end of the broker")
        self.broker.start()

    def suspend_sink(self):
        pid = self.database.sink_pid
        if pid:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.chance.random() / 2)
            os.kill(pid, signal.SIGCONT)

    def pause_for_a_while(self):
        self.database.sql("SELECT outbox.pause()")
        time.sleep(self.chance.random() / 2)
        self.database.sql("SELECT outbox.resume()")

    def reload_with_other_settings(self):
        self.database.set(
            outbox__segment_size=self.chance.choice(["64kB", "256kB", "1MB"]),
            outbox__max_in_flight_messages=str(self.chance.choice([1, 50, 5000])),
        )
        self.server.sql("SELECT pg_reload_conf()")

    def open_a_transaction(self):
        session = self.database.connect(autocommit=False)
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT outbox.emit('never', 'k', 'p')")
        self.open_transactions.append(session)

    def lock_like_a_dump(self):
        with self.database.connect(autocommit=False) as session:
            session.execute("LOCK TABLE outbox.segment_1, outbox.segment_2 IN ACCESS SHARE MODE")
            time.sleep(self.chance.random() / 2)

    def rebuild_tables(self):
        self.database.sql(f"VACUUM FULL outbox.segment_{self.chance.randint(1, 4)}")

    def finish_orphans(self):
        """What a restart left prepared has row locks, and nobody else who would finish it."""
        for (name,) in self.database.sql("SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - interval '1 s'"):
            self.database.sql(f"{self.chance.choice(['COMMIT', 'ROLLBACK'])} PREPARED '{name}'")

    def heal(self):
        for session in self.open_transactions:
            session.close()


@pytest.mark.timeout(120 + DURATION)
def test_everything_at_once(make_cluster, base_directory, workload, kafka):
    server = make_cluster()
    broker = RealKafka(base_directory / "kafka-of-chaos").start()
    try:
        database = server.database(
            "app",
            outbox__kafka_bootstrap_servers=broker.bootstrap,
            outbox__segment_size="256kB",
            outbox__retention="0",
        )
        topics = [broker.create_topic("a", 3), broker.create_topic("b", 1), "late"]
        load = workload(database, topics, sessions=6, keys=10, rate=300, seed=SEED, prepared=0.05)
        nemesis = Nemesis(random.Random(SEED), database, broker)
        faults = [getattr(nemesis, name) for name in vars(Nemesis) if name.islower() and name not in HELPERS]
        story = []

        def goes_on(seen):
            nemesis.finish_orphans()
            return load.committed > seen + 20

        with load:
            began = time.monotonic()
            while time.monotonic() - began < DURATION:
                reached = load.committed
                wait_for(lambda seen=reached: goes_on(seen), f"load after {story}", pause=0.05)
                fault = nemesis.chance.choice(faults)
                story.append(fault.__name__)
                fault()
        nemesis.heal()
        broker.create_topic("late", 2)
        print(f"\nseed {SEED}: {', '.join(story)}")
        wait_for(
            lambda: nemesis.finish_orphans() or not database.sql("SELECT FROM pg_prepared_xacts"),
            "the end of what was prepared",
        )
        database.drain(60)
        wait_for(lambda: database.status()["backlog"] == 0, "an empty backlog")
        arrived = broker.read(*topics)
        print(f"{load.committed} transactions, {len(arrived)} messages, {duplicates(arrived)} of them duplicates")
        check(load.sent(), arrived, duplicates_allowed=True)
    finally:
        broker.stop(remove=True)
