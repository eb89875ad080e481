"""Three brokers, replicated topics: leaders that move, brokers that die, replicas that are missing."""

import contextlib
import os
import signal

import pytest

from support.ledger import check, duplicates
from support.three_brokers import ThreeBrokers
from support.waiting import Stopwatch, wait_for


@pytest.fixture(scope="module")
def three_brokers(base_directory):
    brokers = ThreeBrokers(base_directory / "three")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAFKA_HEAP", "512m")
        try:
            yield brokers.start()
        finally:
            brokers.stop()


@pytest.fixture
def replicated(three_brokers, unique):
    """A topic with three replicas of which two have to have a message before it is acknowledged."""
    return three_brokers.create_topic(unique("topic"), 6, min_insync_replicas=2)


def deliveries(database, count=60, timeout=60):
    before = database.status()["delivered"]
    wait_for(lambda: database.status()["delivered"] >= before + count, f"{count} deliveries", timeout)


def judge(database, load, brokers, topic, timeout=60):
    assert not load.errors, "no session notices"
    database.drain(timeout)
    arrived = brokers.read(topic)
    print(f"\n{len(arrived)} messages, {duplicates(arrived)} duplicates")
    check(load.sent(), arrived)
    status = wait_for(lambda: (s := database.status())["state"] == "running" and s, "state running")
    assert status["backlog"] == 0


def test_leader_is_killed(three_brokers, make_database, replicated, workload):
    """Its partitions wait for the election, the others flow; nothing is lost, nothing comes twice."""
    database = make_database(three_brokers)
    load = workload(database, replicated, sessions=4, keys=12, rate=400)
    with load:
        deliveries(database)
        three_brokers.kill(2)
        watch = Stopwatch()
        wait_for(lambda: 2 not in three_brokers.leaders(replicated), "the election")
        print(f"\nelected after {watch.seconds:.1f} s")
        deliveries(database, 200)
        three_brokers.start_nodes(2)
        three_brokers.wait_until_healthy(replicated)
        # Elections as an operator or a balancer orders them.
        three_brokers.elect(replicated)
        wait_for(lambda: 2 in three_brokers.leaders(replicated), "node 2 as a leader again")
        deliveries(database)
    judge(database, load, three_brokers, replicated)


def test_not_enough_replicas(three_brokers, make_database, replicated, workload):
    """Two of three answer nothing: nothing is acknowledged, nothing given up, no application waits; with one more it
    flows."""
    database = make_database(three_brokers)
    load = workload(database, replicated, sessions=4, keys=12, rate=300)
    with load:
        deliveries(database)
        with contextlib.ExitStack() as stopped:
            for number in (2, 3):
                os.kill(three_brokers.pid(number), signal.SIGSTOP)
                stopped.callback(os.kill, three_brokers.pid(number), signal.SIGCONT)
            wait_for(lambda: set(three_brokers.leaders(replicated, of=1)) == {1}, "the election")
            before = database.status()["delivered"]
            reached = load.committed
            wait_for(lambda: load.committed >= reached + 300, "load meanwhile")
            status = database.status()
            assert status["backlog"] > 200
            assert status["delivered"] - before < 300
            assert status["deferred"] == 0, "no message is put aside for it"
        three_brokers.wait_until_healthy(replicated)
        deliveries(database)
    judge(database, load, three_brokers, replicated)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rolling_restart(three_brokers, make_database, replicated, workload):
    """Each broker in turn, the controller too: once shut down properly, once killed."""
    database = make_database(three_brokers)
    load = workload(database, replicated, sessions=4, keys=12, rate=300)
    with load:
        for bounce in (three_brokers.stop_node, three_brokers.kill):
            for number in (1, 2, 3):
                deliveries(database)
                bounce(number)
                three_brokers.start_nodes(number)
                three_brokers.wait_until_healthy(replicated)
        deliveries(database)
    judge(database, load, three_brokers, replicated)


def test_one_broker_hangs(three_brokers, make_database, replicated, workload):
    """A stopped broker is soon no leader any more. It wakes up believing that it is: it is not believed."""
    database = make_database(three_brokers)
    load = workload(database, replicated, sessions=4, keys=12, rate=300)
    pid = three_brokers.pid(3)
    with load:
        deliveries(database)
        os.kill(pid, signal.SIGSTOP)
        try:
            reached = load.committed
            wait_for(lambda: load.committed >= reached + 300, "load meanwhile")
        finally:
            os.kill(pid, signal.SIGCONT)
        three_brokers.wait_until_healthy(replicated)
        deliveries(database)
    judge(database, load, three_brokers, replicated)
