"""A fake provider that is fast: one process, one thread, one epoll, and no work per chunk but its time and its send().

    with Provider() as provider: ... provider.url, provider.seen()

It ends with its standard input, so it does not outlive whoever has started it.
"""

from __future__ import annotations

import gc
import heapq
import json
import re
import resource
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from time import monotonic_ns
from typing import Any

from bench.llm import wire
from bench.llm.wire import Order

SECOND = 1_000_000_000
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
GOLDEN = 0.618033988749895  # its multiples, modulo 1, are spread evenly however many there are


@dataclass(eq=False, slots=True)
class Call:
    """A connection, and what it is being answered."""

    sock: socket.socket
    received: bytes = b""
    unsent: bytes = b""
    order: Order = field(default_factory=Order)
    template: bytes = b""
    period: int = 0
    left: int = 0
    busy: bool = False
    closed: bool = False


class FakeProvider:
    """Answers POST /v1/messages as the order in it says, and GET /seen with what it has seen."""

    def __init__(self) -> None:
        """Listens on a free port of the loopback."""
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.epoll.register(sys.stdin, select.EPOLLIN)
        self.calls: dict[int, Call] = {}
        self.due: list[tuple[int, int, Call]] = []  # a heap: when the next chunk is due, a number, whose it is
        self.streams = self.chunks = self.requests = 0
        self.cut: dict[str, int] = {}  # calls whose connection was closed before their end: name, monotonic_ns()

    def run(self) -> None:
        """Serve until standard input ends."""
        while True:
            wait = max(0.0, (self.due[0][0] - monotonic_ns()) / SECOND) if self.due else -1
            for number, _ in self.epoll.poll(wait):
                if number == sys.stdin.fileno():
                    return
                if number == self.listener.fileno():
                    self.accept()
                else:
                    self.serve(self.calls[number])
            self.send_due()

    def send_due(self) -> None:
        """Every chunk whose time has come."""
        now = monotonic_ns()
        while self.due and self.due[0][0] <= now:
            when, number, call = self.due[0]
            if call.closed or not call.left:
                heapq.heappop(self.due)
                continue
            call.left -= 1
            self.chunks += 1
            data = call.template % monotonic_ns()
            if not call.left:
                data += wire.chunk(wire.STOP) + b"0\r\n\r\n" if call.order.chunked else wire.STOP
            self.send(call, data)
            if call.unsent or not call.left:
                heapq.heappop(self.due)
            else:
                heapq.heapreplace(self.due, (when + call.period, number, call))
            if not call.left and not call.unsent:
                self.finish(call)

    def send(self, call: Call, data: bytes) -> None:
        """What does not fit into the socket's buffer stops the stream until it does."""
        try:
            sent = call.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close(call)
            return
        if sent < len(data):
            call.unsent = data[sent:]
            self.epoll.modify(call.sock, select.EPOLLIN | select.EPOLLOUT)

    def finish(self, call: Call) -> None:
        """The answer is complete."""
        call.busy = False
        if not call.order.chunked:
            self.close(call)

    def accept(self) -> None:
        """Every connection that waits."""
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.calls[sock.fileno()] = Call(sock)
            self.epoll.register(sock, select.EPOLLIN)

    def serve(self, call: Call) -> None:
        """Read what has come, or go on sending."""
        if call.unsent:
            data, call.unsent = call.unsent, b""
            self.epoll.modify(call.sock, select.EPOLLIN)
            self.send(call, data)
            if not call.unsent and call.left:
                self.schedule(call, monotonic_ns() + call.period)
            elif not call.unsent and not call.closed:
                self.finish(call)
        try:
            data = call.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(call)
            return
        call.received += data
        head, complete, rest = call.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        body_length = int(length[1]) if length else 0
        if complete and len(rest) >= body_length:
            call.received = rest[body_length:]
            self.answer(call, head, rest[:body_length])

    def answer(self, call: Call, head: bytes, body: bytes) -> None:
        """A complete request."""
        if head.startswith(b"GET /seen "):
            self.send(call, whole(json.dumps(self.seen()).encode()))
            return
        self.requests += 1
        call.order, stream = Order.read(body)
        call.busy = True
        if call.order.silent:
            return
        if not stream:
            self.send(call, whole(wire.WHOLE))
            self.finish(call)
            return
        ends = b"Transfer-Encoding: chunked" if call.order.chunked else b"Connection: close"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nrequest-id: req_bench\r\n" + ends + b"\r\n\r\n"
        self.send(call, head + (wire.chunk(wire.START) if call.order.chunked else wire.START))
        call.template, call.left = wire.delta(call.order), call.order.chunks
        call.period = int(SECOND / call.order.rate)
        self.schedule(call, monotonic_ns() + int(call.period * (self.streams * GOLDEN % 1)))

    def schedule(self, call: Call, when: int) -> None:
        """Its next chunk."""
        self.streams += 1
        heapq.heappush(self.due, (when, self.streams, call))

    def close(self, call: Call) -> None:
        """It is over, on their side or on ours."""
        if call.closed:
            return
        call.closed = True
        if call.busy:
            self.cut[call.order.name] = monotonic_ns()
        del self.calls[call.sock.fileno()]
        call.sock.close()

    def seen(self) -> dict[str, Any]:
        """What happened so far."""
        busy = sum(call.busy for call in self.calls.values())
        seen = {"cpu": time.process_time(), "chunks": self.chunks, "requests": self.requests}
        return {**seen, "busy": busy, "connections": len(self.calls), "cut": self.cut}


def whole(body: bytes) -> bytes:
    """An answer in one piece."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nrequest-id: req_bench\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Provider:
    """The fake provider in a process of its own."""

    port: int
    url: str

    def __enter__(self) -> Provider:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.llm.provider"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=10)

    def seen(self) -> dict[str, Any]:
        """See FakeProvider.seen()."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/seen")
        seen: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return seen


if __name__ == "__main__":
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    gc.disable()  # a pause would look like the proxy's delay, and there is little to collect
    fake = FakeProvider()
    print(fake.listener.getsockname()[1], flush=True)
    fake.run()
