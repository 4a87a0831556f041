"""A load generator whose arrivals do not wait for answers, in a process of its own.

    measured = open_loop.run(port, {"users": Stream("GET /v1/health", rate=2000)}, seconds=10)

Latency counts from the moment an arrival was scheduled for. One that counts from when it was sent hides a server that
stalls, because nothing is sent meanwhile ("coordinated omission": Gil Tene, "How NOT to Measure Latency"). Arrivals are
Poisson's, the same in every run. One epoll loop costs a fraction of threads or asyncio; what it costs is measured too.
"""

from __future__ import annotations

import json
import math
import select
import socket
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from time import monotonic, process_time
from typing import Any

from tests.support import ROOT
from tests.support.raw_http import RawAnswer, answers_in

PATIENCE = 10.0  # seconds that a client waits for its answer


@dataclass(frozen=True)
class Stream:
    """One kind of request: "GET /path" with header lines.

    `rate`: arrivals per second; 0: a closed loop, where each connection asks as soon as it has its answer.
    `connections`: so many at most. They are kept, as a balancer does; `fresh`: each request has a new one.
    """

    request: str
    headers: tuple[str, ...] = ()
    rate: float = 0
    connections: int = 900
    fresh: bool = False


@dataclass(frozen=True)
class Seen:
    """What became of a stream's arrivals. Latencies are in seconds, from the scheduled moment."""

    arrivals: int
    good: list[float]
    refused: dict[str, list[float]]  # by status and code: "503 busy"
    failed: dict[str, int]  # by what is wrong: "ConnectionResetError", "timeout", "500 is no refusal"

    def refusals(self) -> list[float]:
        """The latencies of all that were refused as they should be."""
        return [latency for latencies in self.refused.values() for latency in latencies]


@dataclass(frozen=True)
class Measured:
    """What came of a run. `late`: how late arrivals were begun, which is the generator's fault."""

    arriving: float  # seconds
    lasted: float  # until the last answer
    cpu: float
    late: list[float] = field(repr=False)
    streams: dict[str, Seen]

    def per_second(self, stream: str) -> float:
        """Good answers."""
        return len(self.streams[stream].good) / self.lasted

    def offered(self) -> float:
        """Arrivals per second, of all streams."""
        return sum(seen.arrivals for seen in self.streams.values()) / self.arriving

    def generator(self) -> str:
        """What this load cost the generator, and by that, what it could make with a core of its own."""
        share = self.cpu / self.lasted
        return f"{share:.0%} of a core, so {self.offered() / share:,.0f}/s at most"


def run(port: int, streams: Mapping[str, Stream], *, seconds: float) -> Measured:
    """Let the streams arrive for so long, and wait for the last answer."""
    plan = {"port": port, "seconds": seconds, "streams": {name: asdict(stream) for name, stream in streams.items()}}
    command = [sys.executable, "-m", "tests.support.open_loop", json.dumps(plan)]
    measured = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=120).stdout)
    measured["streams"] = {name: Seen(**seen) for name, seen in measured["streams"].items()}
    return Measured(**measured)


def percentile(latencies: list[float], percent: float) -> float:
    """The latency that so many percent do not exceed; 0 of none."""
    ordered = sorted(latencies)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0.0


def p99(latencies: list[float]) -> str:
    """It, as a figure."""
    return f"{percentile(latencies, 99) * 1000:.0f} ms"


class Connection:
    """One connection with at most one request on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))  # what goes wrong is heard when it is used
        self.watched_for = 0
        self.scheduled: float | None = None  # when the request that is on it was to arrive
        self.request_id = ""
        self.unsent = b""
        self.received = b""


class Arrivals:
    """A stream's arrivals, its connections, and what has come of them."""

    def __init__(self, stream: Stream, number: int, start: float) -> None:
        self.stream = stream
        close = ["Connection: close"] if stream.fresh else []
        lines = [f"{stream.request} HTTP/1.1", "Host: lumen", *stream.headers, *close, f"X-Request-Id: load-{number}-"]
        self._head = "\r\n".join(lines)
        self.random = Random(number)
        self.next = start
        self.waiting = deque([] if stream.rate else [start] * stream.connections)
        self.begun = 0
        self.open = 0
        self.idle: list[Connection] = []
        self.good: list[float] = []
        self.refused: defaultdict[str, list[float]] = defaultdict(list)
        self.failed: Counter[str] = Counter()

    def put_on(self, connection: Connection) -> None:
        """The request that has waited longest gets this connection."""
        connection.scheduled = self.waiting.popleft()
        self.begun += 1
        connection.unsent = f"{self._head}{self.begun}\r\n\r\n".encode()
        connection.request_id = connection.unsent.rpartition(b" ")[2].strip().decode()

    def count(self, latency: float, answer: RawAnswer, request_id: str) -> None:
        """Count an answer."""
        wrong = "timeout" if latency > PATIENCE else complaint(answer, request_id)
        if wrong:
            self.failed[wrong] += 1
        elif answer.status == 200:
            self.good.append(latency)
        else:
            self.refused[f"{answer.status} {answer.code}"].append(latency)

    def seen(self) -> dict[str, Any]:
        """The members of Seen."""
        arrivals = self.begun + len(self.waiting)
        return {"arrivals": arrivals, "good": self.good, "refused": self.refused, "failed": self.failed}


