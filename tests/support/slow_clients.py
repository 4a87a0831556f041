"""Clients that hold a connection for as long as they can: they send or read slowly, or not at all, and never close."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic

from tests.support.raw_http import request

JSON = "Content-Type: application/json"
LINK = "/v1/auth/request-link"
LARGE_ANSWER = "/v1/openapi.json"  # for anybody

SEND_EVERY = 1.0  # seconds between two bytes
EVERY = 0.05  # seconds between two turns
HOLD = 10.0  # seconds that a client keeps its side open after the server has ended
COME_AT_ONCE = 10  # in each turn: many of them send a whole request, and it is not their number that shall be too much


@dataclass(frozen=True)
class Kind:
    """What a client sends at once and then a byte each second, and how many bytes it reads, in each turn."""

    at_once: bytes = b""
    by_the_byte: bytes = b""
    reads: int = 0
    small_buffer: bool = False  # else the kernel takes the whole answer, and nobody notices that it is not read


KINDS = {
    "says nothing": Kind(),
    "sends headers by the byte": Kind(b"GET /v1/health HTTP/1.1\r\nHost: lumen\r\n", b"X-Slow: " + b"a" * 1000),
    "sends a body by the byte": Kind(request("POST", LINK, JSON, "Content-Length: 1000"), b'{"email":"' + b"a" * 900),
    "sends chunks by the byte": Kind(request("POST", LINK, JSON, "Transfer-Encoding: chunked"), b"1\r\n \r\n" * 200),
    "sends what looks like the last chunk": Kind(
        request("POST", LINK, JSON, "Transfer-Encoding: chunked") + b"FFFF\r\n0\r\n\r\n", b"a" * 1000
    ),
    "sends another protocol by the byte": Kind(b"\x16\x03\x01" * 8, b"a" * 1000),
    "asks for the end and never closes": Kind(request("GET", "/v1/health")),
    "speaks HTTP/1.0 and never closes": Kind(b"GET /v1/health HTTP/1.0\r\n\r\n"),
    "asks again and again and never reads": Kind(request("GET", LARGE_ANSWER, close=False) * 50, small_buffer=True),
    "reads slowly": Kind(request("GET", LARGE_ANSWER), reads=400, small_buffer=True),
}


class Client:
    """One of them, connected."""

    def __init__(self, port: int, kind: Kind) -> None:
        self.kind = kind
        self.socket = socket.socket()
        if kind.small_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # the server's buffer is smaller then
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self._rest = deque(kind.by_the_byte)
        self._send(kind.at_once)

    def send_a_byte(self) -> None:
        """The next one, if there is one."""
        if self._rest:
            self._send(bytes([self._rest.popleft()]))

    def read_a_bit(self) -> None:
        """What it reads at a time."""
        if self.kind.reads:
            with suppress(OSError):
                self.socket.recv(self.kind.reads)

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # the server has ended the connection
            self.socket.send(data)


class SlowClients:
    """`each` clients of every kind, attached until the end of the block. One that the server ends comes again."""

    def __init__(self, port: int, kinds: Iterable[Kind], *, each: int) -> None:
        self._port = port
        self._coming = deque(kind for _ in range(each) for kind in kinds)
        self._poll = select.poll()
        self._attached: dict[int, Client] = {}
        self._ended: deque[tuple[float, Client]] = deque()
        self._come_again = True
        self._all_have_come = Event()
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> SlowClients:
        self._thread.start()
        assert self._all_have_come.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for client in [*self._attached.values(), *(client for _, client in self._ended)]:
            client.socket.close()

    def come_no_more(self) -> None:
        """Who is ended from now on stays away."""
        self._come_again = False

    def _run(self) -> None:
        sent = acted = 0.0
        while not self._stop.is_set():
            for fd, _ in self._poll.poll(EVERY * 1000):
                self._poll.unregister(fd)
                self._ended.append((monotonic(), self._attached.pop(fd)))
            now = monotonic()
            if now - sent >= SEND_EVERY:
                sent = now
                self._each(Client.send_a_byte)
            if now - acted >= EVERY:
                acted = now
                self._each(Client.read_a_bit)
                self._come_and_go(now)

    def _each(self, act: Callable[[Client], None]) -> None:
        for client in self._attached.values():
            act(client)

    def _come_and_go(self, now: float) -> None:
        while self._ended and self._ended[0][0] < now - HOLD:
            client = self._ended.popleft()[1]
            client.socket.close()
            self._coming.append(client.kind)
        if not self._come_again:
            return
        for _ in range(min(COME_AT_ONCE, len(self._coming))):
            client = Client(self._port, self._coming.popleft())
            self._attached[client.socket.fileno()] = client
            self._poll.register(client.socket, select.POLLRDHUP)  # the server's end, also behind what is not read
        if not self._coming:
            self._all_have_come.set()
