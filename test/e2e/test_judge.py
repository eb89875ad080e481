"""The judge of the campaign (scripts/faults) notices every kind of damage: hand-made histories, one fault each."""

import itertools
import random

import pytest

from faults import conduct, contents
from faults.campaign import profile_of
from faults.contents import BINARY, DENSE, TEXT, TOMBSTONE, Entry
from faults.judge import Judge
from faults.fault import FAULTS, PROFILES, STREAMS, stream_of
from faults.nemesis import Nemesis
from support.cluster import CANARY


def entry(key, n, size=20, shape=TEXT, partition=None):
    name = b"none" if key is None else key
    return Entry(b"id-%s-%d" % (name, n), "t", key, n, size, shape, partition, "one")


LEDGER = [
    *(entry(b"a", n, size=n * 10) for n in range(1, 9)),
    *(entry(b"b", n, shape=BINARY) for n in range(1, 4)),
    *(entry(None, n, size=TOMBSTONE) for n in range(1, 4)),
    entry(b"c", 1, size=5000, shape=DENSE, partition=7),
]


class Arrival:
    """A message as the judge is told of it; `changes` are what is wrong with it."""

    def __init__(self, of, **changes):
        self.of = of
        self.topic = changes.get("topic", of.topic)
        self.partition = changes.get("partition", 0 if of.partition is None else of.partition)
        self.key = changes.get("key", of.key)
        self.value = changes.get("value", contents.payload(of))
        self.headers = changes.get("headers", (("id", of.id), *contents.headers(of)))
        self.timestamp = changes.get("timestamp", 1000 + of.n)


def arrivals(entries=LEDGER):
    return [Arrival(one) for one in entries]


def find(arrived, parked=(), allowed=0):
    judge = Judge({"one": allowed})
    for one in LEDGER:
        judge.committed(one)
    for one in parked:
        judge.parked(one.id)
    for offset, one in enumerate(arrived):
        judge.arrived(one.topic, one.partition, offset, one.key, one.value, one.headers, one.timestamp)
    return judge.close()


def kinds(arrived, **options):
    return {(finding.invariant, finding.kind) for finding in find(arrived, **options)}


def of(key, n):
    return next(one for one in LEDGER if one.key == key and one.n == n)


def without(*entries):
    return [one for one in arrivals() if one.of not in entries]


def moved(entries, source, target):
    """One of them at another place."""
    entries = list(entries)
    entries.insert(target, entries.pop(source))
    return entries


LOSS, PHANTOM, UNDONE = ("I1", "loss"), ("I1", "phantom"), ("I2", "undone")
DISORDER, REPETITION = ("I3", "disorder"), ("I3", "repetition")
CHANGED, DUPLICATES, BOOKS = ("I4", "changed"), ("I4", "duplicates"), ("--", "ledger")


def test_nothing_to_complain_about():
    assert find(arrivals()) == []
    assert find([*arrivals(LEDGER[8:]), *arrivals(LEDGER[:8])]) == []


def test_loss():
    assert kinds(without(of(b"b", 3))) == {LOSS}
    assert kinds(without(of(None, 2))) == {LOSS}
    assert kinds(without(of(b"a", 4))) == {LOSS, DISORDER}
    assert kinds([]) == {LOSS}


def test_many_losses_are_told_in_short():
    found = find([])
    assert len(found) == 11 and "15 in all" in str(found[-1])


def test_phantom():
    assert kinds([*arrivals(), Arrival(entry(b"z", 1))]) == {PHANTOM}
    assert kinds([*arrivals(), Arrival(of(b"b", 1), headers=())]) == {PHANTOM}
    assert kinds(arrivals(), parked=[entry(b"z", 1)]) == {PHANTOM}


@pytest.mark.parametrize("fate", [b"savepoint", b"exception block", b"rollback", b"rollback prepared"])
def test_a_message_that_was_rolled_back(fate):
    ghost = Arrival(entry(b"a", 9), headers=(("id", b"id-a-9"), ("fate", fate)))
    assert kinds([*arrivals(), ghost]) == {UNDONE}


def test_first_arrivals_out_of_order():
    for source, target in itertools.permutations(range(8), 2):
        assert DISORDER in kinds(moved(arrivals(), source, target)), (source, target)


def test_messages_without_key_have_no_order():
    keyless = [one for one in arrivals() if one.key is None]
    others = [one for one in arrivals() if one.key is not None]
    assert find([*reversed(keyless), *others]) == []


def test_a_key_in_two_partitions():
    assert kinds([*without(of(b"b", 3)), Arrival(of(b"b", 3), partition=1)]) == {DISORDER}


