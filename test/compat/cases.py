"""Random outbox tables, configurations of the router, and rows. Everything follows from the seed and the case's number."""

import json
import random
import string
from dataclasses import dataclass, field

ROUTER = "io.debezium.transforms.outbox.EventRouter"
SIMPLE = "org.apache.kafka.connect.storage.SimpleHeaderConverter"
STRING = "org.apache.kafka.connect.storage.StringConverter"
JSON = "org.apache.kafka.connect.json.JsonConverter"
BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"
BINARY = "io.debezium.converters.BinaryDataConverter"

TEXTS = ["", " ", "a", "Zürich", "日本語", "😀", 'q"uote', "back\\slash", "tab\tnew\nline", "{}", "null", "0", "  x  ", "a,b=c", "\u0001"]
ROUTES = ["order", "User", "a.b", "A_b-1", "order.created", "orders", "x"]
# (regex, replacement)
ROUTINGS = [
    (None, None),
    (None, "events.${routedByValue}"),
    (None, "${routedByValue}.v1"),
    ("(.*)", "g.$1"),
    ("(?<a>[A-Za-z]+)(?<b>.*)", "n.${b}.${a}"),
    ("order(.*)", "o$1.x"),
    ("(.)(.*)", "p.$2-$1"),
    ("(.*?)", "lazy.$1."),
    ("a|order|orders", "alt"),
    ("(?i)USER", "ci"),
    ("([a-z]+)\\.([a-z]+)", "$2.$10"),
    ("\\w+", "plain"),
    (".*", "\\$one\\.".replace("\\$", "d")),
]


def text(rng):
    if rng.random() < 0.4:
        return rng.choice(TEXTS)
    return "".join(rng.choice(string.ascii_letters + string.digits + " äß€") for _ in range(rng.randrange(1, 12)))


def number(rng, digits, scale):
    value = rng.choice([0, 1, -1, 10**digits - 1, -(10**digits) + 1, rng.randrange(-(10**digits) + 1, 10**digits)])
    sign, value = ("-" if value < 0 else ""), str(abs(value)).rjust(scale + 1, "0")
    return f"{sign}{value[:-scale]}.{value[-scale:]}" if scale else sign + value


def json_value(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return text(rng).replace("\u0001", "")
    if kind == 1:
        return rng.choice([0, -1, 7, 2**31 - 1, -(2**31)])
    if kind == 2:
        return rng.choice([2**31, 2**53, 2**63 - 1, -(2**63)])
    if kind == 3:
        return rng.choice([0.5, -1.25, 1e10, 1e-7, 123456.789, 1e7, 0.001])
    if kind == 4:
        return rng.choice([True, False])
    if kind == 5:
        return None
    if kind == 6:
        sample = json_value(rng, depth + 1)
        return [sample] * rng.randrange(3)
    return {rng.choice(["a", "b", "c", "Ä", "long name"]) + str(i): json_value(rng, depth + 1) for i in range(rng.randrange(4))}


def json_object(rng):
    if rng.random() < 0.08:
        return rng.choice(["null", '"text"', "12", "[]", "[1]", "  "][: 6 if rng.random() < 0.5 else 5])
    return json.dumps({f"k{i}": json_value(rng) for i in range(rng.randrange(5))}, ensure_ascii=rng.random() < 0.5)


def jsonb_object(rng):
    found = json_object(rng)
    return found if found.strip() else "{}"


def moment(rng, digits=6):
    day = f"{rng.choice([1, 1969, 1970, 2000, 2026, 2026, 9999]):04d}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"
    clock = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}"
    return f"{day} {clock}" + (f".{rng.randrange(10**digits):0{digits}d}" if digits else "")


def later(rng, digits=6):
    """A moment that Kafka has a timestamp for."""
    return f"20{rng.randrange(10, 26)}{moment(rng, digits)[4:]}"


