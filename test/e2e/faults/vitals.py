"""Watches the processes: memory, descriptors and threads of relays, sinks and launcher; how far the relays are."""

import os
import re
import threading
import time
from collections import deque

import psycopg

from support.processes import children, command_line, private_memory

RELAY = re.compile(r"outbox relay for database (\d+)")


class Vitals:
    """Samples in a thread of its own, from /proc, so that no fault of the server is in its way."""

    def __init__(self, server, databases, every=1.0):
        self.server = server
        self.databases = databases
        self.every = every
        self.samples = []
        self.delivered = {database.name: deque(maxlen=600) for database in databases}
        self.stopping = threading.Event()
        self.away = threading.Event()  # it disconnects while this is set
        self.threads = [threading.Thread(target=self._watch, daemon=True)]
        self.threads += [threading.Thread(target=self._follow, args=(d,), daemon=True) for d in databases]

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def take_samples(self):
        samples, self.samples = self.samples, []
        return samples

    # -- from /proc ----------------------------------------------------------------------------------------

    def processes(self):
        """(kind, oid of the database or None, pid) of what is there at this moment."""
        found = []
        try:
            postmaster = self.server.postmaster_pid
            for pid in children(postmaster):
                title = " ".join(command_line(pid))
                relay = RELAY.search(title)
                if relay:
                    found.append(("relay", int(relay.group(1)), pid))
                    # Between fork and exec a child still looks like its parent, with all its descriptors.
                    sinks = [child for child in children(pid) if "outbox-kafka" in command_line(child)[0]]
                    found += [("sink", int(relay.group(1)), child) for child in sinks]
                elif "outbox launcher" in title:
                    found.append(("launcher", None, pid))
        except (OSError, ValueError, IndexError):
            pass  # it ends just now
        return found

    def pid(self, kind, database=None):
        for found, oid, pid in self.processes():
            if found == kind and (database is None or oid == database.oid):
                return pid
        return None

    def _watch(self):
        began = time.monotonic()
        while not self.stopping.wait(self.every):
            for kind, _, pid in self.processes():
                try:
                    descriptors, threads = (len(os.listdir(f"/proc/{pid}/{what}")) for what in ("fd", "task"))
                    values = private_memory(pid), descriptors, threads
                except (OSError, AttributeError):
                    continue
                self.samples.append((time.monotonic() - began, kind, pid, *values))

    # -- from outbox.status --------------------------------------------------------------------------------

    def _follow(self, database):
        while not self.stopping.wait(0.1):
            if self.away.is_set():
                continue
            try:
                with database.connect(application_name="vitals") as connection:
                    while not self.away.is_set() and not self.stopping.wait(0.1):
                        [row] = connection.execute("SELECT delivered FROM outbox.status").fetchall()
                        self.delivered[database.name].append((time.monotonic(), row[0]))
            except psycopg.Error:
                continue  # the server is away

    def delivered_lately(self, database, seconds):
        """Messages acknowledged in the last `seconds`, as far as somebody was there to look."""
        since = time.monotonic() - seconds
        values = [value for moment, value in list(self.delivered[database.name]) if moment >= since]
        return max(values) - min(values) if values else 0
