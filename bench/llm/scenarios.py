"""What is measured, one function each. Every function returns rows: what, what was seen, the goal."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count
from time import monotonic, monotonic_ns, sleep

from bench.llm import service, wire
from bench.llm.client import SECOND, connect
from bench.llm.provider import Provider
from bench.llm.report import percentile, spread
from bench.llm.service import Deployment
from bench.llm.streams import Run, direct, proxied, users_for
from bench.llm.wire import Order
from tests.support import eventually

Row = tuple[str, str, str]


@dataclass
class Bench:
    """Where everything runs. `rounds` of each measurement are made in turns."""

    deployment: Deployment
    provider: Provider
    quick: bool

    def rounds(self, usual: int) -> range:
        """As many as there is time for."""
        return range(1 if self.quick else usual)

    def seconds(self, usual: float) -> float:
        """Of load."""
        return 2.0 if self.quick else usual


def one_call(bench: Bench) -> list[Row]:
    """Calls without a stream, one at a time: direct, through the proxy, direct again, in turns."""
    took: dict[str, list[float]] = {"direct": [], "proxied": [], "again": []}
    body = Order().body(stream=False)
    (cookie,) = bench.deployment.cookies(1)
    name, _, value = cookie.strip().partition(": ")
    with bench.deployment.serve(bench.provider.url) as proxy:
        to_provider = (HTTPConnection("127.0.0.1", bench.provider.port, timeout=10), wire.PATH)
        to_proxy = (HTTPConnection("127.0.0.1", proxy.port, timeout=10), service.PATH)
        with closing(to_provider[0]), closing(to_proxy[0]):
            for number in range(100 if bench.quick else 500):
                for key, (connection, path) in (("direct", to_provider), ("proxied", to_proxy), ("again", to_provider)):
                    elapsed = _time_of(connection, path, body, {name: value, "Content-Type": "application/json"})
                    if number >= 20:  # the first ones are slow: connections to the database
                        took[key].append(elapsed)
    median = {key: statistics.median(values) for key, values in took.items()}
    added = median["proxied"] - median["direct"]
    noise = f"direct {median['direct']:.2f} ms, again {median['again']:.2f} ms"
    p99 = percentile(sorted(took["proxied"]), 99)
    what = "A call without a stream, 1 client: added latency, median"
    return [(what, f"{added:.2f} ms ({noise}; proxied p99 {p99:.1f} ms)", "≤ 3 ms")]


def _time_of(connection: HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> float:
    start = monotonic_ns()
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    text = response.read()
    assert response.status == 200, text
    return (monotonic_ns() - start) / 1e6


def hundred(bench: Bench) -> list[Row]:
    """100 streams: direct, through the proxy, direct again, in turns."""
    runs: dict[str, list[Run]] = {"direct": [], "proxied": [], "again": []}
    seconds, port = bench.seconds(4), bench.provider.port
    cookies = bench.deployment.cookies(users_for(100))
    with bench.deployment.serve(bench.provider.url) as proxy:
        proxied(proxy, cookies, 100, 0.5)
        for _ in bench.rounds(5):
            runs["direct"].append(direct(port, 100, seconds))
            runs["proxied"].append(proxied(proxy, cookies, 100, seconds))
            runs["again"].append(direct(port, 100, seconds))
    added = [run.p99 - base.p99 for run, base in zip(runs["proxied"], runs["direct"], strict=True)]
    noise = [run.p99 - base.p99 for run, base in zip(runs["again"], runs["direct"], strict=True)]
    cost = spread([run.cpu for run in runs["proxied"]], 3)
    return [
        ("100 streams of 20 chunks a second: added delay per chunk, p99", f"{spread(added)} ms", "< 5 ms"),
        *(("", f"{name}: {_delays(of)}", "") for name, of in runs.items()),
        ("", f"noise (again - direct, p99): {spread(noise)} ms; proxy's CPU s/1,000 chunks: {cost}", ""),
    ]


def five_hundred(bench: Bench) -> list[Row]:
    """500 streams on two workers, while others ask for their session."""
    seconds = bench.seconds(8)
    cookies = bench.deployment.cookies(users_for(500))
    with bench.deployment.serve(bench.provider.url) as proxy:
        runs = [proxied(proxy, cookies, 500, seconds) for _ in bench.rounds(3)]
    base = direct(bench.provider.port, 500, seconds)
    p99 = {phase: spread([percentile(run.sessions[phase], 99) for run in runs]) for phase in runs[0].sessions}
    p50 = spread([percentile(run.sessions["steady"], 50) for run in runs])
    others = f"p50 {p50}; p99 alone {p99['alone']}, while they open {p99['opening']}, while they end {p99['ending']}"
    memory = ", ".join(f"{when} {spread([run.memory[when] for run in runs], 0)}" for when in runs[0].memory)
    refused = sum(run.refused for run in runs)
    broken = [head for run in runs for head in run.incomplete]
    answers = ", ".join(sorted({head.decode().partition("\r\n")[0] for head in broken}))
    return [
        ("500 streams: GET /v1/auth/session meanwhile, p99", f"{p99['steady']} ms ({others})", "< 50 ms"),
        ("500 streams: memory of 2 workers (PSS)", f"{memory} MB", "bounded"),
        ("500 streams: delay per chunk", _delays(runs), ""),
        ("", f"direct: {_delays([base])}", ""),
        ("", f"proxy's CPU s/1,000 chunks: {spread([run.cpu for run in runs], 3)}", ""),
        ("500 streams: cut or refused", f"{len(broken)} {answers}".strip(), "0"),
        ("500 streams: sessions not answered with 200", str(refused), "0"),
    ]


def _delays(runs: list[Run]) -> str:
    p50, p99, most = (spread([percentile(run.delays, percent) for run in runs]) for percent in (50, 99, 100))
    return f"p50 {p50}, p99 {p99}, max {most} ms; {spread([run.chunks_per_second for run in runs], 0)} chunks/s"


TOTAL_TIMEOUT = 10.0  # seconds


def slow_clients(bench: Bench) -> list[Row]:
    """Clients that read 1 kB a second, and clients that never read, while the provider sends 2 MB/s to each."""
    half = 5 if bench.quick else 20
    limit = 4.0 if bench.quick else TOTAL_TIMEOUT
    cookies = bench.deployment.cookies(half)
    with bench.deployment.serve(bench.provider.url, LLM_TOTAL_TIMEOUT=f"{limit:.0f}s") as proxy:
        before = proxy.memory()
        began = {}
        clients: dict[str, socket.socket] = {}
        for cookie in cookies:
            for kind in ("slow", "never"):
                name = _name(kind)
                order = Order(chunks=100_000, rate=100, padding=20_000, name=name)
                clients[name] = _call(proxy.port, order, cookie, receive_buffer=4096)
                began[name] = monotonic_ns()
        memory = []
        give_up = monotonic() + limit + 10
        while monotonic() < give_up and not began.keys() <= bench.provider.seen()["cut"].keys():
            memory.append(proxy.memory())
            for name, client in clients.items():
                if name.startswith("slow"):
                    _read(client)
            sleep(0.5)
        cut = bench.provider.seen()["cut"]
        after = proxy.memory()
        for client in clients.values():
            client.close()
    rows = []
    for kind, what in (("slow", "that read 1 kB a second"), ("never", "that never read")):
        lived = [(cut[name] - start) / SECOND for name, start in began.items() if name.startswith(kind) and name in cut]
        kept = half - len(lived)
        seen = f"cut after {spread(lived)} s" if lived else "none is cut"
        rows.append((f"{half} clients {what}", f"{seen}{f'; {kept} not' if kept else ''}", f"{limit:.0f} s"))
    grown = f"before {before:.0f}, at most {max(memory):.0f}, after {after:.0f} MB"
    return [*rows, ("their memory in 2 workers (PSS)", grown, "bounded")]


def _read(client: socket.socket) -> None:
    client.setblocking(False)
    try:
        client.recv(512)
    except (BlockingIOError, ConnectionError):
        return


def leavers(bench: Bench) -> list[Row]:
    """Clients that leave before the first byte and in the middle: when the provider sees its connection closed."""
    rows = []
    number = 5 if bench.quick else 20
    cookies = bench.deployment.cookies(number)
    with bench.deployment.serve(bench.provider.url) as proxy:
        for what, silent in (("before the first byte", True), ("in the middle", False)):
            orders = [Order(chunks=10_000, silent=silent, name=_name(what)) for _ in cookies]
            with _counted(bench, number):
                clients = [_call(proxy.port, *pair) for pair in zip(orders, cookies, strict=True)]
            if not silent:
                for client in clients:
                    _wait_for_chunks(client, 5)
            left = {}
            for order, client in zip(orders, clients, strict=True):
                left[order.name] = monotonic_ns()
                client.close()
                sleep(0.02)
            eventually(lambda left=left: left.keys() <= bench.provider.seen()["cut"].keys(), within=20)  # type: ignore[misc]
            cut = bench.provider.seen()["cut"]
            noticed = sorted((cut[name] - when) / 1e6 for name, when in left.items())
            median, most = statistics.median(noticed), noticed[-1]
            seen = f"{median:.1f} ms median, {most:.1f} ms at most ({number} clients)"
            rows.append((f"A client that leaves {what}: until the provider's connection is closed", seen, "< 1,000 ms"))
    return rows


@contextmanager
def _counted(bench: Bench, number: int) -> Iterator[None]:
    """Wait until the provider has got that many more requests."""
    before = bench.provider.seen()["requests"]
    yield
    eventually(lambda: bench.provider.seen()["requests"] >= before + number)


def _call(port: int, order: Order, cookie: str, *, receive_buffer: int | None = None) -> socket.socket:
    sock = connect(port)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.sendall(wire.request(service.PATH, order.body(), cookie))
    return sock


def _wait_for_chunks(client: socket.socket, chunks: int) -> None:
    seen = 0
    while seen < chunks:
        data = client.recv(65536)
        assert data, "the stream has ended"
        seen += len(wire.SENT_AT.findall(data))


_numbers = count()


def _name(kind: str) -> str:
    return f"{kind} {next(_numbers)}"


ALL: tuple[Callable[[Bench], list[Row]], ...] = (one_call, hundred, five_hundred, slow_clients, leavers)
