"""HTTP clients that could read the provider's stream: what a chunk costs, and whether any holds it back.

Each reads in a process of its own, with a thread for each stream, as the proxy does.
"""

from __future__ import annotations

import functools
import gc
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import get_context
from threading import Thread
from time import monotonic_ns
from typing import Any

from bench.llm import wire
from bench.llm.client import SECOND, Delays
from bench.llm.provider import Provider
from bench.llm.report import percentile, spread, table
from bench.llm.wire import Order

HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
PART = 65536

# Reads the answer to an order from a port of this machine, as it comes.
Reader = Callable[[int, Order], Iterator[bytes]]


def http_client(port: int, order: Order) -> Iterator[bytes]:
    """The standard library's."""
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port)
    connection.request("POST", wire.PATH, order.body(), HEADERS)
    response = connection.getresponse()
    while data := response.read1(PART):
        yield data


def _urllib3(port: int, order: Order) -> Any:
    import urllib3

    pool = urllib3.HTTPConnectionPool("127.0.0.1", port)
    return pool.urlopen("POST", wire.PATH, order.body(), HEADERS, preload_content=False, retries=False)


def urllib3_read1(port: int, order: Order) -> Iterator[bytes]:
    """urllib3 2, a read at a time."""
    response = _urllib3(port, order)
    while data := response.read1(PART):
        yield data


def urllib3_stream(port: int, order: Order) -> Iterator[bytes]:
    """urllib3's iterator."""
    yield from _urllib3(port, order).stream(PART)


def requests_iter_content(port: int, order: Order) -> Iterator[bytes]:
    """requests, which has urllib3 below it."""
    import requests

    url = f"http://127.0.0.1:{port}{wire.PATH}"
    response = requests.post(url, order.body(), headers=HEADERS, stream=True, timeout=60)
    yield from response.iter_content(None)


def httpx_iter_raw(port: int, order: Order) -> Iterator[bytes]:
    """httpx, which has h11 below it."""
    url = f"http://127.0.0.1:{port}{wire.PATH}"
    with _httpx_client().stream("POST", url, content=order.body(), headers=HEADERS) as response:
        yield from response.iter_raw()


@functools.cache
def _httpx_client() -> Any:
    import httpx

    return httpx.Client(limits=httpx.Limits(max_connections=1000), timeout=60)


def h11_poll(port: int, order: Order) -> Iterator[bytes]:
    """h11 over a non-blocking socket, with poll()."""
    import h11

    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(wire.request(wire.PATH, order.body()))
    sock.setblocking(False)
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target=wire.PATH, headers=[("Host", "127.0.0.1"), ("Content-Length", "0")]))
    http.send(h11.EndOfMessage())
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    while True:
        event = http.next_event()
        if isinstance(event, h11.Data):
            yield bytes(event.data)
        elif event is h11.NEED_DATA:
            poller.poll()
            http.receive_data(sock.recv(PART))
        elif not isinstance(event, h11.Response):
            return


def ours(port: int, order: Order) -> Iterator[bytes]:
    """The proxy's own, which waits for the client and for the end of the process too."""
    from lumen_api.llm.http import Origin
    from lumen_api.llm.watch import Stop, Watch

    watch = Watch(None, Stop(), seconds=600)
    origin = Origin(f"http://127.0.0.1:{port}")
    connection = origin.connection(watch)
    connection.request(wire.PATH, {"host": origin.host, **_lengths(order), **HEADERS}, order.body(), watch, seconds=60)
    while (part := connection.next()) != b"":
        if part is None:
            watch.wait(connection.sock, select.POLLIN, 60)
            connection.read()
        elif isinstance(part, bytes):
            yield part


def _lengths(order: Order) -> dict[str, str]:
    return {"content-length": str(len(order.body()))}


@dataclass(frozen=True)
class Candidate:
    """A way to read, and the package that it needs."""

    name: str
    package: str
    read: Reader


