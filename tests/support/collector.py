"""An OpenTelemetry collector: takes OTLP over HTTP and keeps what arrives, decoded."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Message = ExportTraceServiceRequest | ExportMetricsServiceRequest
MESSAGES: dict[str, type[Message]] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}


@dataclass(frozen=True)
class Payload:
    """One request of an exporter."""

    path: str
    headers: dict[str, str]
    message: Message


@dataclass
class Collector:
    """A running receiver. `answer()` is called for each request, may take its time, and returns status and body."""

    answer: Callable[[], tuple[int, bytes]] = lambda: (200, b"")
    headers: dict[str, str] = field(default_factory=dict)  # of every answer
    payloads: list[Payload] = field(default_factory=list)

    def __enter__(self) -> Collector:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the name that http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                message = MESSAGES[self.path].FromString(body)
                collector.payloads.append(Payload(self.path, dict(self.headers), message))
                status, text = collector.answer()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **collector.headers}.items():
                    self.send_header(name, value)
                with suppress(ConnectionError):  # it has not waited
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:  # as http.server has it
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def spans(self) -> list[Span]:
        """All spans that have arrived."""
        return list(self._spans())

    def span(self, name: str) -> Span:
        """The one span of this name."""
        (span,) = [span for span in self.spans() if span.name == name]
        return span

    def parents(self, trace_id: str) -> dict[str, str | None]:
        """The spans of one trace by name, each with the name of its parent; None: it has none here."""
        spans = [span for span in self.spans() if span.trace_id.hex() == trace_id]
        names = {span.span_id: span.name for span in spans}
        assert len(set(names.values())) == len(spans), names  # no name twice, or the dictionary would hide one
        return {span.name: names.get(span.parent_span_id) for span in spans}

    def resources(self) -> list[dict[str, Any]]:
        """Who has sent something: the attributes of each process, once."""
        found = [attributes(resource.attributes) for resource in self._resources()]
        return list({str(sorted(each.items())): each for each in found}.values())

    def points(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """A metric's newest values, one for each process and each set of attributes. A histogram's is its count."""
        newest: dict[str, tuple[dict[str, Any], float]] = {}
        for process, metric in self._metrics_by_process():
            if metric.name == name:
                histogram = metric.HasField("histogram")
                for point in metric.histogram.data_points if histogram else metric.sum.data_points:
                    named = attributes(point.attributes)
                    value = point.count if histogram else getattr(point, point.WhichOneof("value"))
                    newest[f"{process} {sorted(named.items())}"] = (named, value)
        return list(newest.values())

    def text(self) -> str:
        """All that has arrived, headers too, for a search."""
        return "\n".join(f"{payload.path} {payload.headers} {payload.message}" for payload in list(self.payloads))

    def metrics(self, name: str) -> list[Metric]:
        """Each export of a metric, oldest first."""
        return [metric for metric in self._metrics() if metric.name == name]

    def metric_names(self) -> set[str]:
        """The names of all metrics that have arrived."""
        return {metric.name for metric in self._metrics()}

    def _spans(self) -> Iterator[Span]:
        for payload in list(self.payloads):
            if isinstance(payload.message, ExportTraceServiceRequest):
                for resource in payload.message.resource_spans:
                    for scope in resource.scope_spans:
                        yield from scope.spans

    def _metrics(self) -> Iterator[Metric]:
        for _, metric in self._metrics_by_process():
            yield metric

    def _metrics_by_process(self) -> Iterator[tuple[str, Metric]]:
        for payload in list(self.payloads):
            if isinstance(payload.message, ExportMetricsServiceRequest):
                for sent in payload.message.resource_metrics:
                    process = attributes(sent.resource.attributes)["service.instance.id"]
                    for scope in sent.scope_metrics:
                        for metric in scope.metrics:
                            yield process, metric

    def _resources(self) -> Iterator[Resource]:
        for payload in list(self.payloads):
            if isinstance(payload.message, ExportTraceServiceRequest):
                yield from (sent.resource for sent in payload.message.resource_spans)
            else:
                yield from (sent.resource for sent in payload.message.resource_metrics)


def attributes(pairs: Any) -> dict[str, Any]:
    """Attributes as a dictionary."""

    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")

    return {pair.key: value(pair) for pair in pairs}
