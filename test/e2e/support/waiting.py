"""Waiting for conditions: always with a deadline, never for a fixed time."""

import time

PATIENCE = 30.0


def wait_for(condition, what, timeout=PATIENCE, pause=0.02):
    """Calls `condition` until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s still waiting for: {what} (last seen: {result!r})")
        time.sleep(pause)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self.began = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self.began
