"""Compares two records; and knows where they may differ, and why (docs/debezium.md, "Where we differ")."""

import json

AN_HOUR = 3_600_000  # ms


def by_id(records):
    """Records by the value of their first header called id."""
    found = {}
    for record in records:
        number = next((value for name, value in record.headers if name == "id"), None)
        found.setdefault(number, []).append(record)
    return found


def identity(case, row):
    """What the header id of a row's record says."""
    value = row[case.columns[0].name]
    if case.columns[0].type == "uuid":
        return f"{value[:8]}-{value[8:12]}-{value[12:16]}-{value[16:20]}-{value[20:]}".encode()
    return str(value).encode()


def compare(case, theirs, ours):
    """A list of complaints, and how many rows had a difference that is known, by its name."""
    complaints, known = [], {}
    theirs, ours = by_id(theirs), by_id(ours)
    for row in case.rows:
        number = identity(case, row)
        left, right = theirs.get(number, []), ours.get(number, [])
        if len(right) != 1:
            complaints.append(f"{number}: outbox sent {len(right)} records; row {row}")
            continue
        if (why := expected_difference(case, row, left, right[0])) is not None:
            known[why] = known.get(why, 0) + 1
            continue
        if len(left) != 1:
            complaints.append(f"{number}: Debezium sent {len(left)} records; row {row}; ours {right[0]}")
            continue
        for what, a, b in differences(case, row, left[0], right[0]):
            complaints.append(f"{number}: {what}\n    Debezium {a!r}\n    outbox   {b!r}\n    row {row}")
    return complaints, known


def differences(case, row, left, right):
    for what in ("topic", "key", "value", "headers"):
        if getattr(left, what) != getattr(right, what):
            yield what, getattr(left, what), getattr(right, what)
    # Without a key every producer chooses as it likes.
    if (left.key is not None or row.get("part") is not None) and left.partition != right.partition:
        yield "partition", left.partition, right.partition
    column = case.options.get("table.field.event.timestamp")
    # Otherwise it is when Debezium read the row, and when it was committed here.
    apart = 0 if column and row[column] is not None else AN_HOUR
    if abs(left.timestamp - right.timestamp) > apart:
        yield "timestamp", left.timestamp, right.timestamp


def expected_difference(case, row, left, right):
    """The name of a difference of docs/debezium.md that explains this row; None: there is none."""
    if case.options.get("table.expand.json.payload") != "true":
        return None
    payload = row[case.options.get("table.field.event.payload", "payload")]
    if not isinstance(payload, str):
        return None
    try:
        document = json.loads(payload)
    except ValueError:
        return None
    if isinstance(document, list) or has_mixed_objects(document):
        # 3.6.1 keeps half of an expansion that fails: its converter then fails, or writes no schema.
        if not left or left[0].value != right.value:
            return "an expansion that fails"
    return None


def has_mixed_objects(node):
    """An array of objects, or of arrays, whose elements are not alike."""
    if isinstance(node, dict):
        return any(has_mixed_objects(value) for value in node.values())
    if not isinstance(node, list):
        return False
    shapes = {json.dumps(shape(one)) for one in node if one is not None}
    return len(shapes) > 1 or any(has_mixed_objects(one) for one in node)


def shape(node):
    if isinstance(node, dict):
        return {name: shape(value) for name, value in node.items()}
    if isinstance(node, list):
        return [shape(one) for one in node[:1]]
    return type(node).__name__
