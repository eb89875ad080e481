"""B12: how many instructions a message costs at each step, counted and not timed. Any machine, however busy, shows
the same within 1 %, so what a change costs is seen at once.

    emit, the call       into the transaction's buffer
    emit, at commit      what PRE_COMMIT and COMMIT do with it
    read                 a pass of the relay over the log, without what is below
    frame                the relay makes the frame and writes it to the socket
    settle               its bookkeeping of the sink's reports
    parse                the sink takes frames apart
    produce              it hands messages to librdkafka's queue
    report               it hears what was delivered, and tells the relay

The WAL that emit writes is counted as well, in bytes, full pages left out and the commit's record not.

Each is the difference between a run with many messages and one with few, divided by the difference of their numbers:
what is paid once has no part in it. The server and its relay are real, the sink beside them is outbox-file. outbox-kafka
is fed with the same frames in every run, and talks to librdkafka's mock broker. How many messages librdkafka's own
threads find at a time depends on the moment: they are shown, but not judged.

The last values stand in bench/instructions.json. What is more than 5 % above its own is an error, until
`bench/run instructions --accept` makes what was measured the last value. Of bytes of WAL, 1 % is: a byte is a byte.
"""

import contextlib
import json
import platform
import statistics
import subprocess

from .. import callgrind, frames, messages, servers
from ..callgrind import Profile, Slope
from ..report import NOTHING, Report, Table
from ..servers import ROOT
from ..waiting import wait_for

NAME, TITLE = "instructions", "B12: instructions per message"

LAST_VALUES = ROOT / "bench/instructions.json"
TOLERANCE = 0.05
WAL_TOLERANCE = 0.01

SIZE = 200
NOT_JUDGED = "librdkafka's threads"
VERSIONS = "versions"  # the row of that record

# In the server's library.
EMIT = "outbox_emit"
AT_COMMIT = "outbox::(anonymous namespace)::on_transaction_event(XactEvent, void*)"
PASS = "outbox::run_pass(outbox::Relay*)"
SEND = "outbox::send_message(outbox::Relay*, outbox::Row const&, unsigned int, outbox::Source, bool)"
FLUSH = "outbox::SinkProcess::flush()"
REPORTS = "outbox::handle_reports(outbox::Relay*)"
# In outbox-kafka.
READ_FRAMES = "outbox::sink::Session::read_frames()"
SUBMIT = "outbox::kafka::KafkaSink::submit(outbox::protocol::MessageView const&)"
POLL = "outbox::kafka::KafkaSink::poll()"
WRITE = "outbox::sink::FrameWriter::flush(int)"


def run(bench, results, rounds, quick):
    servers.run(["cmake", "--build", ROOT / "build/release", "--target", "outbox-mock-broker"])
    results.record(NAME, VERSIONS, "outbox", 1, versions())
    # They differ by less than 1 %: more than a few say nothing new.
    for round in range(1, (1 if quick else min(rounds, 3)) + 1):
        bench.measured(results, NAME, "server", "outbox", round, lambda: measure_server(bench))
        bench.measured(results, NAME, "sink", "outbox", round, lambda: measure_sink(bench))


# -- the server: emit and relay -------------------------------------------------------------------------------


def measure_server(bench):
    with Traced(bench) as traced:
        single, its_relay, single_wal = traced.slopes(500, 3000, per_transaction=1)
        session, relay, wal = traced.slopes(2000, 12000, per_transaction=100)
        with_headers, their_relay, _ = traced.slopes(2000, 12000, per_transaction=100, headers=True)
    return {
        "emit, the call, 1 a transaction": single.instructions(EMIT),
        "emit, the call, 100 a transaction": session.instructions(EMIT),
        "emit, the call, 100 a transaction, 4 headers": with_headers.instructions(EMIT),
        "emit, at commit, 1 a transaction": single.instructions(AT_COMMIT),
        "emit, at commit, 100 a transaction": session.instructions(AT_COMMIT),
        "emit, at commit, 100 a transaction, 4 headers": with_headers.instructions(AT_COMMIT),
        "emit, bytes of WAL, 1 a transaction": single_wal,
        "emit, bytes of WAL, 100 a transaction": wal,
        "read, 1 a transaction": read(its_relay),
        "read, 100 a transaction": read(relay),
        "read, 100 a transaction, 4 headers": read(their_relay),
        "frame": relay.instructions(SEND, FLUSH),
        "frame, 4 headers": their_relay.instructions(SEND, FLUSH),
        "settle": relay.instructions(REPORTS),
        "the relay's whole process, 100 a transaction": relay.total,
    }


def read(relay):
    return relay.instructions(PASS) - relay.instructions(SEND)


