"""What outbox-file wrote, as messages."""

import base64
import json

from support.ledger import Received


def read_lines(path):
    """The complete lines of the file, decoded."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


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
