"""No metric but those that are declared, with no attribute but theirs, whatever a library measures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from lumen_api.observability import metrics, telemetry
from lumen_api.observability.metrics import Metric
from tests.support import ROOT


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def meter(reader: InMemoryMetricReader) -> Iterator[Meter]:
    """Of a provider with our views, as an instrumentation would get one."""
    provider = MeterProvider([reader], views=telemetry._views(), shutdown_on_exit=False)
    yield provider.get_meter("an.instrumentation")
    provider.shutdown()


def exported(reader: InMemoryMetricReader) -> dict[str, list[dict[str, Any]]]:
    """The names of the metrics, each with the attributes of its values."""
    data = reader.get_metrics_data()
    found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return {metric.name: [dict(point.attributes or {}) for point in metric.data.data_points] for metric in found}


def test_an_instrument_that_is_not_declared_is_not_exported(reader: InMemoryMetricReader, meter: Meter) -> None:
    meter.create_counter("http.server.active_requests").add(1, {"server.address": "canary"})
    meter.create_histogram("lumen.auth.durations").record(1)
    meter.create_observable_gauge("lumen.gauge", [lambda _: []])
    meter.create_counter(metrics.PURGED.name).add(1)

    assert exported(reader).keys() == {metrics.PURGED.name}


@pytest.mark.parametrize("metric", metrics.ALL, ids=lambda metric: metric.name)
def test_an_attribute_that_is_not_declared_is_dropped(
    reader: InMemoryMetricReader, meter: Meter, metric: Metric
) -> None:
    own = Metric(metric.kind, metric.name, metric.unit, metric.description, (*metric.attributes, "client.address"))
    own.connect(meter)

    own.record(1, *metric.attributes, "canary")

    assert exported(reader) == {metric.name: [{name: name for name in metric.attributes}]}


@pytest.mark.parametrize("values", [(), ("one",), ("one", "two", "three")], ids=len)
def test_a_value_too_few_or_too_many_is_an_error(meter: Meter, values: tuple[str, ...]) -> None:
    metric = Metric("counter", "lumen.test", "1", "A test.", ("first", "second"))
    metric.connect(meter)

    with pytest.raises(ValueError, match="argument"):
        metric.record(1, *values)


def test_all_that_is_declared_is_in_the_list_once_and_is_used() -> None:
    declared = {name: value for name, value in vars(metrics).items() if isinstance(value, Metric)}
    code = "".join(file.read_text() for file in (ROOT / "lumen_api").rglob("*.py"))

    assert sorted(declared) == sorted(re.findall(r"^    ([A-Z][A-Z_]+),$", (ROOT / metrics.__file__).read_text(), re.M))
    assert list(declared.values()) == list(metrics.ALL)
    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
    assert [name for name in declared if f"metrics.{name}.record(" not in code] == []


def test_only_two_files_make_instruments() -> None:
    making = re.compile(r"create_(\w*counter|histogram|\w*gauge)|get_meter|MeterProvider")
    files = [ROOT / "app.py", *(ROOT / "lumen_api").rglob("*.py")]

    assert {file.name for file in files if making.search(file.read_text())} <= {"metrics.py", "telemetry.py"}
