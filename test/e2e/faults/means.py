"""What faults have in common: how long they last, and what they may make arrive twice."""

import contextlib
import time

import psycopg

from faults.world import IN_FLIGHT
from support.waiting import wait_for


class Means:
    """The fields are those of the Nemesis."""

    def last(self, seconds):
        """The fault lasts; healing cuts it short."""
        self.ending.wait(seconds)

    def _database(self, chance):
        return chance.choice(self.world.databases)

    @contextlib.contextmanager
    def _trouble(self):
        """Meanwhile, and a little longer, acknowledgements may be missing where a relay stops."""
        interval = [time.monotonic(), float("inf")]
        self.troubles.append(interval)
        try:
            yield
        finally:
            interval[1] = time.monotonic()

    @contextlib.contextmanager
    def _relays_stop(self, databases=None):
        """Cleanly, so nothing may arrive twice, unless something keeps the acknowledgements away."""
        began = time.monotonic()
        try:
            yield
        finally:
            for database in databases or self.world.databases:
                self.stops.append((began, time.monotonic(), database.name))

    def _sink_dies(self, database):
        """What it had not acknowledged may arrive twice."""
        self.may_repeat[database.name] += IN_FLIGHT

    def _persist(self, action):
        """Whoever puts things right again does not give up because the server is restarting."""

        def tried():
            try:
                action()
                return True
            except psycopg.Error:
                return False

        wait_for(tried, "an operator's command", timeout=120, pause=0.2)
