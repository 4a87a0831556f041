"""OpenTelemetry: traces and metrics to a collector, over OTLP/HTTP.

Imported only where a collector is configured, once per process: by app.py, so in each gunicorn worker. Batches are
sent by threads of their own, from queues that drop what does not fit: a collector that is slow or away costs spans,
never time or memory.

What leaves is an allow-list. The attributes of spans are tracing.ATTRIBUTES, the metrics are metrics.ALL with the
attributes declared there; whatever else this or the next version of a library knows about a request stays here.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from time import monotonic

import flask
from flask import Flask
from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lumen_api.observability import metrics, tracing

# Seconds for the last batches at the end of the process. gunicorn.conf.py leaves time for them.
FLUSH = 4.0

_SCOPE = "lumen"

# The names are the specification's for OTEL_TRACES_SAMPLER.
_SAMPLERS = {
    "always_on": lambda _: sampling.ALWAYS_ON,
    "always_off": lambda _: sampling.ALWAYS_OFF,
    "traceidratio": sampling.TraceIdRatioBased,
    "parentbased_always_on": lambda _: sampling.DEFAULT_ON,
    "parentbased_always_off": lambda _: sampling.DEFAULT_OFF,
    "parentbased_traceidratio": sampling.ParentBasedTraceIdRatio,
}


@dataclass(frozen=True)
class Collector:
    """Where telemetry goes: a base URL, and `signals`, which are "traces", "metrics" or both."""

    url: str
    headers: Mapping[str, str]
    signals: Sequence[str]


class Telemetry:
    """The two pipelines of one process, and what tracing.py asks for."""

    def __init__(self, collector: Collector, *, resource: Mapping[str, str], sampler: tuple[str, float]) -> None:
        """`resource`: who we are. `sampler`: its name and ratio."""
        who = Resource.create(resource)
        name, ratio = sampler
        self._tracers = TracerProvider(sampler=_SAMPLERS[name](ratio), resource=who, shutdown_on_exit=False)
        if "traces" in collector.signals:
            spans = OTLPSpanExporter(f"{collector.url}/v1/traces", headers=collector.headers)
            self._tracers.add_span_processor(AllowedSpans(spans))
        self._tracer = self._tracers.get_tracer(_SCOPE)
        readers = []
        if "metrics" in collector.signals:
            exporter = OTLPMetricExporter(f"{collector.url}/v1/metrics", headers=collector.headers)
            readers.append(PeriodicExportingMetricReader(exporter))
        self._meters = MeterProvider(
            readers,
            resource=who,
            views=_views(),
            # An exemplar would hold the attributes that the views have taken away.
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
        )
        metrics.connect(self._meters.get_meter(_SCOPE))
        # They wait until the end, because Python starts no thread while it exits, and each part would wait up to 30 s
        # for its exporter if it were told to stop by ourselves.
        self._ending = threading.Event()
        self._flushes = [
            threading.Thread(target=self._shut_down, args=(part,), name="telemetry-flush", daemon=True)
            for part in (self._tracers, self._meters)
        ]
        for flush in self._flushes:
            flush.start()

    def instrument(self, app: Flask) -> None:
        """Give each request of `app` a span. Its hook must be the first, or a 404 gets none."""
        app.request_class = Request
        FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
            app,
            tracer_provider=self._tracers,
            # We keep none of its metrics: they name the Host header, and end a streamed answer where it begins.
            meter_provider=NoOpMeterProvider(),
            enable_commenter=False,
        )

    @contextmanager
    def span(self, name: str, attributes: tracing.Attributes, *, client: bool) -> Iterator[None]:
        """See tracing.span()."""
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", type(error.__cause__ or error).__name__)
                if getattr(error, "status", 500) >= 500:  # an answer like 401 is no failure of ours
                    span.set_status(StatusCode.ERROR)
                raise

    def begin(self, name: str, attributes: tracing.Attributes) -> Operation:
        """See tracing.begin()."""
        return Operation(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))

    def describe(self, attributes: tracing.Attributes) -> None:
        """See tracing.describe()."""
        trace.get_current_span().set_attributes({k: v for k, v in attributes.items() if v is not None})

    def trace_id(self) -> str | None:
        """See tracing.trace_id()."""
        current = trace.get_current_span().get_span_context()
        return trace.format_trace_id(current.trace_id) if current.is_valid else None

    def stop(self) -> None:
        """Send what is there, for FLUSH seconds at most; once is enough."""
        if self._ending.is_set():
            return
        give_up = monotonic() + FLUSH
        self._ending.set()
        for flush in self._flushes:
            flush.join(max(0.0, give_up - monotonic()))

    def _shut_down(self, part: TracerProvider | MeterProvider) -> None:
        self._ending.wait()
        part.shutdown()


class Operation:
    """See tracing.Operation."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def active(self) -> AbstractContextManager[object]:
        """See tracing.Operation.active()."""
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def end(self, attributes: tracing.Attributes, *, failed: bool) -> None:
        """See tracing.Operation.end()."""
        self._span.set_attributes({k: v for k, v in attributes.items() if v is not None})
        if failed:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class TraceParent(TraceContextTextMapPropagator):
    """W3C Trace Context without `tracestate`, in which a caller could send anything on to the collector."""

    def extract(
        self,
        carrier: CarrierT,
        context: context.Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> context.Context:
        """The caller's trace, if it has one."""
        return super().extract({"traceparent": getter.get(carrier, "traceparent")}, context)


class AllowedSpans(BatchSpanProcessor):
    """Queues spans without what is not on the list: callers must not fill the queue with long headers either."""

    def on_end(self, span: ReadableSpan) -> None:
        """See SpanProcessor."""
        super().on_end(_allowed(span))


class Request(flask.Request):
    """A request whose URL may be read: the instrumentation does so, and Werkzeug raises on a Host like "xn--a"."""

    @property
    def url(self) -> str:
        """The URL, or nothing."""
        try:
            return super().url
        except UnicodeError:
            return ""


def _allowed(span: ReadableSpan) -> ReadableSpan:
    """`span` without events and links, without the text of its status, and with the attributes that we know."""
    attributes = {name: value for name, value in (span.attributes or {}).items() if name in tracing.ATTRIBUTES}
    ours = span.instrumentation_scope is not None and span.instrumentation_scope.name == _SCOPE
    return ReadableSpan(
        name=span.name if ours else _request_name(attributes),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _request_name(attributes: Mapping[str, object]) -> str:
    """As the conventions have it: method and route. The instrumentation names a 404 after its raw path."""
    method = attributes.get("http.request.method", "_OTHER")
    name = "HTTP" if method == "_OTHER" else str(method)
    return f"{name} {attributes['http.route']}" if "http.route" in attributes else name


def _views() -> list[View]:
    declared = [View(instrument_name=metric.name, attribute_keys=set(metric.attributes)) for metric in metrics.ALL]
    return [View(instrument_name="*", aggregation=DropAggregation()), *declared]


def start(app: Flask, collector: Collector, *, resource: Mapping[str, str], sampler: tuple[str, float]) -> None:
    """Trace and count this process, and the requests of `app`, until its end."""
    propagate.set_global_textmap(TraceParent())
    telemetry = Telemetry(collector, resource=resource, sampler=sampler)
    telemetry.instrument(app)
    tracing.backend = telemetry
    atexit.register(telemetry.stop)
