"""Every metric that the service has. What is not declared here is not exported.

Names and units follow https://opentelemetry.io/docs/specs/semconv/ where it has one. Values of attributes are names
and numbers of our own, never a caller's. Until telemetry.start() has called connect(), which it does only where a
collector is configured, counting is nothing but a comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter


@dataclass
class Metric:
    """One instrument. `kind` is the method of OpenTelemetry's Meter that makes it."""

    kind: str
    name: str
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    _record: Callable[[float, dict[str, Any]], None] | None = field(default=None, init=False, repr=False)

    def record(self, amount: float, *values: str | int | None) -> None:
        """Count or measure `amount`, with a value for each of `attributes`, in their order; None: it has none."""
        if self._record is not None:
            named = zip(self.attributes, values, strict=True)
            self._record(amount, {name: value for name, value in named if value is not None})

    def connect(self, meter: Meter) -> None:
        """Make the instrument."""
        make = getattr(meter, f"create_{self.kind}")
        instrument = make(self.name, self.unit, self.description, **self.options)
        self._record = instrument.record if self.kind == "histogram" else instrument.add

    def disconnect(self) -> None:
        """Forget it."""
        self._record = None


def _buckets(*boundaries: float) -> dict[str, Any]:
    return {"explicit_bucket_boundaries_advisory": boundaries}


REQUEST_DURATION = Metric(
    "histogram",
    "http.server.request.duration",
    "s",
    "Duration of HTTP server requests.",
    ("http.request.method", "url.scheme", "http.route", "http.response.status_code", "error.type"),
    # As the semantic conventions ask for.
    _buckets(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
AUTH_EVENTS = Metric(
    "counter",
    "lumen.auth.events",
    "{event}",
    "Links asked for (auth_request) and tried (auth_verify), by what came of it.",
    ("lumen.auth.event", "lumen.auth.outcome"),
)
REFUSALS = Metric(
    "counter", "lumen.rate_limit.refusals", "{request}", "Requests above a limit.", ("lumen.rate_limit.rule",)
)
EMAILS = Metric(
    "counter",
    "lumen.email.messages",
    "{message}",
    "Mails handed over, or not.",
    ("lumen.email.provider", "lumen.email.outcome"),
)
CONNECTIONS = Metric(
    "up_down_counter",
    "db.client.connection.count",
    "{connection}",
    "Connections of the pool that are in use.",
    ("db.client.connection.pool.name", "db.client.connection.state"),
)
CONNECTION_WAIT = Metric(
    "histogram",
    "db.client.connection.wait_time",
    "s",
    "Time it took to get a connection from the pool.",
    ("db.client.connection.pool.name",),
    _buckets(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1),
)
CONNECTION_TIMEOUTS = Metric(
    "counter",
    "db.client.connection.timeouts",
    "{timeout}",
    "Requests that got no connection in time.",
    ("db.client.connection.pool.name",),
)
PURGED = Metric("counter", "lumen.purge.rows", "{row}", "Expired rows removed.", ("lumen.purge.table",))

_MODEL = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")
MODEL_DURATION = Metric(
    "histogram",
    "gen_ai.client.operation.duration",
    "s",
    "Duration of calls of the model.",
    (*_MODEL, "error.type"),
    _buckets(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
MODEL_FIRST_CHUNK = Metric(
    "histogram",
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    "Time to the first event of a streamed answer.",
    _MODEL,
    _buckets(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
MODEL_TOKENS = Metric(
    "histogram",
    "gen_ai.client.token.usage",
    "{token}",
    "Tokens of a call, as the provider counts them.",
    (*_MODEL, "gen_ai.token.type"),
    _buckets(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
)

ALL = (
    REQUEST_DURATION,
    AUTH_EVENTS,
    REFUSALS,
    EMAILS,
    CONNECTIONS,
    CONNECTION_WAIT,
    CONNECTION_TIMEOUTS,
    PURGED,
    MODEL_DURATION,
    MODEL_FIRST_CHUNK,
    MODEL_TOKENS,
)


def connect(meter: Meter) -> None:
    """Make all instruments."""
    for metric in ALL:
        metric.connect(meter)


def disconnect() -> None:
    """Count nothing any more."""
    for metric in ALL:
        metric.disconnect()
