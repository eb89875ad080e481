"""Three real brokers, one of them the controller too: for what one alone cannot show."""

import os
import signal
import threading
from pathlib import Path

from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from support.kafka import Broker, RealKafka, free_port
from support.processes import alive
from support.waiting import wait_for


class ThreeBrokers(Broker):
    """Nodes 1 to 3; node 1 decides who leads what, so the others may come and go."""

    kind = "kafka"

    def __init__(self, directory):
        self.directory = Path(directory)
        self.nodes = {n: RealKafka(self.directory / f"node-{n}") for n in (1, 2, 3)}
        self.controller = free_port()
        self.bootstrap = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())

    def start(self):
        self.directory.mkdir(exist_ok=True)
        # A node answers when the cluster is there: so all at once.
        self.start_nodes(1, 2, 3)
        return self

    def start_nodes(self, *numbers):
        failures = []

        def start(number):
            try:
                self.nodes[number].start(*self._properties(number))
            except BaseException as error:  # noqa: BLE001: it is raised below
                failures.append(error)

        threads = [threading.Thread(target=start, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        wait_for(lambda: len(self._admin().list_topics(timeout=10).brokers) >= len(self._alive()), "all brokers")

    def _properties(self, number):
        node = self.nodes[number]
        listeners, roles = f"PLAINTEXT://127.0.0.1:{node.port}", "broker"
        if number == 1:
            listeners, roles = f"{listeners},CONTROLLER://127.0.0.1:{self.controller}", "broker,controller"
        return [
            f"process.roles={roles}",
            f"node.id={number}",
            f"controller.quorum.voters=1@127.0.0.1:{self.controller}",
            f"listeners={listeners}",
            "default.replication.factor=3",
            # Who is gone is noticed soon.
            "broker.session.timeout.ms=2000",
            "broker.heartbeat.interval.ms=300",
            "replica.lag.time.max.ms=2000",
            "controlled.shutdown.retry.backoff.ms=200",
        ]

    def stop(self):
        # Without good-byes: for some of those the controller would be needed.
        for number in self._alive():
            self.kill(number)
        for node in self.nodes.values():
            node.stop(remove=True)

    def pid(self, number):
        return int((self.nodes[number].directory / "pid").read_text())

    def kill(self, number):
        pid = self.pid(number)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), f"the end of node {number}")

    def stop_node(self, number):
        self.nodes[number].stop()

    def _alive(self):
        return [n for n in self.nodes if (self.nodes[n].directory / "pid").exists() and alive(self.pid(n))]

    def _admin(self, of=None):
        # Of those that live only: a client of ours is not under test.
        living = [f"127.0.0.1:{self.nodes[n].port}" for n in ([of] if of else self._alive())]
        return AdminClient({"bootstrap.servers": ",".join(living), "log_level": 0})

    def create_topic(self, name, partitions=6, **config):
        settings = {option.replace("_", "."): str(value) for option, value in config.items()}
        admin = self._admin()
        for future in admin.create_topics([NewTopic(name, partitions, 3, config=settings)]).values():
            future.result(30)
        wait_for(lambda: self.in_sync(name) == 3 * partitions, f"replicas of {name}")
        # Its leaders know that they are when they answer.
        wait_for(lambda: self.count(name) == 0, f"leaders of {name}")
        return name

    def _partitions(self, topic, of=None):
        return self._admin(of).list_topics(topic, timeout=10).topics[topic].partitions.values()

    def in_sync(self, topic):
        """Replicas in sync of all partitions together."""
        return sum(len(partition.isrs) for partition in self._partitions(topic))

    def leaders(self, topic, of=None):
        """By partition, in the eyes of the broker with that number."""
        return [partition.leader for partition in self._partitions(topic, of)]

    def elect(self, topic):
        """Has the preferred replicas lead again."""
        places = [TopicPartition(topic, n) for n in range(len(self._partitions(topic)))]
        admin = self._admin()
        admin.elect_leaders(ElectionType.PREFERRED, places).result(30)

    def wait_until_healthy(self, topic):
        wait_for(lambda: self.in_sync(topic) == 3 * len(self._partitions(topic)), "all replicas in sync", 60, pause=0.2)
