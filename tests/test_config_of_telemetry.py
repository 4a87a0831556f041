"""OpenTelemetry's variables: what is refused before anything starts, and what only its SDK can tell."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT, logs
from tests.test_config import PRODUCTION, problems

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_PROPAGATORS", "tracecontext,b3"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://otel.example.com/v1/traces"),
    ],
)
def test_what_cannot_be_had_from_opentelemetry_is_refused(name: str, value: str) -> None:
    assert problems({**PRODUCTION, name: value}) == [name]


def test_what_means_the_same_is_taken() -> None:
    same = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_PROPAGATORS": "tracecontext, baggage"}

    assert problems({**PRODUCTION, **same}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1"),
    ],
)
def test_what_the_sdk_refuses_is_a_problem_of_the_configuration(name: str, value: str) -> None:
    command = [sys.executable, "-c", "import wsgi"]
    env = {**PRODUCTION, **COLLECTOR, name: value}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert (run.returncode, run.stderr) == (1, "")
    (problem,) = [event for event in logs.read(run.stdout) if event["event"] == "invalid_configuration"]
    assert (problem["variable"], problem["level"]) == ("OTEL_*", "error")
