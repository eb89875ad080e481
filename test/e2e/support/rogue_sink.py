#!/usr/bin/python3
"""A sink that sends rubbish, one kind of it for each mode. A test puts it where a server of its own starts its sinks.

Beside it lies rogue.json, which names the mode and a file. What it acknowledges it has appended to that file,
in the form that outbox-file writes: it may talk nonsense, but it does not lie.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import termios
import time
import uuid
from pathlib import Path

HEAD = struct.Struct("=Qq16siiiIIHH")


class Relay:
    """The other end: frames in, anything out."""

    def __init__(self):
        self.socket = socket.socket(fileno=0)
        self.input = b""
        self.messages = []  # (number, JSON line)

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def read(self):
        data = self.socket.recv(1 << 16)
        if not data:
            os._exit(0)
        self.input += data
        while len(self.input) >= 8:
            length, kind = struct.unpack_from("=IB", self.input)
            if len(self.input) < 8 + length:
                break
            if kind == ord("S"):
                self.version = struct.unpack_from("=I", self.input, 8)[0]
            if kind == ord("M"):
                self.messages.append(decode(self.input[8 : 8 + length]))
            self.input = self.input[8 + length :]

    def read_messages(self, count=1):
        while len(self.messages) < count:
            self.read()

    def keep(self, message):
        """Appends the message to the file, so that it may be acknowledged."""
        with open(options["file"], "a") as file:
            file.write(message[1] + "\n")
        return message[0]

    def linger(self):
        """Reads on, without a word."""
        while True:
            self.read()


def decode(body):
    number, timestamp, id_, partition, key, payload, _headers, _count, topic, _flags = HEAD.unpack_from(body)
    texts, at = [], HEAD.size
    for length in (topic, key, payload):
        texts.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    line = {"topic": texts[0], "partition": None if partition < 0 else partition, "key": texts[1], "payload": texts[2]}
    line.update(headers=[["id", str(uuid.UUID(bytes=id_))]], id=str(uuid.UUID(bytes=id_)), timestamp=timestamp)
    return number, json.dumps(line, separators=(",", ":"))


def frame(kind, body=b"", length=None):
    return struct.pack("=IB3x", len(body) if length is None else length, ord(kind)) + body


def ready(name=b"rogue", newer=0):
    return frame("R", struct.pack("=I", me.version + newer) + name)


def delivered(*numbers):
    return frame("A", struct.pack(f"={len(numbers)}Q", *numbers))


def failed(number, kind, text, text_length=None):
    length = len(text) if text_length is None else text_length
    return frame("F", struct.pack("=QiBxH", number, 0, kind, length) + text)


def condition(trouble, fatal, text, text_length=None):
    length = len(text) if text_length is None else text_length
    return frame("C", struct.pack("=iBBH", 0, trouble, fatal, length) + text)


def waiting_bytes():
    """What is in the socket and not read."""
    return struct.unpack("=i", fcntl.ioctl(0, termios.FIONREAD, b"\0\0\0\0"))[0]


def chatter(relay, text):
    """Much of it; then a file says so."""
    for _ in range(100):
        relay.send(text * 1000)
    Path(options["file"] + ".said").touch()


# -- the modes ----------------------------------------------------------------------------------------------


def four_gigabytes(relay):
    """Announces them, and sends what it can."""
    relay.send(ready(), frame("L", b"\3", length=0xFFFFFFFF))
    while True:
        relay.send(b"x" * (1 << 20))


def large_statistics(relay):
    relay.send(ready(), frame("T", b'{"a":' + b"1" * (10 << 20) + b"}"))


def statistics_that_are_none(relay):
    relay.send(ready(), frame("T", b'{"a":"\xff\\u0000'))


def unknown_frame(relay):
    relay.send(ready(), frame("?"))


def frame_of_a_relay(relay):
    relay.send(ready(), frame("D"))


def another_version(relay):
    relay.send(ready(newer=5))


def ready_twice(relay):
    relay.send(ready(), ready())


def delivered_before_ready(relay):
    relay.send(delivered(1))


def delivered_never_sent(relay):
    relay.send(ready())
    relay.read_messages()
    relay.send(delivered(relay.keep(relay.messages[0]), 1 << 63))


def delivered_before_it_was_sent(relay):
    """Guesses the number of a message that the relay has ready for it and could not write yet."""
    relay.send(ready())
    samples = [0]
    while samples[-1] == 0 or len(set(samples[-5:])) > 1 or len(samples) < 5:
        time.sleep(0.1)
        samples.append(waiting_bytes())
    length = struct.unpack("=I", relay.socket.recv(4, socket.MSG_PEEK))[0]
    relay.send(delivered(samples[-1] // (8 + length) + 3))
    signal.pause()  # reading would let the relay write it


def delivered_twice(relay):
    relay.send(ready())
    relay.read_messages()
    number = relay.keep(relay.messages[0])
    relay.send(delivered(number), delivered(number))


def half_a_number(relay):
    relay.send(ready(), frame("A", b"\1\0\0"))


def nothing_delivered(relay):
    relay.send(ready(), frame("A"))


def failed_with_text_beyond_its_body(relay):
    relay.send(ready())
    relay.read_messages()
    relay.send(failed(relay.messages[0][0], 1, b"short", text_length=60000))


def failed_in_an_unknown_way(relay):
    relay.send(ready())
    relay.read_messages()
    relay.send(failed(relay.messages[0][0], 9, b"what"))


def condition_of_odd_sizes(relay):
    relay.send(ready(), condition(1, 0, b"trouble", text_length=3))


def half_a_frame(relay):
    """And it is gone, which is no more than a sink that died."""
    relay.send(ready())
    relay.read_messages()
    relay.send(frame("L", b"\3half of what I wanted to")[:-4])
    os._exit(3)


def noise(relay):
    while True:
        relay.send(os.urandom(4096))


def much_log(relay):
    """Keeps to the protocol, but talks without end, in lines that would be others' in the log."""
    relay.send(ready())
    chatter(relay, frame("L", b"\3\x1b[2Jhallo\r\n2026-01-01 00:00:00 UTC [1] FATAL:  injected\n\xff\xfe\0end"))


