"""A polling relay as it is often written: SELECT ... FOR UPDATE SKIP LOCKED, produce, flush, DELETE. A rival, bench only.

skip_locked.py DSN BOOTSTRAP: runs until it is terminated. One process, because more of them lose the order per key.
"""

import signal
import sys
import time

import psycopg
from confluent_kafka import Producer

TABLE = """
    CREATE TABLE polled_outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id uuid NOT NULL DEFAULT gen_random_uuid(),
        topic text NOT NULL, key text, payload text, created_at timestamptz NOT NULL DEFAULT clock_timestamp())
"""
TAKE = "SELECT id, message_id, topic, key, payload FROM polled_outbox ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED"
PAUSE = 0.01  # when there was nothing


def relay(db, producer):
    """A batch: deleted when, and only when, all of it is acknowledged. Returns how many messages it held."""
    refused = []
    with db.transaction():
        rows = db.execute(TAKE, prepare=True).fetchall()
        for _, message, topic, key, payload in rows:
            producer.produce(
                topic, payload, key, headers=[("id", str(message))], on_delivery=lambda error, _: error and refused.append(error)
            )
        producer.flush()
        if refused:
            raise RuntimeError(refused[0])
        if rows:
            db.execute("DELETE FROM polled_outbox WHERE id = ANY(%s)", [[row[0] for row in rows]], prepare=True)
    return len(rows)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    producer = Producer({
        "bootstrap.servers": sys.argv[2], "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 0,
    })  # fmt: skip
    with psycopg.connect(sys.argv[1], autocommit=True) as db:
        while True:
            if relay(db, producer) == 0:
                time.sleep(PAUSE)


if __name__ == "__main__":
    main()
