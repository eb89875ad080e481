"""What outbox-file wrote, as messages."""

import base64
import json
import re

from support.ledger import Received


# How a line begins and ends, whatever is in it: within a text quotes are escaped.
BEGINNING, END = b'{"topic":', re.compile(rb'"timestamp":-?[0-9]+}')


def is_piece(line):
    """Whether it is the half of a line that a sink leaves which is killed while it writes; its message comes again."""
    return bool(line) and not END.search(line) and line[: len(BEGINNING)] == BEGINNING[: len(line)]


def read_lines(path):
    """The whole lines of the file, decoded. What is neither a line nor the first half of one is an error."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if not is_piece(line)]


def _bytes(value):
    if value is None:
        return None
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()


def read_messages(path):
    return [
        Received(
            line["topic"],
            0,
            number,
            _bytes(line["key"]),
            _bytes(line["payload"]),
            tuple((name, _bytes(value)) for name, value in line["headers"]),
            line["timestamp"],
        )
        for number, line in enumerate(read_lines(path))
    ]
