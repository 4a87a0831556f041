"""A collector that is away, slow or talks nonsense costs spans and nothing else; and no end loses what was measured."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.client import HTTPConnection
from statistics import median
from threading import Event
from time import monotonic, perf_counter

import pytest

from lumen_api.observability import telemetry
from tests.conftest import ServiceFactory
from tests.support import eventually, processes
from tests.support.collector import Collector, attributes
from tests.support.gate import Gate
from tests.support.mailbox import Mailbox
from tests.support.outages import refusal, silence
from tests.support.raw_server import RawServer, Talk, dripping
from tests.support.service import Service

SESSION = "/v1/auth/session"  # 401 without a cookie, and no database is asked
CANARY = "canary"

# As on a busy day, when there is always something to send.
BUSY = {
    "OTEL_TRACES_SAMPLER": "always_on",
    "OTEL_BSP_SCHEDULE_DELAY": "20",  # milliseconds
    "OTEL_BSP_MAX_QUEUE_SIZE": "64",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16",
    "OTEL_METRIC_EXPORT_INTERVAL": "50",
}


def to(port: int) -> dict[str, str]:
    """The variables that send everything to a port, with secrets in the URL and the headers."""
    return {
        **BUSY,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}/{CANARY}-in-path",
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={CANARY}-in-header",
    }


def reply(status: str, *headers: str, body: str = f"{CANARY}-in-body") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"X-Text: {CANARY}", f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


NONSENSE = [
    reply(f"500 {CANARY}-in-reason"),
    reply(f"400 {CANARY}-in-reason"),
    reply("503 Unavailable", "Retry-After: 3600"),
    reply("429 Too Many", "Retry-After: 1"),
    reply("503 Unavailable", f"Retry-After: {CANARY}"),
    reply("307 Moved", f"Location: http://127.0.0.1:9/{CANARY}"),
    reply("200 OK", body=f"<html>{CANARY}"),  # some other server
    reply("200 OK", "Content-Encoding: gzip"),
    f"{CANARY}\r\n".encode() * 50,
    b"",
]


class Nonsense:
    """Another of these on each connection, and then hangs up."""

    def __init__(self) -> None:
        self.said = 0

    def __call__(self, connection: socket.socket, _: Event) -> None:
        connection.recv(1 << 20)
        self.said += 1
        connection.sendall(NONSENSE[self.said % len(NONSENSE)])


def slow(connection: socket.socket, closing: Event) -> None:
    """Takes everything, two seconds later."""
    while connection.recv(1 << 20) and not closing.wait(2):
        connection.sendall(reply("200 OK"))


@contextmanager
def served_by(talk: Talk) -> Iterator[int]:
    with RawServer(talk) as server:
        yield server.port


COLLECTORS: dict[str, Callable[[], AbstractContextManager[int]]] = {
    "away": refusal,
    "silent": silence,
    "slow": lambda: served_by(slow),
    "dripping": lambda: served_by(dripping(f"HTTP/1.1 200 OK\r\nX-Text: {CANARY}\r\n".encode())),
}


class Caller:
    """One connection that stays open."""

    def __init__(self, service: Service) -> None:
        self._connection = HTTPConnection("127.0.0.1", service.port, timeout=5)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, path: str = SESSION, **headers: str) -> float:
        """One request. Returns how many seconds it took."""
        began = perf_counter()
        self._connection.request("GET", path, headers=headers)
        response = self._connection.getresponse()
        response.read()
        assert response.status == 401
        return perf_counter() - began


def end_at_once(*services: Service) -> None:
    """Without the seconds in which they try to send what is left."""
    for service in services:
        assert service.process
        processes.kill(service.process.pid, *service.workers())
        service.process.wait()
        service.process = None


def assert_unharmed(service: Service, slowest: float) -> None:
    """It has answered all the time, ends in time and in order, and quotes nobody in its log."""
    began = monotonic()
    assert (service.stop(), slowest < 2) == (0, True)
    assert monotonic() - began < telemetry.FLUSH + 3
    log = service.log.read_text()
    assert log.count('"event":"request"') >= 100
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines())
    assert CANARY not in log.lower()


@pytest.mark.parametrize("kind", COLLECTORS)
def test_a_bad_collector_fails_no_request_delays_no_end_and_is_not_quoted(serve: ServiceFactory, kind: str) -> None:
    with COLLECTORS[kind]() as port:
        service = serve(workers=1, LOG_LEVEL="DEBUG", **to(port))
        with Caller(service) as caller:
            slowest = max(caller.ask() for _ in range(100))
        assert_unharmed(service, slowest)


def test_a_collector_that_answers_nonsense_is_not_quoted_either(serve: ServiceFactory) -> None:
    talk = Nonsense()
    with served_by(talk) as port:
        service = serve(workers=1, LOG_LEVEL="DEBUG", **to(port), OTEL_EXPORTER_OTLP_TIMEOUT="0.5")
        with Caller(service) as caller:
            slowest = max(caller.ask() for _ in range(100))
            eventually(lambda: caller.ask() and talk.said > 2 * len(NONSENSE))
        assert_unharmed(service, slowest)
    assert '"level":"error","env":"test","event":"library","logger":"opentelemetry.' in service.log.read_text()


def test_a_collector_that_does_not_answer_makes_no_request_slower(serve: ServiceFactory) -> None:
    with ExitStack() as stack:
        services = {
            kind: serve(workers=1, **to(stack.enter_context(COLLECTORS[kind]()))) for kind in ("away", "silent", "slow")
        }
        services["none"] = serve(workers=1)
        callers = {kind: stack.enter_context(Caller(service)) for kind, service in services.items()}
        times: dict[str, list[float]] = {kind: [] for kind in callers}
        for _ in range(200):
            for kind, caller in callers.items():  # in turn, so that a busy machine is busy for all of them
                times[kind].append(caller.ask())
        end_at_once(*services.values())

    medians = {kind: median(took) for kind, took in times.items()}
    without = medians.pop("none")
    # Measuring itself costs about half a millisecond; to wait for the collector would cost seconds.
    assert {kind: took for kind, took in medians.items() if took > 3 * without + 0.005} == {}


def test_spans_that_cannot_be_sent_do_not_pile_up(serve: ServiceFactory) -> None:
    # Each span holds this much until it is sent: what of it may leave is decided then.
    path, agent = f"{SESSION}?{'x' * 3000}", "y" * 8000
    with silence() as port:
        service = serve(workers=1, **to(port))
        (worker,) = service.workers()
        with Caller(service) as caller:
            for _ in range(200):
                caller.ask(path, **{"User-Agent": agent})
            before = processes.resident(worker)
            for _ in range(1000):
                caller.ask(path, **{"User-Agent": agent})
            grown = processes.resident(worker) - before
        end_at_once(service)

    assert grown < 5 << 20  # 1000 spans would be 14 MB


# --- The end. ---


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def good(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER": "always_on"}


def requests(collector: Collector, route: str) -> tuple[int, float]:
    """How many requests of a route have arrived as spans, and how many were counted."""
    spans = [span for span in collector.spans() if attributes(span.attributes).get("http.route") == route]
    counted = [value for named, value in collector.points("http.server.request.duration")
               if named.get("http.route") == route]  # fmt: skip
    return len(spans), sum(counted)


def test_a_stop_loses_nothing_of_any_worker(serve: ServiceFactory, collector: Collector) -> None:
    service = serve(workers=2, **good(collector))
    eventually(lambda: len(service.workers()) == 2)
    with ExitStack() as stack:
        for caller in [stack.enter_context(Caller(service)) for _ in range(20)]:
            caller.ask()
            caller.ask()

    assert service.stop() == 0
    assert requests(collector, SESSION) == (40, 40)
    both = {resource["service.instance.id"] for resource in collector.resources()}
    assert len(both) == 2  # and no third one from the master


def test_a_request_in_flight_at_the_end_is_measured_too(
    serve: ServiceFactory, collector: Collector, mailbox: Mailbox
) -> None:
    service = serve(workers=2, **good(collector))
    eventually(lambda: len(service.workers()) == 2)
    gate = Gate()
    mailbox.answer_rcpt = gate
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(service.call, "POST", "/v1/auth/request-link", {"email": "ada@example.com"})
        assert gate.reached.wait(10)
        assert service.process
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: len(service.workers()) == 1)  # the idle one has gone
        gate.open()
        assert in_flight.result(10).status == 200
        assert service.process.wait(10) == 0

    assert requests(collector, "/v1/auth/request-link") == (1, 1)
    assert collector.span("email.send")
    assert [named["lumen.auth.outcome"] for named, _ in collector.points("lumen.auth.events")] == ["sent"]


def test_ctrl_c_loses_nothing_either(serve: ServiceFactory, collector: Collector) -> None:
    service = serve(workers=1, **good(collector))
    with Caller(service) as caller:
        caller.ask()

    assert service.stop(signal.SIGINT) == 0
    assert requests(collector, SESSION) == (1, 1)


def test_the_successor_of_a_killed_worker_reports_too(serve: ServiceFactory, collector: Collector) -> None:
    service = serve(workers=1, **good(collector), OTEL_BSP_SCHEDULE_DELAY="50")
    (lost,) = service.workers()
    with Caller(service) as caller:
        caller.ask()
    eventually(lambda: requests(collector, SESSION)[0] == 1)

    processes.kill(lost)
    eventually(lambda: lost not in service.workers() and service.serves())
    with Caller(service) as caller:
        caller.ask()
    assert service.stop() == 0

    assert requests(collector, SESSION)[0] == 2
    assert len(collector.resources()) == 2
