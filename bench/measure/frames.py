"""The relay's end of a sink's socket, in Python: the frames of src/protocol/frames.hpp, and a conversation with a sink.

For feeding a sink program a stream that is the same in every run, byte for byte.
"""

import selectors
import socket
import struct
import subprocess

VERSION = 3
FRAME = struct.Struct("=IcB2x")  # length of the body, type
MESSAGE = struct.Struct("=Qq16siiiIIHH")  # MessageHead
ABSENT = -1


def frame(kind, body=b""):
    return FRAME.pack(len(body), kind, 0) + body


def string(text):
    encoded = text.encode()
    return struct.pack("=I", len(encoded)) + encoded


def settings(**values):
    """The first frame. A double underscore stands for nothing: names are as the sink knows them."""
    body = b"".join(string(name) + string(str(value)) for name, value in values.items())
    return frame(b"S", struct.pack("=I", VERSION) + body)


def message(number, topic, key, payload, headers=()):
    """One Message; `headers` are pairs of bytes. Its id and time follow from its number."""
    topic = topic.encode()
    encoded = b"".join(struct.pack("=Ii", len(name), len(value)) + name + value for name, value in headers)
    time_ms = 1_700_000_000_000 + number
    identity = struct.pack(">QQ", time_ms << 16 | 0x7000, 1 << 63 | number)
    head = MESSAGE.pack(
        number, time_ms, identity, ABSENT, len(key), len(payload), len(encoded), len(headers), len(topic), 0
    )
    return frame(b"M", head + topic + key + payload + encoded)


class Conversation:
    """A sink program at the other end of a socket pair. `command` is the program and what runs it (valgrind, say)."""

    def __init__(self, command, **values):
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL)
        theirs.close()
        self.socket = ours
        self.socket.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.output = memoryview(settings(**values))
        self.input = bytearray()
        self.ready = False
        self.delivered = 0
        self.said = []  # logs and conditions, in the sink's words

    def send(self, data):
        """Returns at once; what the socket does not take goes out while waiting."""
        self.output = memoryview(bytes(self.output) + data)

    def wait(self, condition, seconds, what):
        """Writes and reads until the condition holds."""
        self.selector.register(self.socket, selectors.EVENT_READ)
        try:
            while not condition():
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.output else 0)
                self.selector.modify(self.socket, wanted)
                happened = self.selector.select(seconds)
                if not happened:
                    raise TimeoutError(f"the sink is silent for {seconds} s, {what} is awaited; it said: {self.said}")
                if happened[0][1] & selectors.EVENT_WRITE:
                    self.output = self.output[self.socket.send(self.output) :]
                if happened[0][1] & selectors.EVENT_READ and not self._read() and not condition():
                    raise ConnectionError(f"the sink has ended, {what} was awaited; it said: {self.said}")
        finally:
            self.selector.unregister(self.socket)

    def end(self, seconds=60):
        """Lets the sink finish; its exit status."""
        self.send(frame(b"D"))
        self.wait(lambda: self.socket is None or self._ended, seconds, "its end")
        self.socket.close()
        return self.process.wait(seconds)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.socket.close()

    _ended = False

    def _read(self):
        data = self.socket.recv(1 << 20)
        self._ended = not data
        self.input += data
        at = 0
        while len(self.input) - at >= FRAME.size:
            length, kind, _ = FRAME.unpack_from(self.input, at)
            if len(self.input) - at - FRAME.size < length:
                break
            self._heard(kind, bytes(self.input[at + FRAME.size : at + FRAME.size + length]))
            at += FRAME.size + length
        del self.input[:at]
        return bool(data)

    def _heard(self, kind, body):
        if kind == b"R":
            self.ready = True
        elif kind == b"A":
            self.delivered += len(body) // 8
        elif kind == b"F":
            raise RuntimeError(f"the sink gives a message back: {body[16:].decode(errors='replace')}")
        elif kind in (b"L", b"C"):
            self.said.append(body.decode(errors="replace"))
