"""A crash, or an error, at every step between emit() and the emptied segment; and races stopped half-way.

The steps are found in the library and in the sinks themselves (src/fault_point.hpp): a new one is tested by being
there. They need `make fault-points`.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections import Counter

import psycopg
import pytest

from support.fault_points import FILE_SINK, KAFKA_SINK, LIBRARY, FaultyCluster, install, marks_in, points
from support.files import read_messages
from support.kafka import EmbeddedBroker
from support.ledger import check
from support.processes import alive, give_to_server_user
from support.waiting import wait_for
from support.workload import emit_many

pytestmark = pytest.mark.fault_points

SERVER_POINTS = points(LIBRARY)
# An error there would be one after the commit, which no process may raise.
NO_ERROR = {"session-before-wake"}


@pytest.fixture(scope="module")
def programs(base_directory):
    return install(base_directory / "faulty")


def make_server(programs, directory, template, **settings):
    server = FaultyCluster(directory)
    server.bin = programs
    server.create(template).configure(**settings).start()
    server.expect_crash()
    return server


@pytest.fixture(scope="module")
def faulty(programs, base_directory, template):
    """A server with fault points whose ring turns every second."""
    server = make_server(
        programs,
        base_directory / "pg-faulty",
        template,
        outbox__segment_size="64kB",
        outbox__segment_max_age="1s",
        outbox__retention="0",
        restart_after_crash="on",
    )
    original = server.database("with_outbox", outbox__sink="file", outbox__file_path="/dev/null")
    original.emit("t", "k", "p")
    original.drain()
    server.sql("ALTER DATABASE with_outbox ALLOW_CONNECTIONS false")
    yield server
    server.release_all()
    server.remove()


@pytest.fixture(scope="module")
def faulty_broker(base_directory):
    broker = EmbeddedBroker(base_directory / "faulty-broker.log").start()
    yield broker
    broker.stop()


numbers = itertools.count(1)


@pytest.fixture
def scene(faulty, workload):
    """A database of the test's own, and a little load for it, neither of them started yet."""
    made = []

    def make(broker=None):
        made.append(Scene(faulty, f"d{next(numbers)}", broker, workload))
        return made[-1]

    yield make
    faulty.release_all()
    for scene in made:
        patiently(lambda scene=scene: scene.database.drop(force=True))


def patiently(action):
    """Does something that fails while the server recovers from a crash."""

    def attempt():
        try:
            action()
            return True
        except psycopg.OperationalError:
            return False

    wait_for(attempt, "a server that answers", timeout=60)


