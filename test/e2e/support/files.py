"""What outbox-file wrote, as messages."""

import base64
import json

from support.ledger import Received


def read_lines(path):
    """The whole lines of the file, decoded; a sink killed while it wrote leaves half of one, whose message comes again."""
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    return [line for line in map(_decoded, text.split("\n")[:-1]) if line]


def _decoded(line):
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


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