# By type: a value for it. None stands for the connector's own limits, see differences.
VALUES = {
    "smallint": lambda rng: rng.choice([0, 1, -1, 32767, -32768]),
    "integer": lambda rng: rng.choice([0, 1, -1, 2**31 - 1, -(2**31), rng.randrange(10**6)]),
    "bigint": lambda rng: rng.choice([0, 2**63 - 1, -(2**63), rng.randrange(10**12)]),
    "real": lambda rng: rng.choice([0, 0.1, -1.5, 3.4e38, 1e-10, 1e7, 9999999, 0.001, "NaN", "Infinity", "-Infinity"]),
    "double precision": lambda rng: rng.choice([0, 0.1, -1.5, 1e308, 5e-324, 1e7, 9999999, 0.001, 1 / 3, "NaN", "Infinity"]),
    "boolean": lambda rng: rng.random() < 0.5,
    "text": text,
    "varchar(40)": text,
    "char(12)": lambda rng: text(rng)[:12],
    "uuid": lambda rng: f"{rng.getrandbits(128):032x}",
    "numeric": lambda rng: number(rng, rng.randrange(1, 30), rng.randrange(9)),
    "numeric(12,3)": lambda rng: number(rng, 12, 3),
    "numeric(6,0)": lambda rng: number(rng, 6, 0),
    "numeric(20,12)": lambda rng: number(rng, 20, 12),
    "bytea": lambda rng: rng.randbytes(rng.choice([0, 1, 2, 3, 10])),
    "json": jsonb_object,
    "jsonb": jsonb_object,
    "date": lambda rng: moment(rng)[:10],
    "timestamp": moment,
    "timestamp(3)": lambda rng: moment(rng, 3),
    "timestamp(0)": lambda rng: moment(rng, 0),
    "timestamptz": lambda rng: moment(rng) + "+00",
    "timestamptz(3)": lambda rng: moment(rng, 3) + "+00",
    "time": lambda rng: moment(rng)[11:],
    "time(3)": lambda rng: moment(rng, 3)[11:],
    "kind": lambda rng: rng.choice(["small", "large", "Größe"]),
    "positive": lambda rng: rng.randrange(1, 10**6),
    "inet": lambda rng: rng.choice(["10.0.0.1", "10.1.0.0/16", "::1"]),
    "xml": lambda rng: rng.choice(["<a/>", "<a>ü</a>"]),
}
DEFAULTS = {"text": "'dflt'", "integer": "7", "boolean": "true", "uuid": "gen_random_uuid()", "timestamptz": "now()", "jsonb": "'{}'"}
PREPARE = (
    "CREATE TYPE kind AS ENUM ('small', 'large', 'Größe')",
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
)


@dataclass
class Column:
    name: str
    type: str
    null: bool
    default: str | None = None

    @property
    def sql(self):
        return f'"{self.name}" {self.type}' + ("" if self.null else " NOT NULL") + (f" DEFAULT {self.default}" if self.default else "")

    def value(self, rng):
        if self.null and rng.random() < 0.2:
            return None
        return VALUES[self.type](rng)


@dataclass
class Case:
    """One outbox table, one configuration, its rows."""

    number: int
    columns: list
    options: dict  # of the router, without their prefix
    connector: dict  # of the connector
    rows: list = field(default_factory=list)  # by column

    @property
    def table(self):
        return f"case_{self.number}"

    @property
    def configuration(self):
        """The connector's, without what concerns its slot and its connection."""
        options = {f"transforms.outbox.{name}": value for name, value in self.options.items()}
        return {"transforms": "outbox", "transforms.outbox.type": ROUTER} | options | self.connector

    def explain(self):
        return f"CREATE TABLE {self.table} ({', '.join(column.sql for column in self.columns)})\n{json.dumps(self.configuration, indent=1)}"