class Scene:
    """A database whose messages go to a file, or to a broker if one is given, and its load."""

    def __init__(self, server, name, broker, workload):
        self.server = server
        self.broker = broker
        self.stimulated = False
        self.many = 0
        self.topics = [f"{name}.good", f"{name}.moody"]
        self.file = server.directory / f"{name}.jsonl"
        self.options = server.directory / f"{name}.properties"
        self.refuse()
        self.database = server.database(name, extension=False)
        if broker:
            for topic in self.topics:
                broker.create_topic(topic)
            self.database.set(outbox__kafka_bootstrap_servers=broker.bootstrap)
        else:
            self.database.set(
                outbox__sink="file", outbox__file_path=self.file, outbox__file_config_file=self.options
            )
        self.load = workload(self.database, self.topics, sessions=2, keys=5, rate=300)

    def refuse(self, *topics, delay_ms=0):
        """The sink refuses these topics, and messages that say so; it may take its time for each message."""
        lines = ["refuse.message.containing=poison", f"delay.ms={delay_ms}", *(f"refuse.topic={t}" for t in topics)]
        new = self.options.with_suffix(".new")
        new.write_text("\n".join([*lines, ""]))
        new.chmod(0o600)
        give_to_server_user(new)
        new.rename(self.options)

    def install(self):
        patiently(lambda: self.database.sql("CREATE EXTENSION IF NOT EXISTS outbox"))

    def received(self):
        return self.broker.read(*self.topics) if self.broker else read_messages(self.file)

    # -- what makes processes come to the rarer points --

    def trouble(self):
        """A topic is refused for a while, and a message for ever."""
        if not self.broker:
            moody = self.topics[1]
            self.refuse(moody)
            self.database.emit(moody, "poisoned", "poison")
            self.many += 1200
            emit_many(self.database, moody, 5, self.many - 1199, self.many)
            wait_for(lambda: self.database.status()["state"] == "waiting", "a topic that waits", timeout=10)
            # So that some answers come after the topic has come back to normal.
            self.refuse(delay_ms=1)

    def end_of_relay(self):
        self.database.sql("SELECT pg_terminate_backend(%s)", self.database.wait_for_relay(timeout=10))

    def end_of_sink(self):
        os.kill(self.database.wait_for_sink(timeout=10), signal.SIGKILL)

    def copy(self):
        """A copy of a database with nothing to send is adopted."""
        name = f"{self.database.name}c"
        self.server.sql(f'CREATE DATABASE "{name}" TEMPLATE with_outbox')
        wait_for(lambda: name in self.server.workers("relay"), "a relay for the copy", timeout=10)
        self.server.sql(f'DROP DATABASE "{name}" WITH (FORCE)')

    def lure(self, point):
        """Does one thing after the other until some process has come to the point."""
        stimuli = [None, self.trouble, self.end_of_sink, self.end_of_relay, self.copy]
        # What brings it there soonest, where that is known.
        for part, stimulus in {
            "recovery-": self.trouble,
            "-copy": self.copy,
            "leaving": self.end_of_relay,
            "an-end": self.end_of_relay,
            "draining": self.end_of_relay,
            "taking-back": self.end_of_sink,
        }.items():
            if part in point:
                stimuli.insert(0, stimulus)
        for stimulus in stimuli:
            if stimulus:
                self.stimulated = True
                with contextlib.suppress(psycopg.OperationalError, AssertionError, ProcessLookupError, TypeError):
                    stimulus()
            with contextlib.suppress(AssertionError):
                self.server.wait_until_passed(point, timeout=2.5)
                return
        self.server.wait_until_passed(point)

    def run(self, point):
        """Load, until the point has been passed and for a while after; then everything has to have arrived."""
        with self.load:
            self.lure(point)
            self.refuse()
            reached = self.load.committed
            wait_for(lambda: self.load.committed >= reached + 40, "load after the fault", timeout=60)
        patiently(lambda: self.database.drain(60))

    def check(self, duplicates_allowed):
        received = self.received()
        check(self.load.sent(), received, duplicates_allowed=duplicates_allowed or self.stimulated)
        copies = max(Counter(message.id for message in received).values())
        assert copies <= 2 or self.stimulated, "one fault, and a message was sent more than twice"
        assert self.database.status()["backlog"] == 0


def server_faults():
    for point in SERVER_POINTS:
        yield pytest.param(point, "crash", id=f"{point}-crash")
        if point not in NO_ERROR:
            yield pytest.param(point, "error", id=f"{point}-error")


def test_there_are_fault_points():
    for binary in (LIBRARY, FILE_SINK, KAFKA_SINK):
        assert marks_in(binary), f"{binary} has no fault points: make fault-points"
    assert len(SERVER_POINTS) > 30 and len(points(FILE_SINK)) > 5 and len(points(KAFKA_SINK)) > 5


@pytest.mark.crash
@pytest.mark.parametrize("point, action", list(server_faults()))
def test_a_step_in_the_server(scene, point, action):
    """The server recovers by itself, or the process is started anew: nothing lost, invented or out of order."""
    stage = scene()
    stage.server.arm(point, action)
    stage.install()
    stage.run(point)
    # A session's error is its transaction's alone.
    stage.check(duplicates_allowed=action == "crash" or not point.startswith(("session-", "launcher-")))


@pytest.mark.parametrize("point", points(FILE_SINK))
def test_a_step_in_the_file_sink(scene, point):
    stage = scene()
    stage.install()
    stage.server.arm(point, "crash")
    stage.run(point)
    assert not stage.load.errors, "no session notices"
    stage.check(duplicates_allowed=True)


@pytest.mark.parametrize("point", points(KAFKA_SINK))
def test_a_step_in_the_kafka_sink(scene, faulty_broker, point):
    stage = scene(faulty_broker)
    stage.install()
    stage.server.arm(point, "crash")
    stage.run(point)
    assert not stage.load.errors, "no session notices"
    stage.check(duplicates_allowed=True)


# -- races that are stopped half-way ------------------------------------------------------------------------

WRITER_STEPS = [
    "session-before-lock",
    "session-after-lock",
    "session-after-xid",
    "session-after-first-position",
    "session-before-last-insert",
    "session-after-last-insert",
    "session-before-return",
]


