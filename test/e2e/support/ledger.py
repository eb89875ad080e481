"""The judge: compares what was committed with what a consumer received.

Nothing here knows of PostgreSQL or Kafka, so that test_ledger.py can prove that it notices what it should.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Sent:
    """A message of a committed transaction. A list of them is in commit order, at least for each key."""

    id: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple = ()  # (name, value) as the consumer should see them, without the header id


@dataclass(frozen=True)
class Received:
    """A message as a consumer got it. A list of them is in offset order, at least for each partition."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple
    timestamp: int = 0  # milliseconds

    @property
    def id(self):
        values = [value for name, value in self.headers if name == "id"]
        return values[0].decode() if len(values) == 1 and values[0] is not None else None

    @property
    def own_headers(self):
        return tuple(header for header in self.headers if header[0] != "id")

    @property
    def content(self):
        return (self.topic, self.partition, self.key, self.value, self.headers)


def problems(sent, received, duplicates_allowed=False):
    """Everything that contradicts the promise, as texts; an empty list if all is well."""
    found = []
    by_id = {message.id: message for message in sent}
    if len(by_id) != len(sent):
        found.append("the ledger itself is broken: ids repeat in it")
    copies = defaultdict(list)
    for message in received:
        copies[message.id].append(message)

    _compare_contents(by_id, copies, found)
    _find_duplicates(copies, duplicates_allowed, found)
    _compare_order(sent, by_id, received, found)
    return _shorten(found)


def _compare_contents(by_id, copies, found):
    for message_id, message in by_id.items():
        if message_id not in copies:
            found.append(f"loss: {message.topic} {message.key!r} {_brief(message.value)} never arrived")
    for message_id, arrived in copies.items():
        original = by_id.get(message_id)
        if original is None:
            first = arrived[0]
            found.append(f"phantom: {first.topic} {first.key!r} {_brief(first.value)} was never committed")
            continue
        for message in arrived:
            for what in ("topic", "key", "value"):
                if getattr(original, what) != getattr(message, what):
                    found.append(
                        f"changed {what}: sent {_brief(getattr(original, what))}, "
                        f"received {_brief(getattr(message, what))}"
                    )
            if message.own_headers != original.headers:
                found.append(f"changed headers: sent {original.headers!r}, received {message.own_headers!r}")


def _find_duplicates(copies, allowed, found):
    for message_id, arrived in copies.items():
        if len(arrived) > 1 and not allowed:
            found.append(f"duplicate: {message_id} arrived {len(arrived)} times")
        if len({message.content for message in arrived}) > 1:
            found.append(f"duplicate that differs: {message_id}: {[_brief(m.value) for m in arrived]}")


def _compare_order(sent, by_id, received, found):
    """First arrivals of a key's messages follow the commits; what is sent again is sent again in order.

    So the place in the key's history may step back (duplicates), but never jumps over a message, and it
    ends where it was highest.
    """
    place = {}
    lengths = Counter()
    for message in sent:
        if message.key is not None:
            place[message.id] = lengths[message.topic, message.key]
            lengths[message.topic, message.key] += 1
    reached = defaultdict(lambda: -1)
    highest = defaultdict(lambda: -1)
    partition_of = {}
    for message in received:
        if message.id not in place:
            continue
        key = (message.topic, message.key)
        if partition_of.setdefault(key, message.partition) != message.partition:
            found.append(f"disorder: key {message.key!r} is in several partitions")
        if place[message.id] > reached[key] + 1:
            found.append(
                f"disorder: {message.topic} {message.key!r}: message {place[message.id]} of the key came "
                f"right after its message {reached[key]}"
            )
        reached[key] = place[message.id]
        highest[key] = max(highest[key], reached[key])
    for (topic, key), last in reached.items():
        if last != highest[topic, key]:
            found.append(f"disorder: {topic} {key!r} ends with its message {last}, after {highest[topic, key]}")


def duplicates(received):
    """How many arrivals are repetitions of an earlier one."""
    return len(received) - len({message.id for message in received})


def _brief(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shorten(found, limit=20):
    if len(found) <= limit:
        return found
    kinds = Counter(text.split(":")[0] for text in found)
    return found[:limit] + [f"and more; in all {dict(kinds)}"]


def check(sent, received, duplicates_allowed=False):
    found = problems(sent, received, duplicates_allowed)
    assert not found, "\n".join([f"{len(sent)} sent, {len(received)} received", *found])
