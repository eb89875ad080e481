"""What messages hold, in SQL; bench/load/messages.h says the same in C and explains it."""

KEYS = 10_000
# In the order in which jsonb keeps them: by length, then by name.
USER_HEADERS = {
    "type": "order.created",
    "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
    "source": "shop-service",
    "tenant": "northwind",
}


def headers_json(count):
    """The first `count` of the user's headers as a literal of type jsonb, or NULL."""
    if not count:
        return "NULL::jsonb"
    pairs = ", ".join(f'"{name}": "{value}"' for name, value in list(USER_HEADERS.items())[:count])
    return f"'{{{pairs}}}'::jsonb"


def payload_sql(number, size):
    return f"rpad({number}::text || ' ', {size}, 'x')"


def key_sql(number, keys=KEYS):
    return f"mod({number}, {keys})::text"


def emit_sql(number, size, topic, headers=0, keys=KEYS):
    """The call for message `number`, which is an expression of type bigint."""
    arguments = f"'{topic}', {key_sql(number, keys)}, {payload_sql(number, size)}"
    return f"outbox.emit({arguments}, {headers_json(headers)})" if headers else f"outbox.emit({arguments})"


def insert_columns(headers=0):
    """Of Debezium's outbox table: what is given beside the id, in the order of insert_values()."""
    return "aggregatetype, aggregateid, type, payload" + (", trace, source, tenant" if headers else "")


def insert_values(number, size, headers=0, keys=KEYS):
    """The same message as a row of Debezium's outbox table."""
    event = f"'{USER_HEADERS['type']}'" if headers else "''"
    values = f"'bench', {key_sql(number, keys)}, {event}, {payload_sql(number, size)}"
    if headers:
        values += "".join(f", '{USER_HEADERS[name]}'" for name in ("trace", "source", "tenant"))
    return values