def test_duplicates_up_to_what_was_in_flight():
    again = arrivals([of(b"a", 6), of(b"a", 7), of(b"a", 8)])
    arrived = [*arrivals(), *again]
    assert kinds(arrived, allowed=3) == set()
    assert kinds(arrived, allowed=2) == {DUPLICATES}
    assert kinds(arrived) == {DUPLICATES}


def test_duplicates_sent_again_out_of_order():
    assert kinds([*arrivals(), *arrivals([of(b"a", 7), of(b"a", 6), of(b"a", 8)])], allowed=9) == {REPETITION}
    assert kinds([*arrivals(), *arrivals([of(b"a", 5), of(b"a", 8)])], allowed=9) == {REPETITION}


def test_a_key_that_ends_with_an_old_message():
    assert kinds([*arrivals(), Arrival(of(b"a", 7))], allowed=9) == {REPETITION}


@pytest.mark.parametrize(
    "change",
    [
        {"value": b""},
        {"value": None},
        {"value": contents.payload(of(b"a", 3))[:-1] + b"X"},
        {"value": contents.payload(of(b"a", 4))},
        {"key": b"b"},
        {"topic": "u"},
        {"headers": (("id", b"id-a-3"),)},
        {"headers": (("id", b"id-a-3"), ("n", b"3"), ("list", b"1"))},
    ],
)
def test_changed_bytes(change):
    arrived = arrivals()
    arrived[2] = Arrival(of(b"a", 3), **change)
    assert kinds(arrived) == {CHANGED}


def test_null_and_empty_are_not_the_same():
    assert kinds([*without(of(None, 1)), Arrival(of(None, 1), value=b"")]) == {CHANGED}


def test_a_partition_that_was_asked_for():
    assert kinds([*without(of(b"c", 1)), Arrival(of(b"c", 1), partition=6)]) == {CHANGED}


def test_a_duplicate_with_another_time():
    assert kinds([*arrivals(), Arrival(of(b"c", 1), timestamp=77)], allowed=1) == {CHANGED}


def test_parked_messages_stand_with_those_behind_them():
    last = [of(b"b", 2), of(b"b", 3)]
    assert kinds(without(*last), parked=last) == set()
    assert kinds(without(of(None, 2)), parked=[of(None, 2)]) == set()
    assert kinds(without(*last), parked=last[:1]) == {LOSS}
    assert kinds(without(of(b"b", 2)), parked=[of(b"b", 2)]) == {DISORDER}, "overtaken by 3"
    assert kinds(arrivals(), parked=last) == {DISORDER}


def test_broken_books_prove_nothing():
    judge = Judge({})
    for one in (entry(b"a", 1), entry(b"a", 1), entry(b"a", 3)):
        judge.committed(one)
    assert {finding.kind for finding in judge.close()} == {"ledger", "loss"}


def test_a_random_history_with_one_mistake():
    """Whatever is swapped, dropped or invented in an honest history of duplicates is noticed."""
    for seed in range(200):
        chance = random.Random(seed)
        keyed = [one for one in LEDGER if one.key == b"a"]
        history = []
        place = 0
        while place < len(keyed):
            history.append(keyed[place])
            place += 1
            if chance.random() < 0.2:  # a sink dies: the last ones come again
                place = max(0, place - chance.randint(1, 3))
        others = [one for one in LEDGER if one.key != b"a"]
        assert find(arrivals([*history, *others]), allowed=99) == []
        number = chance.randrange(len(history))
        if history.count(history[number]) == 1:
            broken = history[:number] + history[number + 1 :]
            assert LOSS in kinds(arrivals([*broken, *others]), allowed=99), seed


# -- conduct --------------------------------------------------------------------------------------------------


def test_backlog_that_does_not_drain():
    assert conduct.judge_drain(3.2, True, 90) == []
    assert [f.invariant for f in conduct.judge_drain(None, True, 90)] == ["I5"]
    assert [f.invariant for f in conduct.judge_drain(3.2, False, 90)] == ["I5"]


READY = "LOG:  database system is ready to accept connections"


