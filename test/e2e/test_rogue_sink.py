"""A sink that sends rubbish: the relay drops it, says so, and nothing else happens to anybody.

The server here is a copy whose library folder holds support/rogue_sink.py as the sink "rogue".
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from support.cluster import CANARY, Cluster, private_installation
from support.files import read_messages
from support.ledger import Sent, check
from support.processes import give_to_server_user, private_memory
from support.waiting import Stopwatch, wait_for

BROKE = "the sink outbox-rogue broke the protocol: "

# What it does, and what is then to be read in outbox.status.
MODES = {
    "four_gigabytes": BROKE + "a frame of type 76 with 4294967295 bytes",
    "large_statistics": BROKE + "a frame of type 84 with 10485766 bytes",
    "statistics_that_are_none": BROKE + "a damaged Statistics report",
    "unknown_frame": BROKE + "a frame of type 63",
    "frame_of_a_relay": BROKE + "a frame of type 68",
    "another_version": BROKE + "it speaks version ",
    "ready_twice": BROKE + "it said Ready twice",
    "delivered_before_ready": BROKE + "it answered for message 1, which it does not have",
    "delivered_never_sent": BROKE + "it answered for message 9223372036854775808, which",
    "delivered_before_it_was_sent": BROKE + "it answered for message",
    "delivered_twice": BROKE + "it answered for message 1, which it does not have",
    "half_a_number": BROKE + "a damaged Delivered report of 3 bytes",
    "nothing_delivered": BROKE + "a damaged Delivered report of 0 bytes",
    "failed_with_text_beyond_its_body": BROKE + "a damaged Failed report",
    "failed_in_an_unknown_way": BROKE + "a damaged Failed report",
    "condition_of_odd_sizes": BROKE + "a damaged Condition report",
    "noise": BROKE,
    "half_a_frame": "the sink outbox-rogue ended with exit status 3",
}

# Far more than a relay needs, far less than what the sinks here would have it keep.
MOST_MEMORY = 48 << 20


@pytest.fixture(scope="module")
def rogue_server(base_directory, template):
    directory = base_directory / "pg-rogue"
    programs, library = private_installation(base_directory / "pg-rogue-installation")
    program = library / "outbox-rogue"
    shutil.copy(Path(__file__).parent / "support" / "rogue_sink.py", program)
    program.chmod(0o755)
    server = Cluster(directory, programs).create(template).start()
    server.rogue_options = library / "rogue.json"
    yield server
    server.remove()


class Rogue:
    """A database whose sink is the rogue one in one of its modes."""

    def __init__(self, server, mode):
        self.server, self.mode = server, mode
        self.file = server.directory / f"{mode}.jsonl"
        self.file.unlink(missing_ok=True)
        server.rogue_options.write_text(json.dumps({"mode": mode, "file": str(self.file)}))
        give_to_server_user(server.rogue_options)
        self.log_before = len(server.log_text())
        self.started = server.sql("SELECT pg_postmaster_start_time()")
        self.database = server.database(mode, outbox__sink="rogue", outbox__file_path=self.file)
        self.database.sql("CREATE TABLE ledger (n serial, id uuid, key text, payload text)")
        self.relay = self.database.wait_for_relay()

    def emit(self, count=20):
        """In as many transactions, to none of which the sink makes a difference."""
        slowest = 0
        for _ in range(count):
            watch = Stopwatch()
            self.emit_at_once(1, 10)
            slowest = max(slowest, watch.seconds)
        assert slowest < 2

    def emit_at_once(self, count, size):
        """Messages that are recognised where they do not belong, in a log."""
        self.database.sql(
            """
            INSERT INTO ledger (id, key, payload)
            SELECT outbox.emit('t', key, payload), key, payload
            FROM (
                SELECT concat('k', mod(n, 3)) AS key, concat(%s::text, ' ', n, repeat('x', %s)) AS payload
                FROM generate_series(1, %s) AS n
            ) AS s
            """,
            CANARY,
            size,
            count,
        )

    def log(self):
        """What was logged since this began."""
        return self.server.log_text()[self.log_before :]

    def wait_for_error(self, words):
        wait_for(lambda: words in (self.database.status()["last_error"] or ""), f"the error: {words}")

    def tries(self):
        """How many messages the sink has returned."""
        counter = Path(f"{self.file}.returned")
        return counter.stat().st_size if counter.exists() else 0

    def check_harmless(self):
        assert self.server.sql("SELECT pg_postmaster_start_time()") == self.started
        assert self.database.relay_pid == self.relay, "the relay itself goes on"
        assert private_memory(self.relay) < MOST_MEMORY
        log = self.log()
        assert len(log) < 64 * 1024
        assert not re.search(r"[^\x20-\x7e\n\t]", log), "a sink's bytes reach the log as plain text"
        assert not self.server.complaints()

    def check_recovery(self):
        """With a good sink in its place, everything arrives."""
        self.database.set(outbox__sink="file")
        self.emit(3)
        self.database.drain()
        rows = self.database.sql("SELECT id::text, key, payload FROM ledger ORDER BY n")
        sent = [Sent(i, "t", key.encode(), payload.encode()) for i, key, payload in rows]
        check(sent, read_messages(self.file), duplicates_allowed=True)
        assert self.database.wait_for_state("running")["sink"].startswith("outbox-file")
        assert self.server.sql("SELECT pg_postmaster_start_time()") == self.started


@pytest.fixture
def rogue(rogue_server):
    made = []

    def make(mode):
        made.append(Rogue(rogue_server, mode))
        return made[-1]

    yield make
    for one in made:
        one.database.drop(force=True)


@pytest.mark.parametrize("mode", MODES)
def test_rubbish_is_recognised_and_harms_nobody(rogue, mode):
    """The sink is dropped, no answer of its is believed that was for no message, and another one gets on with it."""
    one = rogue(mode)
    if mode == "delivered_before_it_was_sent":
        one.emit_at_once(100, 50000)  # more than a socket holds: the sink guesses what is behind that
    else:
        one.emit()
    one.wait_for_error(MODES[mode])
    one.emit()
    one.check_harmless()
    one.check_recovery()


def test_a_sink_that_never_stops_breaking_the_protocol_is_called_failed(rogue):
    """It is started again with growing pauses, not in a loop, and the log does not fill."""
    one = rogue("unknown_frame")
    one.emit(1)
    wait_for(lambda: BROKE in one.log(), "the first sink")
    watch = Stopwatch()
    wait_for(lambda: one.log().count(BROKE) >= 3, "three sinks")
    assert watch.seconds > 2
    assert one.database.wait_for_state("failed")["backlog"] == 1
    one.check_harmless()
    one.check_recovery()


@pytest.mark.parametrize("mode", ["much_log", "many_conditions"])
def test_a_talkative_sink_does_not_fill_the_log(rogue, mode):
    """100,000 lines: some are written, as what they are, and nobody else's line is made of them."""
    one = rogue(mode)
    one.emit()
    wait_for(Path(f"{one.file}.said").exists, "the sink to have said it all")
    one.check_harmless()
    lines = [line for line in one.log().splitlines() if "hallo" in line or "outbox waits for its broker" in line]
    assert 10 <= len(lines) <= 60
    assert all("LOG:  outbox" in line for line in lines)
    assert not re.search("^2026-01-01", one.log(), re.M)
    one.check_recovery()