class Writer:
    """A session that emits one message and is stopped at a point on its way through the commit."""

    def __init__(self, database, point, value, key="late", prepare=""):
        self.server, self.point = database.cluster, point
        self.error = None
        self.session = database.connect()
        self.session.execute(prepare or "SELECT 1")
        self.thread = threading.Thread(target=self._emit, args=(key, value), daemon=True)
        self.server.arm(point, "wait")
        self.thread.start()
        self.server.wait_for_waiting(point)

    def _emit(self, key, value):
        try:
            self.session.execute("SELECT outbox.emit('t', %s, %s)", (key, value))
        except psycopg.Error as error:
            self.error = error

    def go_on(self):
        self.server.release(self.point)
        self.join()

    def join(self):
        self.thread.join(30)
        assert not self.thread.is_alive(), "the session hangs"
        self.session.close()


@pytest.fixture
def database(scene):
    """A database without load, whose messages go to `file`."""
    stage = scene()
    stage.install()
    stage.database.file = stage.file
    stage.database.wait_for_relay()
    return stage.database


def values(database):
    return [message.value.decode() for message in read_messages(database.file)]


def pass_by(database, count=5):
    """Messages of others, each read by the relay in a pass of its own, or more."""
    for _ in range(count):
        database.emit("t", "others", "other")
        database.drain()


@pytest.mark.parametrize("point", WRITER_STEPS)
def test_a_slow_writer_is_waited_for_and_holds_up_nobody(database, point):
    """It has a lock, a transaction id, a position or a row that nobody sees yet: its gap is not given up."""
    writer = Writer(database, point, "late")
    pass_by(database)
    # What is remembered of it must survive the relay.
    relay = database.wait_for_relay()
    database.sql("SELECT pg_terminate_backend(%s)", relay)
    database.wait_for_relay(other_than=relay)
    pass_by(database)
    assert values(database) == ["other"] * 10
    writer.go_on()
    assert not writer.error
    database.drain()
    assert sorted(values(database)) == ["late"] + ["other"] * 10
    assert database.status()["backlog"] == 0


@pytest.mark.parametrize("looks", range(4))
@pytest.mark.parametrize("point", ["relay-before-snapshot", "relay-after-snapshot", "relay-before-verdict"])
def test_commit_while_the_relay_decides_about_its_gap(database, point, looks):
    """The relay has looked at the gap a few times, and is in the middle of one more look."""
    writer = Writer(database, "session-after-first-position", "late")
    pass_by(database, looks)
    database.cluster.arm(point, "wait")
    database.emit("t", "others", "last")
    database.cluster.wait_for_waiting(point)
    writer.go_on()
    database.cluster.release(point)
    database.drain()
    # Twice more: whoever was given up would not come any more.
    pass_by(database, 2)
    assert values(database).count("late") == 1
    assert len(values(database)) == looks + 4
    assert database.status()["backlog"] == 0


def test_status_counts_a_gap_that_was_filled_since_the_relay_looked(database):
    """Neither the row nor its owner was there when the relay looked, and it does not look again."""
    writer = Writer(database, "session-after-first-position", "late")
    pass_by(database, 2)
    assert database.status()["backlog"] == 0
    relay = database.wait_for_relay()
    os.kill(relay, signal.SIGSTOP)
    try:
        writer.go_on()
        assert database.status()["backlog"] == 1
    finally:
        os.kill(relay, signal.SIGCONT)
    database.drain()
    assert values(database).count("late") == 1
    assert database.status()["backlog"] == 0


@pytest.mark.parametrize("point", WRITER_STEPS)
def test_a_writer_that_is_cancelled_in_its_commit(database, point):
    """Its transaction is undone and says so; nothing is sent, and its gap closes."""
    writer = Writer(database, point, "never")
    pass_by(database, 2)
    database.sql("SELECT pg_cancel_backend(%s)", writer.session.info.backend_pid)
    writer.join()
    assert isinstance(writer.error, psycopg.errors.QueryCanceled)
    pass_by(database, 2)
    assert values(database) == ["other"] * 4
    status = wait_for(lambda: (s := database.status())["backlog"] == 0 and s, "an empty backlog")
    assert status["watermark"] >= 4


def test_a_row_in_a_segment_that_is_about_to_be_emptied(database):
    """A writer locked the active segment, the ring went on, the relay is about to empty the old one: under the
    lock it looks once more."""
    database.emit("t", "k", "first")
    database.drain()
    segment = database.status()["active_segment"]
    writer = Writer(database, "session-after-lock", "late")

    def switched():
        pass_by(database, 1)
        return database.status()["active_segment"] != segment

    wait_for(switched, "another segment", pause=0.2)
    # It tries the lock again and again, in vain as long as the writer has it.
    database.cluster.arm("ring-before-lock", "wait")
    database.emit("t", "others", "other")
    database.cluster.wait_for_waiting("ring-before-lock")
    writer.go_on()
    assert not writer.error
    database.cluster.release("ring-before-lock")
    database.drain()
    assert values(database).count("late") == 1
    assert database.status()["backlog"] == 0


