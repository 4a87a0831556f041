"""OpenTelemetry's variables, by the names of its specification, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lumen_api import settings as kind
from lumen_api.settings import variable

# OpenTelemetry's variables that have one meaning here, which is no matter of choice.
_ONLY = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": ("http/protobuf",),
    "OTEL_PROPAGATORS": ("tracecontext", "baggage"),  # of which `traceparent` is read
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": (),
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": (),
}


@dataclass(frozen=True, kw_only=True)
class TelemetrySettings:
    """Where telemetry goes and how much of it: the part of Config that nothing but telemetry reads."""

    app_env: str  # Config's own, which the collector is told

    otel_endpoint: str | None = variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        kind.web_url,
        None,
        "OpenTelemetry collector that gets traces and metrics, by OTLP over HTTP. Without it nothing is measured.",
    )
    otel_headers: dict[str, str] | None = variable(
        "OTEL_EXPORTER_OTLP_HEADERS", kind.pairs, None, "Headers for the collector, like its key.", show=kind.masked
    )
    otel_service_name: str | None = variable(
        "OTEL_SERVICE_NAME", kind.name, None, "What the collector knows the service by. Default: `lumen-api`."
    )
    otel_resource_attributes: dict[str, str] | None = variable(
        "OTEL_RESOURCE_ATTRIBUTES", kind.pairs, None, "What else it is told about the process."
    )
    otel_traces_sampler: str = variable(
        "OTEL_TRACES_SAMPLER", kind.sampler, "parentbased_traceidratio", "Which requests are traced."
    )
    otel_traces_sampler_arg: float = variable(
        "OTEL_TRACES_SAMPLER_ARG", kind.ratio, "0.1", "How many of them, if the sampler's name ends in `ratio`."
    )
    otel_traces_exporter: str = variable(
        "OTEL_TRACES_EXPORTER", kind.choice("otlp", "none"), "otlp", "`none`: the collector gets no traces."
    )
    otel_metrics_exporter: str = variable(
        "OTEL_METRICS_EXPORTER", kind.choice("otlp", "none"), "otlp", "`none`: the collector gets no metrics."
    )
    otel_sdk_disabled: bool = variable("OTEL_SDK_DISABLED", kind.boolean, "false", "`true`: no telemetry at all.")

    @property
    def telemetry(self) -> tuple[str, ...]:
        """What the collector gets."""
        if self.otel_endpoint is None or self.otel_sdk_disabled:
            return ()
        exporters = {"traces": self.otel_traces_exporter, "metrics": self.otel_metrics_exporter}
        return tuple(name for name, exporter in exporters.items() if exporter != "none")

    @property
    def telemetry_resource(self) -> dict[str, str]:
        """What the collector is told about this process."""
        ours = {"service.name": "lumen-api", "deployment.environment.name": self.app_env}
        named = {"service.name": self.otel_service_name} if self.otel_service_name else {}
        return {**ours, **(self.otel_resource_attributes or {}), **named}

    @property
    def telemetry_shown(self) -> str:
        """Where telemetry goes, in a sentence."""
        if not self.telemetry:
            return "telemetry: none leaves this process"
        ratio = f" {self.otel_traces_sampler_arg}" if self.otel_traces_sampler.endswith("ratio") else ""
        sampler = f" ({self.otel_traces_sampler}{ratio})" if "traces" in self.telemetry else ""
        return f"telemetry: {' and '.join(self.telemetry)} go to {self.otel_endpoint}{sampler}"

    def _telemetry_problems(self, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, only in _ONLY.items():
            if not {part.strip() for part in env.get(name, "").split(",")} <= {"", *only}:
                yield name, f"must be {' or '.join([*only, 'not set'])}"