class Maker:
    def __init__(self, seed, number):
        self.rng = random.Random(f"{seed}/{number}")
        self.number = number
        self.columns, self.options, self.connector = [], {}, {}

    def chance(self, probability):
        return self.rng.random() < probability

    def column(self, option, default, types, null=0.5, name=None):
        """A column for an option, which is only given where the name is not the default's."""
        name = name or (default if default and self.chance(0.6) else self.rng.choice(["Col", "c", "x y", "spalte"]) + f"_{len(self.columns)}")
        column = Column(name, self.rng.choice(types), self.chance(null))
        if column.type in DEFAULTS and option is None and self.chance(0.2):
            column.default = DEFAULTS[column.type]
        self.columns.append(column)
        if option and name != default:
            self.options[option] = name
        return column

    def make(self, rows):
        rng = self.rng
        self.converters()
        self.column("table.field.event.id", "id", ["uuid", "uuid", "uuid", "text", "bigint"], null=0)
        self.route = self.column("route.by.field", "aggregatetype", ["text", "varchar(40)"], null=0)
        keys = ["bytea"] if self.key in (BYTES, BINARY) else [t for t in VALUES if t not in ("bytea", "numeric") or self.key == JSON]
        self.column("table.field.event.key", "aggregateid", keys)
        self.payload = self.column("table.field.event.payload", "payload", self.payloads())
        self.routing()
        if self.chance(0.4):
            self.column("table.field.event.timestamp", None, ["timestamp", "timestamp(3)", "timestamp(0)"])
            self.timestamp = self.columns[-1]
            # No default of a column that the router asks for itself stands in for NULL.
            if self.timestamp.null and self.chance(0.4):
                self.timestamp.default = "now()"
        else:
            self.timestamp = None
        self.placements()
        self.expansion()
        if self.chance(0.4):
            self.options["route.tombstone.on.empty.payload"] = rng.choice(["true", "false"])
        if self.chance(0.3):
            self.options["table.op.invalid.behavior"] = rng.choice(["warn", "error"])
        case = Case(self.number, self.columns, self.options, self.connector)
        for i in range(rows):
            case.rows.append(self.row(i))
        # The last one is waited for: nothing about it can go wrong.
        if self.payload.type in ("jsonb", "json", "text", "varchar(40)"):
            case.rows[-1][self.payload.name] = "{}"
        return case

    def converters(self):
        rng = self.rng
        self.key, self.value = rng.choice([STRING, STRING, JSON, JSON, BYTES]), rng.choice([STRING, STRING, JSON, JSON, JSON, BINARY])
        self.connector |= {"key.converter": self.key, "value.converter": self.value}
        for side, converter in (("key", self.key), ("value", self.value)):
            if converter == JSON and self.chance(0.6):
                self.connector[f"{side}.converter.schemas.enable"] = rng.choice(["true", "false"])
        if self.chance(0.2):
            self.connector["decimal.handling.mode"] = rng.choice(["precise", "double", "string"])
        if self.chance(0.2):
            self.connector["time.precision.mode"] = rng.choice(["adaptive", "adaptive_time_microseconds"])
        self.binary = rng.choice(["bytes"] * 4 + ["base64", "base64-url-safe", "hex"])
        if self.binary != "bytes" and BYTES not in (self.key,) and self.value != BINARY:
            self.connector["binary.handling.mode"] = self.binary
        self.connector["extended.headers.enabled"] = "false"
        self.headers = rng.choice([SIMPLE, SIMPLE, STRING])
        self.connector["header.converter"] = self.headers

    def payloads(self):
        if self.value == BINARY:
            return ["bytea"]
        some = ["jsonb", "jsonb", "json", "text", "varchar(40)"]
        return some + (["bytea", "integer", "numeric(12,3)", "boolean", "uuid"] if self.value == JSON else ["integer", "boolean", "uuid"])

    def routing(self):
        regex, replacement = self.rng.choice(ROUTINGS)
        if regex:
            self.options["route.topic.regex"] = regex
        if replacement:
            self.options["route.topic.replacement"] = replacement

    def placements(self):
        rng, entries, names = self.rng, [], set()
        allowed = ["header"] * 3 + (["envelope"] * 2 if self.value != BINARY and self.chance(0.6) else [])
        for _ in range(rng.choice([0, 0, 1, 2, 4])):
            where = rng.choice(allowed)
            strings = (self.headers if where == "header" else self.value) == STRING
            types = [t for t in VALUES if not strings or t != "numeric"]
            column = self.column(None, None, types)
            alias = rng.choice([None, None, "alias", "id", "ä-1"])
            if where == "envelope" and (alias or column.name) in names:
                alias = f"alias_{len(names)}"
            if where == "envelope":
                names.add(alias or column.name)
            entries.append(f"{column.name}:{where}" + (f":{alias}" if alias else ""))
        if self.chance(0.25):
            self.columns.append(Column("part", "integer", self.chance(0.5), "3" if self.chance(0.4) else None))
            entries.append("part:partition")
        self.envelope = any(entry.split(":")[1] == "envelope" for entry in entries)
        if entries and self.chance(0.2):
            self.options["table.field.additional.missing"] = "ignore"
            entries.insert(rng.randrange(len(entries) + 1), "no_such_column:header")
        if entries:
            self.options["table.fields.additional.placement"] = rng.choice([",", " , "]).join(entries)
        if self.envelope and self.chance(0.3):
            self.column("table.field.event.schema.version", None, ["integer"])

    def expansion(self):
        if self.payload.type in ("json", "jsonb", "text") and self.chance(0.5) and "table.field.event.schema.version" not in self.options:
            self.options["table.expand.json.payload"] = "true"
            if self.chance(0.4):
                self.options["table.json.payload.null.behavior"] = self.rng.choice(["ignore", "optional_bytes"])
            if self.payload.type == "text":
                self.payload.json = True

    def row(self, i):
        rng, values = self.rng, {}
        # One schema of the envelope goes with one route: Debezium keeps the first one's name.
        route = ROUTES[self.number % len(ROUTES)] if self.envelope else rng.choice(ROUTES)
        for column in self.columns:
            values[column.name] = column.value(rng)
        first = self.columns[0]
        values[first.name] = {
            "uuid": f"{rng.getrandbits(128):032x}", "text": f"id {self.number}/{i} ü", "bigint": self.number * 10**6 + i,
        }[first.type]  # fmt: skip
        values[self.route.name] = route
        if self.timestamp and values[self.timestamp.name]:
            values[self.timestamp.name] = later(rng, 3 if self.timestamp.type == "timestamp(3)" else 0)
        if "part" in values and values["part"] is not None:
            values["part"] = rng.randrange(6)
        if getattr(self.payload, "json", False) and values[self.payload.name] is not None:
            values[self.payload.name] = json_object(rng)
        return values


def make(seed, number, rows):
    return Maker(seed, number).make(rows)