@pytest.mark.parametrize("committed", [True, False])
def test_pause_while_the_relay_finds_out_whose_messages_these_are(faulty, scene, committed):
    """Its first look found nobody's word; an operator's, which comes right then, is not overwritten, nor waited for."""
    one = scene()
    point = "relay-before-adopting"
    faulty.arm(point, "wait")
    one.install()
    one.database.emit("t", "k", "kept")
    faulty.wait_for_waiting(point)
    with one.database.connect(autocommit=False) as operator:
        operator.execute("SELECT outbox.pause()")
        if committed:
            operator.commit()
        else:
            # It comes by again, so it does not wait for the operator's lock.
            faulty.arm(point, "wait")
            (faulty.faults / f"{point}.waiting").unlink()
            faulty.wait_for_waiting(point)
    faulty.release(point)
    one.database.wait_for_state("paused")
    assert not one.received()
    one.database.sql("SELECT outbox.resume()")
    one.database.drain()
    assert [m.value for m in one.received()] == [b"kept"]


def test_drop_database_while_its_relay_is_being_started(faulty, database):
    """The launcher has decided to start a relay; the database is gone when that begins its life."""
    faulty.sql("CREATE DATABASE short_life")
    wait_for(lambda: "short_life" not in faulty.workers("relay"), "the relay that finds no extension")
    faulty.arm("launcher-before-registering", "wait")
    faulty.sql("CREATE EXTENSION outbox", database="short_life")
    faulty.wait_for_waiting("launcher-before-registering")
    faulty.sql("DROP DATABASE short_life")
    lines = len(faulty.log_text().splitlines())
    faulty.release("launcher-before-registering")
    # The launcher is well, and others are served.
    relay = database.wait_for_relay()
    database.sql("SELECT pg_terminate_backend(%s)", relay)
    database.wait_for_relay(other_than=relay)
    database.emit("t", "k", "p")
    database.drain()
    assert len(faulty.log_text().splitlines()) - lines < 20


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_commit_while_a_topic_catches_up(faulty, scene, turn):
    """What is committed while the relay goes from one turn to the next without waiting is sent all the same."""
    one = scene()
    one.install()
    good, moody = one.topics
    one.refuse(moody)
    for n in range(3):
        one.database.emit(moody, "k", f"{n}")
    one.database.wait_for_state("waiting")
    point = "recovery-before-commit"
    faulty.arm(point, "wait")
    one.refuse()
    for _ in range(turn - 1):
        faulty.wait_for_waiting(point)
        faulty.arm(point, "wait")
        (faulty.faults / f"{point}.waiting").unlink()
    faulty.wait_for_waiting(point)
    one.database.emit(good, "k", "in between")
    faulty.release_all()
    wait_for(lambda: any(m.value == b"in between" for m in one.received()), "message in between", timeout=15)
    one.database.drain()


@pytest.mark.parametrize("point", ["relay-after-snapshot", "relay-before-verdict", "relay-after-report"])
def test_commit_during_a_turn(faulty, scene, point):
    """What is committed while the relay looks elsewhere is sent although nothing else happens."""
    one = scene()
    one.install()
    topic, _ = one.topics
    one.database.emit(topic, "k", "before")
    one.database.drain()
    faulty.arm(point, "wait")
    one.database.emit(topic, "k", "looked for")
    faulty.wait_for_waiting(point)
    one.database.emit(topic, "k", "meanwhile")
    faulty.release_all()
    wait_for(lambda: any(m.value == b"meanwhile" for m in one.received()), "message committed meanwhile", timeout=15)
    one.database.drain()


# -- crashes of a server whose WAL is not written yet, and stops in the middle --------------------------------


@pytest.fixture
def lazy(programs, base_directory, template):
    """A server of the test's own that writes WAL only when somebody insists."""
    number = len(list(base_directory.glob("pg-lazy*")))
    server = make_server(
        programs,
        base_directory / f"pg-lazy{number}",
        template,
        wal_writer_delay="10s",
        wal_writer_flush_after="1GB",
        wal_buffers="16MB",
    )
    yield server
    server.release_all()
    server.remove()