class Traced:
    """A server under callgrind that emits while its relay rests and relays while nobody emits."""

    def __init__(self, bench):
        self.bench = bench

    def __enter__(self):
        # Nothing that comes at its own time.
        quiet = {"autovacuum": "off", "fsync": "off", "wal_level": "replica", "shared_buffers": "256MB", "jit": "off",
                 "full_page_writes": "off", "checkpoint_timeout": "1d"}  # fmt: skip
        # The extension comes into being natively, so that no profile has any of it.
        native = self.bench.postgres("instructions", **quiet, outbox__enabled="off")
        native.create_extension()
        template = native.freeze(self.bench.folder / "instructions-template")
        self.server = callgrind.Server.start(
            self.bench.folder / "instructions", template, **quiet, outbox__enabled="off", outbox__sink="file",
            outbox__file_path=self.bench.folder / "instructions/out",
        )  # fmt: skip
        try:
            self.control = self.server.connect()
            # The first of all: the relay finds out whose messages these are, and settles.
            self.control.execute("SELECT outbox.emit('bench', 'k', 'v')")
            self._relay()
        except BaseException:
            self.server.stop()
            raise
        return self

    def __exit__(self, *_):
        self.control.close()
        self.server.stop()

    def slopes(self, few, many, per_transaction, headers=False):
        """Of a session that emits and of a relay that drains what it has emitted; and the bytes of WAL of a message."""
        sessions, relays, wal = [], [], []
        for count in (few, many):
            before = self._wal()
            sessions.append(self._emit(count, per_transaction, headers))
            wal.append(self._wal() - before)
            relays.append(self._relay())
        return Slope(*sessions, many - few), Slope(*relays, many - few), (wal[1] - wal[0]) / (many - few)

    def _emit(self, count, per_transaction, headers):
        call = messages.emit_sql("g", SIZE, "bench", len(messages.USER_HEADERS) if headers else 0)
        statement = f"SELECT count({call}) FROM generate_series(%s::bigint, %s::bigint) g"
        with self.server.connect() as session:
            for first in range(1, count + 1, per_transaction):
                session.execute(statement, (first, first + per_transaction - 1), prepare=True)
            pid = session.info.backend_pid
        return self.server.profile(pid)

    def _relay(self):
        """Drains the backlog, ends the relay for its profile, and waits for the next one to rest."""
        relay = wait_for(lambda: self._state("disabled"), "the relay to rest")
        self._enable("on")
        wait_for(lambda: self._state("running", backlog=0), "the backlog to be drained", timeout=300)
        self._enable("off")
        wait_for(lambda: self._state("disabled"), "the relay to rest")
        self.control.execute("SELECT pg_terminate_backend(%s)", (relay,))
        profile = self.server.profile(relay)
        wait_for(lambda: self._state("disabled"), "another relay")
        return profile

    def _wal(self):
        return int(self.control.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0])

    def _enable(self, value):
        self.control.execute(f"ALTER SYSTEM SET outbox.enabled = {value}")
        self.control.execute("SELECT pg_reload_conf()")

    def _state(self, wanted, backlog=None):
        state, pid, waiting = self.control.execute("SELECT state, relay_pid, backlog FROM outbox.status").fetchone()
        return pid if state == wanted and backlog in (None, waiting) else None


# -- the sink -------------------------------------------------------------------------------------------------


def measure_sink(bench):
    with mock_broker() as bootstrap:
        plain, threads = slope_of_sinks(bench, bootstrap, {})
        headers, _ = slope_of_sinks(bench, bootstrap, messages.USER_HEADERS)
    return {
        "parse": parse(plain),
        "parse, 4 headers": parse(headers),
        "produce": plain.instructions(SUBMIT),
        "produce, 4 headers": headers.instructions(SUBMIT),
        "report": plain.instructions(POLL, WRITE),
        "report, 4 headers": headers.instructions(POLL, WRITE),
        "the sink's main thread": plain.total,
        "the sink's main thread, 4 headers": headers.total,
        NOT_JUDGED: threads,
    }


def parse(sink):
    return sink.instructions(READ_FRAMES) - sink.instructions(SUBMIT)


def slope_of_sinks(bench, bootstrap, headers):
    """Of the main thread, and the instructions of all the others for a message."""
    few, many = (one_sink(bench, bootstrap, count, headers) for count in (4000, 24000))
    return Slope(few[0], many[0], 20000), sum(other.total for other in many[1:]) / 24000


