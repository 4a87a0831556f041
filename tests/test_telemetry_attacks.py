"""Callers who want telemetry to harm the service, or to be kept from the collector."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from tests.conftest import ServiceFactory
from tests.support.collector import Collector
from tests.support.outages import silence

SESSION = "/v1/auth/session"
ALL = {"OTEL_TRACES_SAMPLER": "always_on"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


# Werkzeug decodes labels that begin with xn--, and raises where they are no IDNA (RFC 5890).
HOSTS = ["xn--a", "xn--", "api.xn--zzzzzz", "xn--a:8080", "XN--A", "xn--" + "z" * 300, "\xff", "[::1", "a b", ""]


def test_no_host_is_too_odd(serve: ServiceFactory, collector: Collector) -> None:
    service = serve(workers=1, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **ALL)

    statuses = {host: service.call("GET", SESSION, headers={"Host": host}).status for host in HOSTS}
    unknown = {host: service.call("GET", "/nowhere", headers={"Host": host}).status for host in HOSTS}

    refused_by_gunicorn = {host for host, status in statuses.items() if status == 400}
    assert {host for host, status in statuses.items() if status != 401} == refused_by_gunicorn
    assert set(unknown.values()) <= {404, 400}
    assert "xn--a" not in refused_by_gunicorn


def test_long_headers_do_not_wait_in_memory_for_a_collector_that_is_away(serve: ServiceFactory) -> None:
    headers = {
        "User-Agent": "u" * 8000,
        "Host": "h" * 4000,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    with silence() as port:
        service = serve(workers=1, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", LOG_LEVEL="ERROR")
        for _ in range(50):
            service.call("GET", SESSION)
        before = service.resident()
        for _ in range(2000):
            service.call("GET", "/" + "p" * 3000, headers=headers)
        grown = service.resident() - before
        service.stop(signal.SIGINT)

    assert grown < 15_000_000  # 2,000 spans of 15 kB are 30 MB, and more as Python holds them


@pytest.mark.full  # for the 20 s that requests have at the end
def test_a_client_that_never_finishes_keeps_nothing_from_the_collector(
    serve: ServiceFactory, collector: Collector
) -> None:
    late = {"OTEL_BSP_SCHEDULE_DELAY": "100000", "OTEL_METRIC_EXPORT_INTERVAL": "100000"}
    service = serve(workers=1, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **ALL, **late)
    for _ in range(20):
        service.call("GET", SESSION)
    with socket.create_connection(("127.0.0.1", service.port)) as stuck:
        stuck.sendall(b"POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n")

        assert service.stop() == 0

    assert len([span for span in collector.spans() if span.name == f"GET {SESSION}"]) == 20
    assert collector.metric_names() >= {"http.server.request.duration"}