def many_conditions(relay):
    relay.send(ready())
    chatter(relay, condition(1, 0, b"\x1b[31mdown\n\xff") + condition(0, 0, b""))


def odd_texts(relay):
    """Everything that is shown in outbox.status, in bytes that are no text."""
    relay.send(
        ready(name=b"\xff\xfe\0\x1b[2J" + b"n" * 900),
        condition(1, 0, b"\xc3\x28\0\x1b[2J\nsecond line" + b"c" * 60000),
        frame("T", b'{"a":1}'),
    )
    relay.linger()


def byte_by_byte(relay):
    """Says nothing wrong, only slowly, and delivers."""
    relay.send(ready())
    while True:
        relay.read_messages()
        number = relay.keep(relay.messages.pop(0))
        for byte in delivered(number):
            relay.send(bytes([byte]))


def idle_at_any_time(relay):
    """Says so before, while and after it has something to do."""
    relay.send(ready(), frame("I"))
    while True:
        relay.read_messages()
        relay.send(frame("I"))
        time.sleep(0.02)  # it may be stopped here, if the relay believes it
        relay.send(delivered(relay.keep(relay.messages.pop(0))), frame("I"))


def everything_comes_back(relay):
    """Within the protocol: it returns whatever it gets, at once."""
    relay.send(ready())
    while True:
        relay.read_messages()
        relay.send(*(failed(number, 3, b"no") for number, _ in relay.messages))
        with open(options["file"] + ".returned", "a") as counter:
            counter.write("x" * len(relay.messages))
        relay.messages.clear()


if __name__ == "__main__":
    options = json.loads(Path(__file__).with_name("rogue.json").read_text())
    with contextlib.suppress(OSError):
        me = Relay()
        me.read()  # Settings
        globals()[options["mode"]](me)
        me.linger()