@contextlib.contextmanager
def mock_broker():
    program = ROOT / "build/release/outbox-mock-broker"
    broker = subprocess.Popen([program, "--topics", "bench:6"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    try:
        yield broker.stdout.readline().strip()
    finally:
        broker.terminate()
        broker.wait()


def one_sink(bench, bootstrap, count, headers):
    """The profiles of a sink's threads after so many messages, the main one's first."""
    folder = bench.folder / "sink"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    # Every five seconds otherwise: a slow run would count more of them.
    properties = folder / "kafka.properties"
    properties.write_text("statistics.interval.ms=0\n")
    properties.chmod(0o600)
    program = servers.library_folder() / "outbox-kafka"
    sink = frames.Conversation(
        [*callgrind.command(folder / "profile", threads=True), program, "bench"],
        database="bench", bootstrap_servers=bootstrap, config_file=properties, max_message_bytes=1048000,
        max_in_flight_messages=65536, max_in_flight_bytes=32 << 20,
    )  # fmt: skip
    try:
        sink.wait(lambda: sink.ready, 60, "its greeting")
        sent = 0
        # The first message of a partition goes alone, with others waiting behind it; from the third batch on none does.
        for batch in [60, 60, *[2000] * (count // 2000)]:
            sink.send(b"".join(message(number, headers) for number in range(sent + 1, sent + batch + 1)))
            sent += batch
            sink.wait(lambda: sink.delivered == sent, 60, f"the delivery of {sent} messages")  # noqa: B023
        sink.end()
    except BaseException:
        sink.kill()
        raise
    return [Profile(path) for path in sorted(folder.glob("profile-*"))]


def message(number, headers):
    key, payload = str(number % messages.KEYS), f"{number} ".ljust(SIZE, "x")
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return frames.message(number, "bench", key.encode(), payload.encode(), pairs)


# -- beside the last values -----------------------------------------------------------------------------------


def measured(records):
    """By figure, what the rounds have shown; nothing of one that failed."""
    found = {}
    for record in records:
        if record["ok"] and record["row"] != VERSIONS:
            for name, value in record["figures"].items():
                found.setdefault(name, []).append(value)
    return found


def medians(records):
    return {name: statistics.median(values) for name, values in measured(records).items()}


def versions_of(records):
    return next((record["figures"] for record in records if record["row"] == VERSIONS), {})


def last_values():
    return json.loads(LAST_VALUES.read_text()) if LAST_VALUES.exists() else {"versions": {}, "instructions": {}}


def versions():
    """What the counts depend on besides our own code."""
    return {
        "architecture": platform.machine(),
        "compiler": servers.run(["c++", "-dumpfullversion"]).strip(),
        "glibc": platform.libc_ver()[1],
        "librdkafka": servers.run(["pkg-config", "--modversion", "rdkafka"]).strip(),
        "PostgreSQL": servers.run([servers.bin_folder() / "postgres", "--version"]).split()[2],
        "valgrind": servers.run(["valgrind", "--version"]).strip(),
    }


def accept(records):
    """What was measured becomes the last value; nothing does where something has no number."""
    if not all(record["ok"] for record in records):
        return
    figures = {name: round(value) for name, value in medians(records).items() if name != NOT_JUDGED}
    LAST_VALUES.write_text(json.dumps({"versions": versions_of(records), "instructions": figures}, indent=4) + "\n")


def too_much(name, value, before):
    return value > before * (1 + (WAL_TOLERANCE if "WAL" in name else TOLERANCE))


def complaints(records, last=None):
    """One line for each figure that is too far above its last value, or has gone."""
    last = last or last_values()
    now = medians(records)
    found = [
        f"{name}: {now[name]:,.0f}, {now[name] / before - 1:+.1%} of its last value {before:,}"
        for name, before in last["instructions"].items()
        if name in now and too_much(name, now[name], before)
    ]
    return found + [f"{name}: not measured" for name in last["instructions"] if name not in now]


def report(records, last=None):
    last = last or last_values()
    rows = []
    for name, values in measured(records).items():
        value, before = statistics.median(values), last["instructions"].get(name)
        change = f"{value / before - 1:+.1%}" if before else NOTHING
        if before and too_much(name, value, before):
            change = f"**{change}**"
        spread = f"{(max(values) - min(values)) / value:.2%}" if len(values) > 1 else NOTHING
        rows.append([name, f"{value:,.0f}", spread, f"{before:,}" if before else NOTHING, change])
    notes = [
        f"Messages of {SIZE} bytes with a key, and without headers of the user's where none are named. Spread is from the lowest to"
        f" the highest round. {NOT_JUDGED.capitalize()} are shown, not judged."
    ]
    now = versions_of(records)
    others = [f"{name} {version}" for name, version in last["versions"].items() if now.get(name) != version]
    if others:
        notes.append(f"The last values come from {', '.join(others)}: a change may be theirs.")
    return Report([Table("Instructions per message, and bytes of WAL", ["", "now", "spread", "last value", "change"], rows)], notes=notes)