def test_what_a_sink_says_can_be_read_in_the_status(rogue):
    one = rogue("odd_texts")
    one.emit(1)
    status = wait_for(lambda: (s := one.database.status())["sink_statistics"] and s, "statistics")
    assert status["sink_statistics"] == {"a": 1}
    assert re.fullmatch(r"\?\?\?\?\[2Jn{50,}", status["sink"])
    assert re.fullmatch(r"\?\(\?\?\[2J second linec{100,}", status["last_error"])
    assert status["state"] == "connecting"
    one.check_harmless()
    one.check_recovery()


def test_a_sink_that_returns_everything_is_tried_with_growing_pauses(rogue):
    """No rule is broken by that, but it must not become a loop that fills the log."""
    one = rogue("everything_comes_back")
    one.emit()
    status = one.database.wait_for_state("waiting")
    assert status["backlog"] == 20 and status["delivered"] == 0
    kept_back = "outbox keeps the messages of topic"
    assert one.log().count(kept_back) == 1
    one.emit()
    tries = one.tries()
    wait_for(lambda: one.tries() > tries, "one more try")
    assert one.tries() < 1000
    assert one.log().count("messages of topic") < 10
    one.check_harmless()
    one.check_recovery()


def test_a_sink_that_calls_itself_idle_is_stopped_only_when_it_has_answered(rogue):
    one = rogue("idle_at_any_time")
    for count in range(1, 4):
        one.emit()
        one.database.drain()
        assert len(read_messages(one.file)) == 20 * count
    one.check_harmless()
    one.check_recovery()


def test_a_sink_that_speaks_byte_by_byte_is_understood(rogue):
    one = rogue("byte_by_byte")
    one.emit()
    one.database.drain()
    assert len(read_messages(one.file)) == 20
    one.check_harmless()
    one.check_recovery()
