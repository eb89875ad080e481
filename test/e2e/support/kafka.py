"""Brokers to test against, and a consumer that is not ours (confluent-kafka)."""

import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, TIMESTAMP_CREATE_TIME, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from support.ledger import Received
from support.processes import run
from support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]


_given = []


def free_port():
    """A port that nobody listens on, and the next one neither, below those of outgoing connections; each once."""
    for candidate in random.sample(range(20000, 32000, 2), 100):
        if _is_ours(candidate) and all(_is_free(port) for port in (candidate, candidate + 1)):
            return candidate
    raise AssertionError("no free port")


def _is_ours(port):
    """Whether no test has taken the port, here or in a process beside this one; then this one has it until it ends."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0outbox-test-port-{port}")
    except OSError:
        name.close()
        return False
    _given.append(name)
    return True


def _is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Broker:
    """What tests need of a broker, whichever it is."""

    bootstrap: str
    kind: str

    def create_topic(self, name, partitions=6, **config):
        raise NotImplementedError

    def read(self, *topics, timeout=60.0):
        """Everything that is in the topics at present, in the order of the offsets of each partition."""
        return read(self.bootstrap, topics, timeout)

    def wait_for_messages(self, topic, count, timeout=60.0):
        """What the topic holds, once it is at least `count` messages."""
        wait_for(lambda: self.count(topic) >= count, f"{count} messages in {topic}", timeout)
        return self.read(topic)

    def count(self, topic):
        consumer = _consumer(self.bootstrap)
        try:
            return sum(high - low for _, low, high in _ranges(consumer, topic))
        finally:
            consumer.close()


class RealKafka(Broker):
    """One node of Apache Kafka. Topics exist only when they are created."""

    kind = "kafka"

    def __init__(self, directory):
        self.directory = Path(directory)
        self.port = free_port()

    def start(self, *properties):
        arguments = ["--dir", self.directory, "--port", self.port, *properties]
        self.bootstrap = run([ROOT / "scripts/kafka", "start", *arguments]).strip()
        return self

    def stop(self, remove=False):
        run([ROOT / "scripts/kafka", "stop", "--dir", self.directory, *(["--remove"] if remove else [])])

    def create_topic(self, name, partitions=6, **config):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        settings = {option.replace("_", "."): str(value) for option, value in config.items()}
        for future in admin.create_topics([NewTopic(name, partitions, 1, config=settings)]).values():
            future.result(30)
        # Its leaders are elected a moment later.
        wait_for(lambda: self._has_leaders(admin, name, partitions), f"leaders of {name}")
        return name

    def configure_topic(self, name, **config):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        settings = {option.replace("_", "."): str(value) for option, value in config.items()}
        for future in admin.alter_configs([ConfigResource(ConfigResource.Type.TOPIC, name, set_config=settings)]).values():
            future.result(30)

    def delete_topic(self, name):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.delete_topics([name]).values():
            future.result(30)
        wait_for(lambda: name not in admin.list_topics(timeout=10).topics, f"the end of {name}")

    def add_partitions(self, name, total):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.create_partitions([NewPartitions(name, total)]).values():
            future.result(30)
        wait_for(lambda: self._has_leaders(admin, name, total), f"leaders of {name}")

    def _has_leaders(self, admin, name, partitions):
        topic = admin.list_topics(name, timeout=10).topics[name]
        if len(topic.partitions) != partitions or any(p.leader < 0 for p in topic.partitions.values()):
            return False
        # Metadata names a leader a little before that broker knows of it itself: ask it for something.
        consumer = _consumer(self.bootstrap)
        try:
            return len(list(_ranges(consumer, name))) == partitions
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:
                raise
            return False
        finally:
            consumer.close()


class EmbeddedBroker(Broker):
    """librdkafka's mock cluster in a program of ours: up at once, holds little, keeps nothing."""

    kind = "embedded"
    partitions = 4  # of every topic, whatever a test asks for

    def __init__(self, log):
        self.log = Path(log)

    def start(self, brokers=1):
        program = ROOT / "build/release/outbox-mock-broker"
        assert program.exists(), f"{program} is not built"
        self.process = subprocess.Popen(
            [program, "--brokers", str(brokers)],
            # It ends with its input, so with the tests.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("ab"),
            text=True,
        )
        self.bootstrap = self.process.stdout.readline().strip()
        assert self.bootstrap, f"the embedded broker does not start: {self.log.read_text()}"
        return self

    def command(self, *words):
        """One of the commands that its --help lists."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", f"{words}: {answer}"

    def refuse_produce(self, *errors):
        """Answers the next produce requests with these errors."""
        self.command("refuse", 0, *errors)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()

    def create_topic(self, name, partitions=6, **config):
        assert not config, "the embedded broker knows no settings of topics"
        # A topic appears when somebody asks for it.
        consumer = _consumer(self.bootstrap, **{"allow.auto.create.topics": True})
        try:
            wait_for(lambda: consumer.list_topics(name, timeout=10).topics[name].partitions, f"topic {name}")
        finally:
            consumer.close()
        return name


def _consumer(bootstrap, **settings):
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"outbox-test-{os.getpid()}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
            "fetch.message.max.bytes": 16 << 20,
            "log_level": 3,
            **settings,
        }
    )


def _ranges(consumer, topic):
    """(TopicPartition, first offset, end offset) of each partition."""
    metadata = consumer.list_topics(topic, timeout=30).topics[topic]
    if metadata.error:
        return
    for partition in metadata.partitions:
        place = TopicPartition(topic, partition, OFFSET_BEGINNING)
        low, high = _watermarks(consumer, place)
        yield place, low, high


def _watermarks(consumer, place):
    """First and end offset; a partition whose leader has just been elected may ask for another try."""

    def try_it():
        try:
            return consumer.get_watermark_offsets(place, timeout=30)
        except KafkaException as error:
            if error.args[0].code() not in (
                KafkaError.NOT_LEADER_FOR_PARTITION,
                KafkaError.LEADER_NOT_AVAILABLE,
                KafkaError.UNKNOWN_TOPIC_OR_PART,
            ):
                raise
            return None

    return wait_for(try_it, f"the offsets of {place.topic} {place.partition}")


def received(message):
    kind, timestamp = message.timestamp()
    assert kind == TIMESTAMP_CREATE_TIME
    return Received(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
        timestamp,
    )


def read(bootstrap, topics, timeout):
    consumer = _consumer(bootstrap)
    try:
        open_ends = {}
        for topic in topics:
            for place, low, high in _ranges(consumer, topic):
                if high > low:
                    open_ends[topic, place.partition] = high
        if not open_ends:
            return []
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in open_ends])
        messages = []
        deadline = time.monotonic() + timeout
        while open_ends:
            assert time.monotonic() < deadline, f"still to be read after {timeout} s: {open_ends}"
            for message in consumer.consume(10000, 0.1):
                if message.error():
                    raise KafkaException(message.error())
                messages.append(received(message))
                if message.offset() + 1 >= open_ends.get((message.topic(), message.partition()), 1 << 62):
                    del open_ends[message.topic(), message.partition()]
        messages.sort(key=lambda m: (m.topic, m.partition, m.offset))
        return messages
    finally:
        consumer.close()


class Follower:
    """A consumer that stays and receives what comes from now on."""

    def __init__(self, bootstrap, topic):
        self.consumer = _consumer(bootstrap)
        ends = [TopicPartition(topic, place.partition, high) for place, _, high in _ranges(self.consumer, topic)]
        assert ends, f"there is no topic {topic}"
        self.consumer.assign(ends)
        self.messages = []

    def take(self, count, timeout=30.0):
        """Waits until `count` messages have come in all; returns them."""
        deadline = time.monotonic() + timeout
        while len(self.messages) < count:
            assert time.monotonic() < deadline, f"{len(self.messages)} of {count} messages after {timeout} s"
            for message in self.consumer.consume(10000, 0.05):
                if message.error():
                    raise KafkaException(message.error())
                self.messages.append(received(message))
        return self.messages

    def close(self):
        self.consumer.close()


def kcat(*arguments):
    program = shutil.which("kcat")
    assert program, "kcat is not installed"
    return subprocess.run([program, *map(str, arguments)], capture_output=True, check=True, timeout=60).stdout
