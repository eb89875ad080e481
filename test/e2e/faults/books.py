"""Reads the books for the judge: the ledgers from the databases, the topics by a consumer that is not ours."""

import time

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from faults.contents import LEDGER, entry_of
from faults.judge import Judge
from support.kafka import _consumer, _ranges


def compare(databases, bootstrap, topics, duplicates_allowed):
    """The judge, fed with everything; its findings are in close()."""
    judge = Judge(duplicates_allowed)
    for database in databases:
        for entry in ledger(database):
            judge.committed(entry)
    for database in databases:
        for message_id in parked(database):
            judge.parked(message_id)
    read_topics(bootstrap, topics, judge.arrived)
    return judge


def ledger(database):
    with database.connect() as connection, connection.cursor() as cursor:
        rest = b""
        with cursor.copy(LEDGER) as copy:
            for block in copy:
                lines = (rest + bytes(block)).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    yield entry_of(line, database.name)


def parked(database):
    return [i.encode() for (i,) in database.sql("SELECT id::text FROM outbox.deferred WHERE state = 'parked'")]


def read_topics(bootstrap, topics, visit, timeout=300.0):
    """Calls visit(topic, partition, offset, key, value, headers, timestamp), in the order of offsets."""
    consumer = _consumer(bootstrap)
    try:
        ends = {}
        for topic in topics:
            for place, low, high in _ranges(consumer, topic):
                if high > low:
                    ends[topic, place.partition] = high
        if not ends:
            return
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in ends])
        deadline = time.monotonic() + timeout
        while ends:
            assert time.monotonic() < deadline, f"still to be read after {timeout} s: {ends}"
            for message in consumer.consume(5000, 0.1):
                if message.error():
                    raise KafkaException(message.error())
                place = message.topic(), message.partition()
                visit(
                    *place, message.offset(), message.key(), message.value(), message.headers(), message.timestamp()[1]
                )
                if message.offset() + 1 >= ends.get(place, 1 << 62):
                    del ends[place]
    finally:
        consumer.close()
