"""How something goes over time: sizes on disk, sampled; rates and latencies, in steps of a few seconds."""

import threading
import time

import numpy as np

STEP = 5  # seconds


class Sizes(threading.Thread):
    """Bytes of pg_wal, of the relations that hold messages and of the database, once a second."""

    def __init__(self, postgres, relations, every=1.0):
        super().__init__(daemon=True)
        self.postgres, self.every = postgres, every
        self.sql = f"""
            SELECT (SELECT sum(size) FROM pg_ls_waldir()),
                   (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class AS c
                    WHERE c.relkind = 'r' AND c.relnamespace::regnamespace || '.' || c.relname LIKE '{relations}'),
                   pg_database_size(current_database())
        """
        self.rows = []  # ns since 1970, wal, table, database
        self.stopping = threading.Event()

    def run(self):
        with self.postgres.connect(application_name="sizes") as db:
            while True:
                try:
                    row = db.execute(self.sql).fetchone()
                except Exception:  # a file of pg_wal that goes while they are counted
                    row = None
                if row:
                    self.rows.append((time.time_ns(), *map(int, row)))
                if self.stopping.wait(self.every):
                    return

    def stop(self):
        self.stopping.set()
        self.join()
        return np.array(self.rows, dtype=np.int64).reshape(-1, 4)


def sizes_series(rows, start):
    """For a record: seconds since `start`, and bytes."""
    return {
        "t": [round((row[0] - start) / 1e9, 1) for row in rows.tolist()],
        "wal": rows[:, 1].tolist(), "table": rows[:, 2].tolist(), "database": rows[:, 3].tolist(),
    }  # fmt: skip


def at(series, name, moment):
    """The last value at or before a moment (seconds)."""
    before = [value for t, value in zip(series["t"], series[name]) if t <= moment]
    return before[-1] if before else series[name][0]


def highest(series, name, start, end):
    return max((value for t, value in zip(series["t"], series[name]) if start <= t <= end), default=0)


def flow_series(sent, arrived, start, end, step=STEP):
    """Steps of time: messages a second that came, and p50 and p99 (ms) of those that were due then, from due to arrival."""
    edges = np.arange(start, end + 1, step * 1_000_000_000)
    came, _ = np.histogram(arrived, edges)
    delay = (arrived - sent.due) / 1e6
    where = np.digitize(sent.due, edges) - 1
    p50, p99 = [], []
    for at_step in range(len(edges) - 1):
        inside = delay[where == at_step]
        p50.append(round(float(np.percentile(inside, 50)), 3) if len(inside) else None)
        p99.append(round(float(np.percentile(inside, 99)), 3) if len(inside) else None)
    return {"t": [i * step for i in range(len(edges) - 1)], "rate": (came / step).tolist(), "p50": p50, "p99": p99}
