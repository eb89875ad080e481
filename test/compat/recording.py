"""Records of a real Debezium kept in a file, for tests that start none (e2e/test_debezium.py)."""

import base64
import json
from pathlib import Path

from .cases import PREPARE
from .comparison import by_id, expected_difference, identity

FILE = Path(__file__).with_name("recorded.json")


def pack(value):
    """As JSON; bytes in base64."""
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def unpack(value):
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


def recorded(case, records):
    """A case and what Debezium made of its rows, but for those that are known to differ."""
    theirs, rows = by_id(records), []
    for row in case.rows:
        found = theirs.get(identity(case, row), [])
        if len(found) != 1 or expected_difference(case, row, found, found[0]):
            continue
        one = found[0]
        column = case.options.get("table.field.event.timestamp")
        rows.append({
            "row": {name: pack(value) for name, value in row.items()}, "topic": one.topic, "key": pack(one.key), "value": pack(one.value),
            "headers": [[name, pack(value)] for name, value in one.headers],
            "timestamp": one.timestamp if column and row[column] is not None else None,
        })  # fmt: skip
    return {"number": case.number, "columns": [column.sql for column in case.columns], "configuration": case.configuration, "rows": rows}


def write(cases, seed):
    """One line for each case, so that changes can be read."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = json.dumps({"debezium": "3.6.1.Final", "seed": seed, "prepare": PREPARE}, ensure_ascii=False)
    FILE.write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n')
