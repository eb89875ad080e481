"""A TCP proxy between the sink and its broker: delays, cuts, swallows and spoils what passes."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time

from support.kafka import free_port

CHUNK = 16384
PRODUCE = 0  # Kafka's number of that request


class Proxy:
    """Forwards connections to `target`, (host, port), and misbehaves as it is told.

    What can be set at any time, for all connections: `delay` (seconds, each way), `rate` (bytes a second, each
    way, shared by all connections), `cut_after` (bytes of a connection, both ways together, then a reset),
    `corrupt` (probability that a bit of a chunk of requests is flipped), `corrupt_batches` (probability that a
    bit in the records of a produce request is flipped), `lose_replies` (how many replies to produce requests to
    swallow, each with a reset). The last two need to understand the traffic: not with `opaque` (TLS).
    """

    def __init__(self, target, host="127.0.0.1", port=None, seed=1, opaque=False):
        self.target = target
        self.opaque = opaque
        self.host = host
        self.port = port or free_port()
        self.random = random.Random(seed)
        self.delay = self.rate = self.cut_after = self.corrupt = self.corrupt_batches = self.lose_replies = 0
        self.accepted = self.lost = self.corrupted = self.cut = 0
        self.passed = [0, 0]  # bytes of requests, of replies
        self._hole = self._hung = False
        self._free_at = [0.0, 0.0]
        self._links = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    # -- what tests call ----------------------------------------------------------------------------------

    def start(self):
        self._thread.start()
        self.listen()
        return self

    def stop(self):
        self.refuse()
        self._call(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def refuse(self):
        """New connections are refused, old ones reset."""
        self._call(self._close())
        self.reset()

    def listen(self):
        self._call(self._open())

    def reset(self):
        """The connections there are end with a reset."""
        self._call(self._reset())

    def hang(self):
        """Half-open: connections stay, new ones are taken, and nothing passes any more, in either direction."""
        self._hung = True

    def black_hole(self):
        """As hang(), and old connections are forgotten: their packets are answered by nobody."""
        self._hung = self._hole = True

    def heal(self):
        """Forwards again. Bytes that were held back pass now; those that a black hole swallowed never do."""
        self.delay = self.rate = self.cut_after = self.corrupt = self.corrupt_batches = self.lose_replies = 0
        self._hung = self._hole = False
        if not self._listening:
            self.listen()

    @property
    def connections(self):
        return len(self._links)

    # -- inside -------------------------------------------------------------------------------------------

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    _listening = None

    async def _open(self):
        if self._listening:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(128)
        listener.setblocking(False)
        self._listening = (listener, asyncio.ensure_future(self._accept(listener)))

    async def _close(self):
        if self._listening:
            listener, task = self._listening
            self._listening = None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            listener.close()

    async def _reset(self):
        for link in list(self._links):
            link.reset()

    async def _accept(self, listener):
        while True:
            client, _ = await self._loop.sock_accept(listener)
            client.setblocking(False)
            self.accepted += 1
            self._loop.create_task(_Link(self, client).run())

    async def _gate(self, hole):
        """Waits while nothing may pass. False: these bytes have fallen into the hole."""
        while self._hung:
            if self._hole and hole:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _throttle(self, direction, size):
        if not self.rate:
            return
        now = time.monotonic()
        self._free_at[direction] = max(now, self._free_at[direction]) + size / self.rate
        await asyncio.sleep(self._free_at[direction] - now)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy, client):
        self.proxy = proxy
        self.client = client
        self.broker = socket.socket()
        self.bytes = 0
        self.produce_requests = set()  # correlation ids
        self.task = None

    async def run(self):
        loop = asyncio.get_running_loop()
        self.proxy._links.add(self)
        try:
            self.broker.setblocking(False)
            for one in (self.client, self.broker):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not await self.proxy._gate(False):
                pass
            await loop.sock_connect(self.broker, self.proxy.target)
            self.pumps = [
                asyncio.ensure_future(self._pump(loop, self.client, self.broker, 0)),
                asyncio.ensure_future(self._pump(loop, self.broker, self.client, 1)),
            ]
            done, _ = await asyncio.wait(self.pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.exception()
        except OSError:
            pass
        finally:
            self.reset()
            self.proxy._links.discard(self)

    pumps = ()

    def reset(self):
        for pump in self.pumps:
            pump.cancel()
        for one in (self.client, self.broker):
            if one.fileno() >= 0:
                # No waiting for what is unread at the other end: a reset.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.close()

    async def _pump(self, loop, source, sink, direction):
        """Reader and writer are apart, so that a delay is no limit to the rate."""
        queue = asyncio.Queue(64)
        writer = asyncio.ensure_future(self._write(loop, sink, queue, direction))
        frames = _Frames()
        try:
            while data := await loop.sock_recv(source, CHUNK):
                if not await self.proxy._gate(True):
                    # This connection never gets anything through again; it ends when an end gives up.
                    while await loop.sock_recv(source, CHUNK):
                        pass
                    return
                for piece in self._altered(frames, data, direction):
                    await queue.put((time.monotonic() + self.proxy.delay, piece))
                if writer.done():
                    return
            await queue.put(None)
            await writer
        finally:
            writer.cancel()

    async def _write(self, loop, sink, queue, direction):
        while item := await queue.get():
            due, data = item
            await asyncio.sleep(max(0, due - time.monotonic()))
            await self.proxy._gate(False)
            await self.proxy._throttle(direction, len(data))
            if self.proxy.cut_after and self.bytes + len(data) > self.proxy.cut_after:
                await loop.sock_sendall(sink, data[: max(0, self.proxy.cut_after - self.bytes)])
                self.proxy.cut += 1
                self.reset()
                return
            await loop.sock_sendall(sink, data)
            self.bytes += len(data)
            self.proxy.passed[direction] += len(data)

    def _altered(self, frames, data, direction):
        """The pieces to forward of what was received."""
        proxy = self.proxy
        if direction == 0 and proxy.corrupt and proxy.random.random() < proxy.corrupt:
            data = self._flip(data, 0)
        if proxy.opaque:
            yield data
            return
        for piece, frame in frames.split(data):
            if direction == 0 and frame.starts_request(PRODUCE):
                self.produce_requests.add(frame.correlation(4))
            if direction == 0 and frame.ends and frame.starts_request(PRODUCE) and proxy.corrupt_batches:
                # Behind the names and numbers that no checksum covers, before the end of the records.
                if len(piece) > 400 and proxy.random.random() < proxy.corrupt_batches:
                    piece = self._flip(piece, len(piece) - 200)
            if direction == 1 and frame.correlation(0) in self.produce_requests and frame.begins:
                self.produce_requests.discard(frame.correlation(0))
                if proxy.lose_replies > 0:
                    proxy.lose_replies -= 1
                    proxy.lost += 1
                    self.reset()
                    return
            yield piece

    def _flip(self, data, first):
        self.proxy.corrupted += 1
        bit = self.proxy.random.randrange(first * 8, len(data) * 8)
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        return bytes(spoiled)


class _Frames:
    """Follows the lengths that Kafka puts in front of requests and replies."""

    HEAD = 8  # api key, api version, correlation id, or correlation id and more

    def __init__(self):
        self.left = 0  # of the frame under way
        self.head = b""
        self.begins = self.ends = False
        self.start = b""  # not yet enough of a frame to know it

    def split(self, data):
        data = self.start + data
        self.start = b""
        while data:
            self.begins = self.left == 0
            if self.begins:
                if len(data) < 4 + self.HEAD:
                    self.start = data
                    return
                self.head = data[4 : 4 + self.HEAD]
                self.left = 4 + struct.unpack(">I", data[:4])[0]
            piece, data = data[: self.left], data[self.left :]
            self.left -= len(piece)
            self.ends = self.left == 0
            yield piece, self

    def starts_request(self, api):
        return struct.unpack(">h", self.head[:2])[0] == api

    def correlation(self, offset):
        return self.head[offset : offset + 4]
