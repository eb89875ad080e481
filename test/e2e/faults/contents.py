"""What a message of the load contains: a function of its place in the ledger, here and in SQL.

So the ledger stays small, and every byte that arrives can be checked without having been kept.
"""

import hashlib
from typing import NamedTuple

from support.cluster import CANARY

TEXT, BINARY, DENSE = 0, 1, 2  # repeated text; repeated bytes, zeros among them; bytes that do not compress
TOMBSTONE = -1  # as a size: no payload at all


class Entry(NamedTuple):
    """A row of a ledger: one message of a committed transaction."""

    id: bytes  # text of the uuid
    topic: str
    key: bytes | None
    n: int  # number within its key: the order of the row locks
    size: int
    shape: int
    partition: int | None = None  # if the load asked for one
    book: str = ""  # the ledger it stands in


def label(key, n):
    return f"{'' if key is None else key.decode()}:{n}"


def payload(entry):
    if entry.size == TOMBSTONE:
        return None
    seed = label(entry.key, entry.n)
    if entry.shape == DENSE:
        blocks = range(entry.size // 64 + 1)
        return b"".join(hashlib.sha512(f"{seed}:{block}".encode()).digest() for block in blocks)[: entry.size]
    digest = hashlib.md5(seed.encode()).hexdigest()
    if entry.shape == TEXT:
        return (f"{CANARY} " + digest * (entry.size // 32 + 1)).encode()[: entry.size]
    return (b"\0" + bytes.fromhex(digest) * (entry.size // 16 + 1))[: entry.size]


def headers(entry):
    """As a consumer sees them, without the header id."""
    number = str(entry.n).encode()
    match entry.n % 4:
        case 0:
            return ()
        case 1:
            return (("n", number),)
        case 2:
            return (("a", b"x"), ("nothing", None))
        case _:
            return (("n", number), ("list", b"1"), ("list", b"zwei"))


# fate: NULL, or why this message must never arrive; it is a header, so that one that does can be told.
SCHEMA = f"""
CREATE TABLE ledger (id uuid, topic smallint, key integer, n bigint, size integer, shape smallint, partition integer);
CREATE TABLE counter (topic smallint, key integer, n bigint, PRIMARY KEY (topic, key)) WITH (fillfactor = 40);
CREATE TABLE topic (number smallint PRIMARY KEY, name text);
CREATE SEQUENCE keyless CACHE 20;

CREATE FUNCTION label(key text, n bigint) RETURNS text IMMUTABLE LANGUAGE sql AS
$$ SELECT coalesce(key, '') || ':' || n $$;

CREATE FUNCTION headers(n bigint, fate text) RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$
    SELECT CASE
        WHEN fate IS NOT NULL THEN jsonb_build_object('fate', fate)
        WHEN n % 4 = 0 THEN NULL
        WHEN n % 4 = 1 THEN jsonb_build_object('n', n)
        WHEN n % 4 = 2 THEN '{{"a": "x", "nothing": null}}'
        ELSE jsonb_build_object('n', n, 'list', '[1, "zwei"]'::jsonb)
    END
$$;

CREATE FUNCTION text_of(label text, size integer) RETURNS text IMMUTABLE LANGUAGE sql AS
$$ SELECT left('{CANARY} ' || repeat(md5(label), size / 32 + 1), size) $$;

CREATE FUNCTION bytes_of(label text, size integer, shape integer) RETURNS bytea IMMUTABLE LANGUAGE sql AS $$
    SELECT substr(CASE WHEN shape = {DENSE}
        THEN (SELECT string_agg(sha512(convert_to(label || ':' || i, 'UTF8')), '' ORDER BY i)
              FROM generate_series(0, size / 64) AS i)
        ELSE '\\x00'::bytea || decode(repeat(md5(label), size / 16 + 1), 'hex') END, 1, size)
$$;

CREATE FUNCTION emit_one(topic text, key text, n bigint, size integer, shape integer, fate text, partition integer)
    RETURNS uuid VOLATILE LANGUAGE sql AS $$
    SELECT CASE
        WHEN size = {TOMBSTONE} THEN outbox.emit(topic, key, NULL::bytea, headers(n, fate), partition)
        WHEN shape = {TEXT} THEN outbox.emit(topic, key, text_of(label(key, n), size), headers(n, fate), partition)
        ELSE outbox.emit(topic, key, bytes_of(label(key, n), size, shape), headers(n, fate), partition)
    END
$$;

-- Emits `number` messages of a key (NULL: of none) and writes them down. The row lock on the key's counter comes
-- first, so the numbers follow the commits. Sizes of several vary up to `size`. Negative `parts`: the key decides
-- on the partition; otherwise it is the key's number modulo that.
CREATE FUNCTION post(topic_ integer, key_ integer, number integer, size_ integer, shape_ integer, fate text,
                     parts integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name_ text := (SELECT name FROM topic WHERE topic.number = topic_);
    key_text text := CASE WHEN key_ IS NOT NULL THEN current_database() || '-' || key_ END;
    part integer := CASE WHEN parts > 0 THEN key_ % parts END;
    base bigint;
BEGIN
    IF key_ IS NULL THEN
        INSERT INTO ledger
        SELECT emit_one(name_, NULL, m.n, m.size, shape_, fate, part), topic_, NULL, m.n, m.size, shape_, part
        FROM (SELECT nextval('keyless') AS n, CASE WHEN number = 1 THEN size_ ELSE i * 7919 % (size_ + 1) END AS size
              FROM generate_series(1, number) AS i OFFSET 0) AS m;
        RETURN;
    END IF;
    UPDATE counter SET n = n + number WHERE topic = topic_ AND key = key_ RETURNING n - number INTO base;
    INSERT INTO ledger
    SELECT emit_one(name_, key_text, m.n, m.size, shape_, fate, part), topic_, key_, m.n, m.size, shape_, part
    FROM (SELECT base + i AS n, CASE WHEN number = 1 THEN size_ ELSE (i * 7919 % (size_ + 1))::integer END AS size
          FROM generate_series(1, number) AS i OFFSET 0) AS m;
END
$$;

CREATE FUNCTION post_in_vain(topic integer, key integer, number integer, size integer, shape integer)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM post(topic, key, number, size, shape, 'exception block', -1);
    RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
    NULL;
END
$$;
"""

LEDGER = """
COPY (
    SELECT l.id, t.name, CASE WHEN l.key IS NOT NULL THEN current_database() || '-' || l.key END, l.n, l.size, l.shape,
           l.partition
    FROM ledger AS l JOIN topic AS t ON t.number = l.topic
) TO STDOUT
"""


def entry_of(line, book):
    """A line of what LEDGER copies."""
    message_id, topic, key, n, size, shape, partition = line.rstrip(b"\n").split(b"\t")
    return Entry(
        message_id,
        topic.decode(),
        None if key == b"\\N" else key,
        int(n),
        int(size),
        int(shape),
        None if partition == b"\\N" else int(partition),
        book,
    )
