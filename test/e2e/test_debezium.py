"""attach_debezium() against records that a real Debezium made of the same rows (test/compat/recorded.json)."""

import base64
import json
from pathlib import Path

import pytest

from support.files import read_lines, read_messages

RECORDED = json.loads((Path(__file__).parents[1] / "compat/recorded.json").read_text())


def unpack(value):
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"case-{case['number']}")
def test_records_are_those_of_debezium(file_database, case):
    database, table = file_database, f"case_{case['number']}"
    for statement in RECORDED["prepare"]:
        database.sql(statement)
    database.sql(f"CREATE TABLE {table} ({', '.join(case['columns'])})")
    configuration = case["configuration"] | {"topic.prefix": table}
    database.sql("SELECT outbox.attach_debezium(%s::regclass, %s::jsonb)", table, json.dumps(configuration))
    with database.transaction() as session:
        for one in case["rows"]:
            row = {name: unpack(value) for name, value in one["row"].items()}
            names = ", ".join(f'"{name}"' for name in row)
            session.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values()))
    database.drain()
    messages, lines = read_messages(database.file), read_lines(database.file)
    assert len(messages) == len(case["rows"]) > 0
    for message, line, one in zip(messages, lines, case["rows"]):
        headers = tuple((name, unpack(value)) for name, value in one["headers"])
        found = (message.topic, message.key, message.value, message.headers)
        assert found == (one["topic"], unpack(one["key"]), unpack(one["value"]), headers), one["row"]
        assert line["partition"] == one["row"].get("part"), one["row"]
        if one["timestamp"] is not None:
            assert line["timestamp"] == one["timestamp"], one["row"]