@pytest.mark.parametrize(
    "lines, killed, starts, complaints",
    [
        ([READY, "LOG:  server process (PID 7) was terminated by signal 9: Killed", READY], {7}, 2, 0),
        ([READY, "LOG:  server process (PID 7) was terminated by signal 9: Killed", READY], set(), 2, 1),
        ([READY, "LOG:  server process (PID 7) was terminated by signal 11: Segmentation fault", READY], {8}, 1, 2),
        ([READY, 'LOG:  background worker "outbox relay" (PID 9) was terminated by signal 6: Aborted'], set(), 1, 1),
        ([READY, READY], set(), 1, 1),
        ([], set(), 1, 1),
        ([READY, "PANIC:  could not write to file"], set(), 1, 1),
        ([READY, 'TRAP: FailedAssertion("x")'], set(), 1, 1),
        ([READY, "==7==ERROR: AddressSanitizer: heap-use-after-free"], set(), 1, 1),
    ],
)
def test_the_server_log(lines, killed, starts, complaints):
    found = conduct.judge_log(lines, killed, starts)
    assert len(found) == complaints, found
    assert all(finding.invariant == "I6" for finding in found)


def life(kind="sink", seconds=200, memory=lambda at: 40, descriptors=lambda at: 10, threads=lambda at: 1):
    return [(at, kind, 5, int(memory(at)) << 20, int(descriptors(at)), int(threads(at))) for at in range(seconds)]


@pytest.mark.parametrize("kind", conduct.LIMITS)
def test_flat_vitals(kind):
    assert conduct.judge_vitals(life(kind, memory=lambda at: 20 + at % 5)) == []


@pytest.mark.parametrize(
    "growth",
    [
        {"memory": lambda at: 20 + at},
        {"memory": lambda at: 500 if at == 100 else 20},
        {"descriptors": lambda at: 10 + at / 8},
        {"descriptors": lambda at: 4000},
        {"threads": lambda at: 4 + at / 10},
    ],
)
def test_a_leak(growth):
    found = conduct.judge_vitals(life(**growth))
    assert found and all(finding.invariant == "I8" for finding in found)


def test_a_relay_with_threads():
    assert conduct.judge_vitals(life("relay", threads=lambda at: 2))


def test_payloads_and_secrets_in_a_log():
    assert conduct.judge_secrets(["LOG: outbox waits for its broker"]) == []
    assert [f.invariant for f in conduct.judge_secrets([f"LOG: could not send {CANARY} 0815"])] == ["I9"]


# -- the schedule ---------------------------------------------------------------------------------------------


class NoWorld:
    server = None
    databases = ()


def plan(seed, profile="everything"):
    nemesis = Nemesis(NoWorld, None, None, seed, profile)
    streams = [stream for stream in STREAMS if nemesis.names[stream]]
    return {stream: list(itertools.islice(nemesis.schedule(stream), 300)) for stream in streams}


def test_a_seed_replays_the_schedule():
    assert plan(7) == plan(7)
    assert plan(7) != plan(8)


def test_every_fault_comes_up():
    names = {name for events in plan(7).values() for _, name, _ in events}
    assert names == set(FAULTS)
    assert {profile_of(seed) for seed in range(100)} == set(PROFILES)


def test_profiles_spare_what_they_promise_to_spare():
    deadly = {name for name, method in FAULTS.items() if "server" in method.holds} | {"kill_sink"}
    for profile in ("kafka", "operators"):
        assert not deadly & {name for events in plan(7, profile).values() for _, name, _ in events}
    assert all(stream_of(name) in STREAMS for name in FAULTS)


def test_a_clean_stop_in_quiet_times_explains_no_duplicate():
    """A nemesis that did nothing worse than restarts allows none; with the broker ill, what was in flight."""
    nemesis = Nemesis(NoWorld, None, None, 1)
    nemesis.may_repeat = {"one": 0}
    nemesis.stops = [(100, 101, "one")]
    assert nemesis.duplicates_allowed() == {"one": 0}
    nemesis.troubles = [[50, 60]]
    assert nemesis.duplicates_allowed() == {"one": 0}
    nemesis.troubles = [[50, 95]]
    assert nemesis.duplicates_allowed()["one"] > 0


# -- contents: the same in SQL -------------------------------------------------------------------------------


@pytest.mark.embedded
def test_contents_are_the_same_in_sql(server, make_database):
    """What the load emits is what the judge expects, byte by byte: shapes, sizes, headers."""
    database = make_database()
    database.sql(contents.SCHEMA)
    sizes = (0, 1, 5, 12, 13, 31, 32, 33, 64, 65, 500, 5000)
    for shape, size in itertools.product((TEXT, BINARY, DENSE), sizes):
        function = "convert_to(text_of(%s, %s), 'UTF8')" if shape == TEXT else f"bytes_of(%s, %s, {shape})"
        for n in (1, 77):
            made = database.value(f"SELECT {function}", f"k:{n}", size)
            assert bytes(made) == contents.payload(entry(b"k", n, size, shape)), (shape, size, n)
