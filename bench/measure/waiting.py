"""Waiting for conditions: always with a deadline."""

import time


class Failed(Exception):
    """A measurement that has no number, and why."""


def wait_for(condition, what, timeout=60.0, pause=0.01):
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise Failed(f"after {timeout:g} s still waiting for {what}")
        time.sleep(pause)
    return result