def complaint(answer: RawAnswer, request_id: str) -> str:
    """What is wrong with an answer, by the contract."""
    status, headers, body = answer
    if headers.get("x-request-id") != request_id:
        return f"{status} without the request's X-Request-Id"
    if status == 200:
        return ""
    if status not in (429, 503):
        return f"{status} is no refusal"
    if not answer.code or json.loads(body)["error"]["request_id"] != request_id:
        return f"{status} without the envelope"
    wait = headers.get("retry-after", "")
    return "" if wait.isdigit() and int(wait) else f"{status} without Retry-After"


def answer_in(received: bytes) -> RawAnswer | None:
    """The answer, once it is complete. (All of ours have a Content-Length.)"""
    if b"\r\n\r\n" not in received:
        return None
    answer = answers_in(received)[0]
    return answer if len(answer.body) == int(answer.headers["content-length"]) else None


class Generator:
    """The loop."""

    def __init__(self, port: int, streams: Mapping[str, Stream], seconds: float) -> None:
        self.port = port
        self.start = monotonic()
        self.end = self.start + seconds
        self.streams = {
            name: Arrivals(stream, number, self.start) for number, (name, stream) in enumerate(streams.items())
        }
        self.poll = select.epoll()
        self.connections: dict[int, tuple[Arrivals, Connection]] = {}
        self.late: list[float] = []

    def run(self) -> None:
        """Until the last answer, or until nobody would wait for one any more."""
        open_loops = [stream for stream in self.streams.values() if stream.stream.rate]
        while (now := monotonic()) < self.end:
            for stream in open_loops:
                while stream.next <= now:
                    self.late.append(now - stream.next)
                    stream.waiting.append(stream.next)
                    stream.next += stream.random.expovariate(stream.stream.rate)
            self.turn(min([self.end, *(stream.next for stream in open_loops)]))
        while self.awaiting() and monotonic() < self.end + PATIENCE:
            self.turn(monotonic() + 0.1)
        for stream in self.awaiting():
            stream.failed["timeout"] += 1

    def awaiting(self) -> list[Arrivals]:
        """The stream of each request that has no answer."""
        begun = [stream for stream, connection in self.connections.values() if connection.scheduled is not None]
        return begun + [stream for stream in self.streams.values() for _ in stream.waiting]

    def turn(self, until: float) -> None:
        """Send what has arrived, wait, and serve the sockets that are ready."""
        for stream in self.streams.values():
            for _ in range(len(stream.waiting)):
                if stream.idle or stream.open < stream.stream.connections:
                    self.begin(stream)
        for fd, _ in self.poll.poll(max(0.0, until - monotonic())):
            self.go_on(*self.connections[fd])

    def begin(self, stream: Arrivals) -> None:
        """Send a request on an idle connection, or on a new one."""
        if stream.idle:
            connection = stream.idle.pop()
        else:
            connection = Connection(self.port)
            self.connections[connection.socket.fileno()] = (stream, connection)
            stream.open += 1
        stream.put_on(connection)
        self.go_on(stream, connection)

    def go_on(self, stream: Arrivals, connection: Connection) -> None:
        """Send the request, or read what has come."""
        try:
            if connection.unsent:
                connection.socket.send(connection.unsent)  # so little goes out at once
                connection.unsent = b""
                self.watch(connection, select.EPOLLIN)
            else:
                data = connection.socket.recv(65536)
                connection.received += data
                self.ended(stream, connection, answer_in(connection.received), "" if data else "closed unanswered")
        except BlockingIOError:
            self.watch(connection, select.EPOLLOUT)  # there is no connection yet
        except OSError as error:
            self.ended(stream, connection, None, type(error).__name__)

    def watch(self, connection: Connection, events: int) -> None:
        """Wait for these events of a connection."""
        if connection.watched_for != events:
            (self.poll.modify if connection.watched_for else self.poll.register)(connection.socket, events)
            connection.watched_for = events

    def ended(self, stream: Arrivals, connection: Connection, answer: RawAnswer | None, failure: str) -> None:
        """Count what has ended, the request by an answer or the connection by a failure, and go on."""
        if not answer and not failure:
            return
        scheduled, connection.scheduled, connection.received = connection.scheduled, None, b""
        if scheduled is None:
            stream.idle.remove(connection)  # nobody minds the end of an idle connection
        elif answer:
            stream.count(monotonic() - scheduled, answer, connection.request_id)
        else:
            stream.failed[failure] += 1
        if failure or stream.stream.fresh or (answer and answer.headers.get("connection", "").lower() == "close"):
            stream.open -= 1
            del self.connections[connection.socket.fileno()]
            connection.socket.close()
        else:
            stream.idle.append(connection)
        if scheduled is not None and not stream.stream.rate and (now := monotonic()) < self.end:
            stream.waiting.append(now)  # a closed loop


def main() -> None:
    """Run the plan, and say what came of it."""
    plan = json.loads(sys.argv[1])
    streams = {name: Stream(**stream) for name, stream in plan["streams"].items()}
    generator, cpu = Generator(plan["port"], streams, plan["seconds"]), process_time()
    generator.run()
    measured = {
        "arriving": generator.end - generator.start,
        "lasted": monotonic() - generator.start,
        "cpu": process_time() - cpu,
        "late": generator.late,
        "streams": {name: stream.seen() for name, stream in generator.streams.items()},
    }
    json.dump(measured, sys.stdout)


if __name__ == "__main__":
    main()
