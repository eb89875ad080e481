"""A network of the test's own, and a name server in it that answers as it is told."""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from support.processes import run


class Network:
    """A network namespace with a link to this one; inside it, names are asked for at the link's other end.

    `outside` and `second` are addresses of this end; programs are run inside with `wrap`.
    """

    def __init__(self, number):
        self.name = f"outbox-{os.getpid()}-{number}"
        self.link = f"ob{os.getpid() % 10000}x{number}"
        self.outside, self.inside, self.second = (f"10.213.{number}.{n}" for n in (1, 2, 3))
        self.resolver = Path("/etc/netns") / self.name

    @staticmethod
    def possible():
        """Why there can be none, or nothing."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        if not shutil.which("ip"):
            return "the program ip is not installed"
        name = f"outbox-{os.getpid()}-try"
        if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
            return "network namespaces cannot be made here"
        run(["ip", "netns", "delete", name])
        return None

    def start(self):
        self.resolver.mkdir(parents=True)
        (self.resolver / "resolv.conf").write_text(f"nameserver {self.outside}\noptions timeout:5 attempts:2\n")
        (self.resolver / "hosts").write_text("127.0.0.1 localhost\n")
        run(["ip", "netns", "add", self.name])
        run(["ip", "link", "add", self.link, "type", "veth", "peer", "name", f"{self.link}i", "netns", self.name])
        for address in (self.outside, self.second):
            run(["ip", "address", "add", f"{address}/24", "dev", self.link])
        run(["ip", "link", "set", self.link, "up"])
        for words in (f"address add {self.inside}/24 dev {self.link}i", f"link set {self.link}i up", "link set lo up"):
            run(["ip", "-n", self.name, *words.split()])
        return self

    def link_down(self):
        run(["ip", "link", "set", self.link, "down"])

    def link_up(self):
        run(["ip", "link", "set", self.link, "up"])

    def wrap(self, argv):
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def stop(self):
        for command in (["ip", "netns", "delete", self.name], ["ip", "link", "delete", self.link]):
            subprocess.run(command, capture_output=True, check=False)
        shutil.rmtree(self.resolver, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.resolver.parent.rmdir()


class NameServer:
    """Answers every question for an IPv4 address with `answer`; None: there is no such name.

    `delay` is in seconds; with `dead` no question is answered at all.
    """

    def __init__(self, address, answer):
        self.answer = answer
        self.delay = 0
        self.dead = False
        self.asked = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def stop(self):
        self.stopping = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)

    def _serve(self):
        while not self.stopping:
            try:
                question, sender = self.socket.recvfrom(4096)
            except OSError:
                return
            self.asked += 1
            if not self.dead and len(question) > 12:
                threading.Thread(target=self._reply, args=(question, sender), daemon=True).start()

    def _reply(self, question, sender):
        time.sleep(self.delay)
        end = question.index(b"\0", 12) + 5
        kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
        address = kind == 1 and self.answer is not None
        flags = 0x8180 if self.answer is not None else 0x8183
        head = question[:2] + struct.pack(">HHHHH", flags, 1, int(address), 0, 0)
        record = b""
        if address:
            record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(self.answer)
        with contextlib.suppress(OSError):
            self.socket.sendto(head + question[12:end] + record, sender)