@pytest.fixture
def lazy_database(lazy):
    file = lazy.directory / "m.jsonl"
    database = lazy.database("app", outbox__sink="file", outbox__file_path=file)
    database.file = file
    database.sql("CREATE TABLE done (what text)")
    database.emit("t", "k", "first")
    database.drain()
    # Saving that is still to be done for this one is none of a test's.
    unsaved = "SELECT count(*) FROM outbox.messages WHERE NOT settled"
    wait_for(lambda: database.value(unsaved) == 0, "progress to be written")
    return database


def emit_asynchronously(database, what):
    with database.connect(autocommit=False) as session:
        session.execute("SET LOCAL synchronous_commit = off")
        session.execute("INSERT INTO done VALUES (%s)", (what,))
        session.execute("SELECT outbox.emit('t', 'k', %s)", (what,))


def test_commit_that_is_not_on_disk_does_not_leave(lazy, lazy_database):
    """synchronous_commit = off, and a crash before the flush: neither the row nor the message was ever there."""
    database = lazy_database
    lazy.arm("relay-before-wal-flush", "wait")
    emit_asynchronously(database, "taken back")
    lazy.wait_for_waiting("relay-before-wal-flush")
    assert values(database) == ["first"]
    lazy.stop("immediate")
    lazy.release_all()
    lazy.start()
    database.drain()
    kept = [what for (what,) in database.sql("SELECT what FROM done")]
    # Somebody else may have flushed in between; what counts is that both are there or neither is.
    assert list(dict.fromkeys(values(database))) == ["first", *kept]
    print(f"\nthe crash took the commit back: {not kept}")


def test_what_has_left_survives_a_crash(lazy, lazy_database):
    """After the flush the row is safe, so its message may go."""
    database = lazy_database
    lazy.arm("relay-after-wal-flush", "wait")
    emit_asynchronously(database, "kept")
    lazy.wait_for_waiting("relay-after-wal-flush")
    lazy.stop("immediate")
    lazy.release_all()
    lazy.start()
    assert database.sql("SELECT what FROM done") == [("kept",)]
    database.drain()
    assert list(dict.fromkeys(values(database))) == ["first", "kept"]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("point", ["relay-before-report", "relay-after-report", "relay-before-saving"])
def test_stop_between_acknowledgement_and_saving(lazy, lazy_database, point, mode):
    """Once more after a crash, at most; never after a clean stop."""
    database = lazy_database
    lazy.arm(point, "wait")
    database.emit("t", "k", "p")
    lazy.wait_for_waiting(point)
    wait_for(lambda: values(database) == ["first", "p"], "message p")
    sink = database.sink_pid
    lazy.stop(mode)
    wait_for(lambda: not alive(sink), "the end of the sink", timeout=5)
    lazy.release_all()
    lazy.start()
    database.drain()
    database.emit("t", "k", "after")
    database.drain()
    arrived = values(database)
    assert list(dict.fromkeys(arrived)) == ["first", "p", "after"]
    if mode == "fast":
        assert len(arrived) == 3
    assert arrived.count("p") <= 2


@pytest.mark.parametrize("point", ["session-after-first-position", "session-before-return"])
def test_stop_while_a_session_commits(lazy, lazy_database, point):
    """A fast stop breaks it off; nothing of it is ever sent."""
    database = lazy_database
    writer = Writer(database, point, "never")
    lazy.stop("fast")
    writer.join()
    assert isinstance(writer.error, psycopg.OperationalError)
    lazy.release_all()
    lazy.start()
    database.emit("t", "k", "after")
    database.drain()
    assert values(database) == ["first", "after"]


@pytest.mark.parametrize("point", ["file-before-writing", "sink-after-receiving", "relay-before-sending"])
def test_progress_saved_while_messages_are_on_their_way(lazy, lazy_database, point):
    """What is saved then says that they are not settled: after a crash they are sent."""
    database = lazy_database
    lazy.arm(point, "wait")
    database.sql("SELECT count(outbox.emit('t', 'k', n::text)) FROM generate_series(1, 20) AS n")
    lazy.wait_for_waiting(point)
    saved = "SELECT max(watermark) FROM (TABLE outbox.progress_1 UNION ALL TABLE outbox.progress_2) AS p"
    if point != "relay-before-sending":
        wait_for(lambda: database.value(saved) >= 21, "progress beyond the messages")
    # On disk with everything before it.
    database.sql("INSERT INTO done VALUES ('flush')")
    assert values(database) == ["first"]
    lazy.stop("immediate")
    lazy.release_all()
    lazy.start()
    database.drain()
    assert list(dict.fromkeys(values(database))) == ["first", *(str(n) for n in range(1, 21))]