CANDIDATES = [
    Candidate("http.client `read1`", "http", http_client),
    Candidate("urllib3 `read1`", "urllib3", urllib3_read1),
    Candidate("urllib3 `stream`", "urllib3", urllib3_stream),
    Candidate("requests `iter_content`", "requests", requests_iter_content),
    Candidate("httpx `iter_raw`", "httpx", httpx_iter_raw),
    Candidate("h11, `poll()`", "h11", h11_poll),
    Candidate("`lumen_api.llm.http` (httptools, `poll()`)", "httptools", ours),
]


@dataclass
class Reading:
    """What one process has read: CPU in µs per chunk, delays in ms, sorted."""

    cpu: float
    delays: list[float] = field(default_factory=list)


def read(candidate: Candidate, port: int, streams: int, seconds: float, *, chunked: bool = True) -> Reading:
    """Read `streams` at once. The first second does not count: connecting."""
    received = [Delays() for _ in range(streams)]
    order = Order(chunks=int((seconds + 1.3) * 20), chunked=chunked)

    def read_one(delays: Delays) -> None:
        rest = b""
        for data in candidate.read(port, order):
            now = monotonic_ns()
            whole, end = rest + data, 0
            for found in wire.SENT_AT.finditer(whole):
                end = found.end()
                delays.add(now, now - int(found[1]))
            rest = whole[end:][-256:]

    threads = [Thread(target=read_one, args=(delays,)) for delays in received]
    for _ in candidate.read(port, Order(chunks=1)):  # imports
        pass
    gc.disable()  # a pause of ours would look like the client's
    for thread in threads:
        thread.start()
    time.sleep(1)
    start, cpu, chunks = monotonic_ns(), time.process_time(), sum(len(delays.when) for delays in received)
    time.sleep(seconds)
    end, cpu = monotonic_ns(), time.process_time() - cpu
    chunks = sum(len(delays.when) for delays in received) - chunks
    for thread in threads:
        thread.join()
    # One that holds everything back has received nothing yet: then all that it got in the end counts.
    end = end if chunks else monotonic_ns()
    found = sorted(took for delays in received for took in delays.between(start, end))
    return Reading(cpu / max(1, len(found)) * 1e6, found)


def measured(provider: Provider, *, quick: bool) -> str:
    """The table."""
    seconds = 1.0 if quick else 4.0
    rounds = 1 if quick else 3
    installed = [candidate for candidate in CANDIDATES if find_spec(candidate.package)]
    runs: dict[tuple[str, int], list[Reading]] = {}
    unchunked: dict[str, Reading] = {}
    for number in range(rounds):
        for candidate in installed[:: 1 if number % 2 else -1]:
            print(f"round {number + 1}: {candidate.name} ...", flush=True)
            for streams in (1, 100):
                reading = _in_a_process(candidate, provider.port, streams, seconds, True)
                runs.setdefault((candidate.name, streams), []).append(reading)
            if not number:
                unchunked[candidate.name] = _in_a_process(candidate, provider.port, 1, 1.0, False)
    rows = []
    for candidate in CANDIDATES:
        if candidate not in installed:
            rows.append([candidate.name, f"not installed: pip install {candidate.package}", "", "", "", ""])
            continue
        one, many = runs[candidate.name, 1], runs[candidate.name, 100]
        rows.append(
            [
                candidate.name,
                spread([reading.cpu for reading in many], 0),
                spread([percentile(reading.delays, 99) for reading in one], 2),
                spread([percentile(reading.delays, 99) for reading in many], 2),
                _flows(one[0]),
                _flows(unchunked[candidate.name]),
            ]
        )
    heading = ["", "CPU µs per chunk", "p99 ms, 1 stream", "p99 ms, 100 streams", "chunked flows", "not chunked flows"]
    return table(heading, rows)


def _in_a_process(candidate: Candidate, port: int, streams: int, seconds: float, chunked: bool) -> Reading:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(read, (candidate, port, streams, seconds), {"chunked": chunked})


def _flows(reading: Reading) -> str:
    held = statistics.median(reading.delays)
    return "yes" if held * 1e6 < SECOND / 20 else f"held back for {held:.0f} ms"
