"""The load: many streams, and a prober of another route, in one thread that works little per chunk."""

from __future__ import annotations

import heapq
import itertools
import re
import select
import socket
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic_ns

from bench.llm import wire

SECOND = 1_000_000_000
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Delays:
    """Times at which something was received or answered, and how long each had taken, both in ns."""

    when: array[int] = field(default_factory=lambda: array("q"))
    took: array[int] = field(default_factory=lambda: array("q"))

    def add(self, now: int, took: int) -> None:
        """One more."""
        self.when.append(now)
        self.took.append(took)

    def between(self, start: int, end: int) -> list[float]:
        """What was received from `start` to `end` (monotonic ns), in milliseconds, sorted."""
        return sorted(took / 1e6 for when, took in zip(self.when, self.took, strict=True) if start <= when <= end)


class Stream:
    """One streamed call: it counts its chunks, and knows how it ended."""

    def __init__(self, load: Load, port: int, request: bytes) -> None:
        """Connects and sends."""
        self.load = load
        self.began = 0  # monotonic ns, of the first chunk
        self.ended = 0
        self.complete = False
        self.chunks = 0
        self.head = b""
        self.rest = b""
        self.sock = connect(port)
        self.sock.send(request)

    def readable(self) -> None:
        """Take the time of every chunk that has come."""
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        now = monotonic_ns()
        if not data:
            self.end(now)
            return
        self.head = self.head or data[:300]
        data = self.rest + data
        end = 0
        for found in wire.SENT_AT.finditer(data):
            end = found.end()
            self.chunks += 1
            self.load.delays.add(now, now - int(found[1]))
        self.began = self.began or (now if end else 0)
        if wire.END in data[end:] or wire.ERROR in data[end:]:
            self.complete = wire.END in data[end:]
            self.end(now)
        # A chunk's beginning may be there already, but hardly more than an event.
        self.rest = data[end:][-256:]

    def end(self, now: int) -> None:
        """No more of it."""
        self.ended = now
        self.load.forget(self.sock)


class Probe:
    """A keep-alive connection that asks for one thing again and again."""

    def __init__(self, load: Load, port: int) -> None:
        """Connects."""
        self.load = load
        self.due = 0
        self.received = b""
        self.sock = connect(port)

    def ask(self, request: bytes, due: int) -> None:
        """Send it. What counts is how long after `due` the answer is there, as in any open-loop measurement."""
        self.due = due
        self.sock.send(request)

    def readable(self) -> None:
        """The answer, or a part of it."""
        data = self.sock.recv(65536)
        assert data, "the service has closed a keep-alive connection"
        self.received += data
        head, complete, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if complete and length and len(body) >= int(length[1]):
            now = monotonic_ns()
            self.load.refused += not head.startswith(b"HTTP/1.1 200 ")
            self.load.probed.add(now, now - self.due)
            self.received = b""
            self.load.idle_probes.append(self)


class Load:
    """What runs together."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.delays = Delays()  # of the streams' chunks
        self.probed = Delays()
        self.refused = 0  # answers to the prober that are not 200
        self.idle_probes: deque[Probe] = deque()
        self._epoll = select.epoll()
        self._open: dict[int, Stream | Probe] = {}
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: int, action: Callable[[], None]) -> None:
        """Call `action` at `when` (monotonic ns)."""
        heapq.heappush(self._timers, (when, next(self._numbers), action))

    def open_streams(self, port: int, requests: list[bytes], *, per_second: float) -> list[Stream]:
        """Open a stream for each of `requests`; the list grows while they begin."""
        streams: list[Stream] = []

        def begin(request: bytes) -> None:
            streams.append(Stream(self, port, request))
            self._watch(streams[-1])

        start = monotonic_ns()
        for number, request in enumerate(requests):
            self.at(start + int(number / per_second * SECOND), lambda request=request: begin(request))  # type: ignore[misc]
        return streams

    def probe(self, port: int, requests: list[bytes], *, rate: float) -> None:
        """From now on, send the next of `requests` `rate` times a second, whether the last is answered or not."""
        turns = itertools.cycle(requests)

        def ask(due: int) -> None:
            if self.idle_probes:
                probe = self.idle_probes.popleft()
            else:
                probe = Probe(self, port)
                self._watch(probe)
            probe.ask(next(turns), due)
            self.at(due + int(SECOND / rate), lambda: ask(due + int(SECOND / rate)))

        now = monotonic_ns()
        self.at(now, lambda: ask(now))

    def run_until(self, done: Callable[[], bool], *, seconds: float) -> None:
        """Run until `done` holds, which is asked every 50 ms, or for `seconds`."""
        deadline = monotonic_ns() + int(seconds * SECOND)
        ask_again = 0
        while True:
            now = monotonic_ns()
            if now >= ask_again:
                if done() or now >= deadline:
                    return
                ask_again = now + SECOND // 20
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            soonest = min(ask_again, self._timers[0][0] if self._timers else ask_again)
            for number, _ in self._epoll.poll(max(0.0, (soonest - monotonic_ns()) / SECOND)):
                self._open[number].readable()

    def run_for(self, seconds: float) -> None:
        """Run that long."""
        self.run_until(lambda: False, seconds=seconds)

    def close(self) -> None:
        """Close every connection."""
        for conversation in list(self._open.values()):
            self.forget(conversation.sock)
        self._timers.clear()
        self._epoll.close()

    def forget(self, sock: socket.socket) -> None:
        """Close one."""
        del self._open[sock.fileno()]
        sock.close()

    def _watch(self, conversation: Stream | Probe) -> None:
        self._open[conversation.sock.fileno()] = conversation
        self._epoll.register(conversation.sock, select.EPOLLIN)


def connect(port: int) -> socket.socket:
    """A connection to a server on this machine. Nothing that is sent on it waits for more."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
