"""Many streams at once: through the proxy, or from the fake provider itself."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic_ns

from bench.llm import service, wire
from bench.llm.client import SECOND, Load
from bench.llm.report import percentile
from bench.llm.service import Proxy
from bench.llm.wire import Order

RATE = 20  # chunks a second of each stream
OPENED_PER_SECOND = 100
PROBES_PER_SECOND = 50
PATIENCE = 5.0  # seconds


@dataclass
class Run:
    """What was seen. Times in ms, memory in MB; the lists are sorted.

    Opening: until every stream has had a chunk. Steady: from then on until one ends, or for the seconds that were
    asked for. Ending: until all have ended.
    """

    chunks_per_second: float
    delays: list[float]  # of the chunks in the steady phase
    sessions: dict[str, list[float]]  # GET /v1/auth/session, by phase
    cpu: float  # of the proxy's workers, in seconds per 1,000 chunks of the steady phase
    memory: dict[str, float]  # of the proxy's workers: before, during (the most that was seen), after
    refused: int  # sessions that were not answered with 200
    incomplete: list[bytes]  # what the streams that did not come to their end got first

    @property
    def p99(self) -> float:
        """Of the delays."""
        return percentile(self.delays, 99)


def direct(port: int, count: int, seconds: float) -> Run:
    """From the fake provider itself: what everything but the proxy costs."""
    body = order(count, seconds).body()
    return _measure(None, port, [wire.request(wire.PATH, body)] * count, [], seconds)


def proxied(proxy: Proxy, cookies: list[str], count: int, seconds: float) -> Run:
    """Through the proxy. The last of `cookies` ask for their session; each of the others opens two streams."""
    body = order(count, seconds).body()
    streams = [wire.request(service.PATH, body, cookie) for cookie in cookies for _ in range(service.CALLS_OF_ONE_USER)]
    probes = [wire.request("/v1/auth/session", headers=cookie) for cookie in cookies[-10:]]
    return _measure(proxy, proxy.port, streams[:count], probes, seconds)


def users_for(count: int) -> int:
    """How many users it takes to open that many streams, with some for the prober."""
    return count // service.CALLS_OF_ONE_USER + 10


def order(count: int, seconds: float) -> Order:
    """Streams that are long enough to be all open for `seconds`."""
    return Order(chunks=int((count / OPENED_PER_SECOND + seconds + 2) * RATE), rate=RATE)


def _measure(proxy: Proxy | None, port: int, requests: list[bytes], probes: list[bytes], seconds: float) -> Run:
    memory = [proxy.memory() if proxy else 0.0]
    load = Load()
    try:
        if probes:
            load.probe(port, probes, rate=PROBES_PER_SECOND)
            load.run_for(1)
        opening = monotonic_ns()
        streams = load.open_streams(port, requests, per_second=OPENED_PER_SECOND)
        # Streams that are not all open by the time that the first could end are more than the proxy can carry.
        load.run_until(
            lambda: len(streams) == len(requests) and all(stream.began or stream.ended for stream in streams),
            seconds=len(requests) / OPENED_PER_SECOND + seconds + PATIENCE,
        )
        memory.append(proxy.memory() if proxy else 0.0)
        steady, cpu = monotonic_ns(), proxy.cpu() if proxy else 0.0
        while monotonic_ns() < steady + int(seconds * SECOND) and not any(stream.complete for stream in streams):
            load.run_for(0.5)
            memory.append(proxy.memory() if proxy else 0.0)
        ending, cpu = monotonic_ns(), (proxy.cpu() if proxy else 0.0) - cpu
        load.run_until(
            lambda: all(stream.ended for stream in streams), seconds=len(requests) / OPENED_PER_SECOND + PATIENCE
        )
        end = monotonic_ns()
        if probes:
            load.run_for(1)
        memory.append(proxy.memory() if proxy else 0.0)
    finally:
        load.close()
    delays = load.delays.between(steady, ending)
    phases = {"alone": (0, opening), "opening": (opening, steady), "steady": (steady, ending), "ending": (ending, end)}
    return Run(
        chunks_per_second=len(delays) / (ending - steady) * SECOND,
        delays=delays,
        sessions={name: load.probed.between(*phase) for name, phase in phases.items()},
        cpu=cpu / max(1, len(delays)) * 1000,
        memory={"before": memory[0], "during": max(memory[1:-1]), "after": memory[-1]},
        refused=load.refused,
        incomplete=[stream.head for stream in streams if not stream.complete],
    )
