"""The judge of the books: what the ledgers say was committed against what a consumer received.

Knows of no server and no broker, and keeps no payload: it is fed the ledgers, then each topic by partition and
offset, and says what contradicts the promise. test_judge.py proves that it notices.

    loss        I1  committed, and neither arrived nor parked
    phantom     I1  arrived (or parked), and never committed
    undone      I2  arrived, and of a transaction, savepoint or block that was rolled back, as its header says
    disorder    I3  a first arrival of a key that does not follow the order of its row locks; one that has overtaken a
                    parked one of its key; a key in two partitions
    repetition  I3  what was sent again was not sent again in order, so that the key ends with an old message
    changed     I4  bytes, key, headers, partition or time that differ from what was emitted, or between duplicates
    duplicates  I4  more of them than was ever in flight when something died
    ledger          the load's own books are wrong: nothing can be concluded
"""

from collections import Counter
from dataclasses import dataclass

from faults import contents

INVARIANT = {
    "loss": "I1",
    "phantom": "I1",
    "undone": "I2",
    "disorder": "I3",
    "repetition": "I3",
    "changed": "I4",
    "duplicates": "I4",
    "ledger": "--",
}
EXAMPLES = 10  # of each kind, in full


@dataclass
class Finding:
    """What contradicts the promise."""

    invariant: str
    kind: str
    text: str

    def __str__(self):
        return f"{self.invariant} {self.kind}: {self.text}"


class Line:
    """The history of one key of a topic: where its arrivals stand."""

    __slots__ = ("highest", "parked", "partition", "reached")

    def __init__(self):
        self.highest = 0  # the highest number that has arrived
        self.reached = 0  # number of the latest arrival
        self.partition = None
        self.parked = None  # the lowest number that stands parked: later ones have to wait behind it


class Judge:
    """Feed it committed(), parked(), arrived(); then ask for close()."""

    def __init__(self, duplicates_allowed):
        self.allowed = duplicates_allowed  # by book
        self.entries = {}
        self.seen = {}  # id -> (how often, timestamp of the first)
        self.parked_ids = set()
        self.lines = {}
        self.lengths = Counter()
        self.counts = Counter()
        self.duplicates = Counter()  # by book
        self.messages = 0
        self.findings = []

    def find(self, kind, text):
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES:
            self.findings.append(Finding(INVARIANT[kind], kind, text))

    # -- the ledgers ---------------------------------------------------------------------------------------

    def committed(self, entry):
        if entry.id in self.entries:
            self.find("ledger", f"{entry} stands there twice")
        self.entries[entry.id] = entry
        if entry.key is not None:
            self.lengths[entry.topic, entry.key] += 1

    def parked(self, message_id):
        """After the ledgers are complete."""
        entry = self.entries.get(message_id)
        if entry is None:
            self.find("phantom", f"{message_id!r} is parked, and was never committed")
            return
        self.parked_ids.add(message_id)
        if entry.key is not None:
            line = self._line(entry)
            line.parked = entry.n if line.parked is None else min(line.parked, entry.n)

    def _line(self, entry):
        line = self.lines.get((entry.topic, entry.key))
        if line is None:
            line = self.lines[entry.topic, entry.key] = Line()
        return line

    # -- the topics ----------------------------------------------------------------------------------------

    def arrived(self, topic, partition, offset, key, value, headers, timestamp=0):
        """In the order of the offsets, for each partition."""
        self.messages += 1
        where = f"{topic}/{partition}@{offset}"
        if not headers or headers[0][0] != "id" or headers[0][1] is None:
            self.find("phantom", f"{where}: a message without id")
            return
        message_id = headers[0][1]
        entry = self.entries.get(message_id)
        if entry is None:
            self._never_committed(where, message_id, key, headers)
            return
        if entry.topic != topic or entry.key != key or value != contents.payload(entry):
            self.find("changed", f"{where}: topic, key {key!r} or payload of {entry}")
        if tuple(headers[1:]) != contents.headers(entry):
            self.find("changed", f"{where}: headers {headers[1:]!r} of {entry}")
        if entry.partition is not None and entry.partition != partition:
            self.find("changed", f"{where}: partition of {entry}")
        times, first = self.seen.get(message_id, (0, timestamp))
        self.seen[message_id] = times + 1, first
        if times:
            self.duplicates[entry.book] += 1
            if first != timestamp:
                self.find("changed", f"{where}: time {first} and {timestamp} of {entry}")
        elif message_id in self.parked_ids:
            self.find("disorder", f"{where}: arrived, and is parked: {entry}")
        if key is not None:
            self._follow(where, partition, entry, times == 0)

    def _never_committed(self, where, message_id, key, headers):
        fates = [value for name, value in headers if name == "fate"]
        if fates:
            self.find("undone", f"{where}: {message_id!r} of key {key!r}, rolled back by {fates[0]!r}")
        else:
            self.find("phantom", f"{where}: {message_id!r} of key {key!r} was never committed")

    def _follow(self, where, partition, entry, first):
        line = self._line(entry)
        if line.partition is None:
            line.partition = partition
        elif line.partition != partition:
            self.find("disorder", f"{where}: its key is in partition {line.partition} too: {entry}")
        if line.parked is not None and entry.n > line.parked:
            self.find("disorder", f"{where}: has overtaken {line.parked} of its key, which is parked: {entry}")
        if first and entry.n != line.highest + 1:
            self.find("disorder", f"{where}: came when {line.highest + 1} of the key was due: {entry}")
        elif entry.n > line.reached + 1:
            self.find("repetition", f"{where}: came right after {line.reached} of the key: {entry}")
        line.reached = entry.n
        line.highest = max(line.highest, entry.n)

    # -- the verdict ---------------------------------------------------------------------------------------

    def close(self):
        """Everything that is wrong, as a list of findings."""
        for message_id, entry in self.entries.items():
            if message_id not in self.seen and message_id not in self.parked_ids:
                self.find("loss", f"never arrived: {entry}")
        for (topic, key), line in self.lines.items():
            if line.reached != line.highest:
                text = f"{topic} {key!r} ends with its message {line.reached}, after {line.highest}"
                self.find("repetition", text)
        self._check_numbers()
        for book, count in self.duplicates.items():
            if count > self.allowed.get(book, 0):
                text = f"{count} in {book}, and at most {self.allowed.get(book, 0)} can be explained"
                self.find("duplicates", text)
        for kind, count in self.counts.items():
            if count > EXAMPLES:
                self.findings.append(Finding(INVARIANT[kind], kind, f"and so on: {count} in all"))
        return self.findings

    def _check_numbers(self):
        """A key's numbers are 1, 2, 3 ... without a hole: counter and ledger commit together."""
        highest = Counter()
        for entry in self.entries.values():
            if entry.key is not None:
                highest[entry.topic, entry.key] = max(highest[entry.topic, entry.key], entry.n)
        for place, length in self.lengths.items():
            if highest[place] != length:
                self.find("ledger", f"{place}: {length} rows with numbers up to {highest[place]}")
