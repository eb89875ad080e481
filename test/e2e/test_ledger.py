"""The checker that all other tests rely on notices every kind of damage."""

import dataclasses

import pytest

from support.ledger import Received, Sent, duplicates, problems


def sent(key, *numbers):
    return [Sent(f"id-{key}-{n}", "t", key.encode(), f"{key}{n}".encode(), (("h", b"v"),)) for n in numbers]


def received(messages, partition=0):
    return [
        Received(m.topic, partition, offset, m.key, m.value, (("id", m.id.encode()), *m.headers))
        for offset, m in enumerate(messages)
    ]


SENT = sent("a", 0, 1, 2, 3) + sent("b", 0, 1)
A0, A1, A2, A3, B0, B1 = received(SENT)


def kinds(arrived, **options):
    return {text.split(":")[0] for text in problems(SENT, arrived, **options)}


def test_nothing_to_complain_about():
    assert kinds([A0, A1, A2, A3, B0, B1]) == set()
    assert kinds([B0, A0, A1, B1, A2, A3]) == set()


def test_loss():
    assert kinds([A0, A1, A2, B0, B1]) == {"loss"}


def test_loss_in_the_middle_is_disorder_too():
    assert kinds([A0, A2, A3, B0, B1]) == {"loss", "disorder"}


def test_phantom():
    ghost = received(sent("a", 9))
    assert kinds([A0, A1, A2, A3, B0, B1, *ghost]) == {"phantom"}


def test_message_without_id_is_a_phantom():
    nameless = dataclasses.replace(A0, headers=())
    assert kinds([A0, A1, A2, A3, B0, B1, nameless]) == {"phantom"}


def test_duplicates():
    assert kinds([A0, A1, A1, A2, A3, B0, B1]) == {"duplicate"}
    assert kinds([A0, A1, A2, A1, A2, A3, B0, B1], duplicates_allowed=True) == set()
    assert duplicates([A0, A1, A2, A1, A2, A3, B0, B1]) == 2


@pytest.mark.parametrize("change", [{"value": b"other"}, {"partition": 1}, {"headers": (("id", b"id-a-1"),)}])
def test_duplicate_with_different_bytes(change):
    altered = dataclasses.replace(A1, **change)
    assert "duplicate that differs" in kinds([A0, A1, altered, A2, A3, B0, B1], duplicates_allowed=True)


def test_disorder():
    assert kinds([A1, A0, A2, A3, B0, B1]) == {"disorder"}
    assert kinds([A0, A1, A3, A2, B0, B1]) == {"disorder"}


def test_disorder_of_what_is_sent_again():
    # 2 is sent again behind 3 without 3 following: the last word of the key is an old one.
    assert kinds([A0, A1, A2, A3, A1, A3, B0, B1], duplicates_allowed=True) == {"disorder"}


def test_a_key_in_two_partitions():
    elsewhere = dataclasses.replace(A3, partition=1)
    assert kinds([A0, A1, A2, elsewhere, B0, B1]) == {"disorder"}


@pytest.mark.parametrize(
    "change, kind",
    [
        ({"value": b"x"}, "changed value"),
        ({"value": None}, "changed value"),
        ({"key": None}, "changed key"),
        ({"topic": "u"}, "changed topic"),
        ({"headers": (("id", b"id-b-1"), ("h", None))}, "changed headers"),
        ({"headers": (("id", b"id-b-1"), ("h", b"v"), ("h", b"v"))}, "changed headers"),
    ],
)
def test_changed_bytes(change, kind):
    assert kind in kinds([A0, A1, A2, A3, B0, dataclasses.replace(B1, **change)])


def test_messages_without_key_have_no_order():
    keyless = [Sent(f"n{n}", "t", None, b"%d" % n) for n in range(3)]
    assert problems(keyless, received(reversed(keyless))) == []


def test_empty_is_not_null():
    assert problems([Sent("n", "t", b"k", b"")], [Received("t", 0, 0, b"k", None, (("id", b"n"),))])


def test_a_last_old_message():
    # A key's history that ends with an old message leaves consumers of compacted topics with old state.
    assert kinds([A0, A1, A2, A3, A2, B0, B1], duplicates_allowed=True) == {"disorder"}
