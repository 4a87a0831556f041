"""docs/observability.md says what is so: its schema, its examples, and its lists of events, spans and metrics."""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from lumen_api.observability import metrics, tracing
from tests.support import ROOT, logs

DOCUMENT = (ROOT / "docs/observability.md").read_text()
Line = dict[str, Any]


@cache
def examples() -> dict[str, Line]:
    """The example of each event; the last one where there are several."""
    (block,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    return {line["event"]: line for line in map(json.loads, block.splitlines())}


def section(heading: str) -> str:
    """What is under a heading."""
    return DOCUMENT.partition(f"\n{heading}\n")[2].partition("\n#")[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def is_valid(line: Line) -> bool:
    return bool(logs.schema().is_valid(line))


# --- The schema lets pass what is logged, and nothing else. ---


@pytest.mark.parametrize("event", examples())
def test_every_example_is_valid(event: str) -> None:
    logs.read(json.dumps(examples()[event]))


def test_what_is_no_event_fails_a_test_that_reads_it() -> None:
    for text in ("Traceback (most recent call last):", "[1]", "null", '{"event":"request"}', "{}", ""):
        with pytest.raises((AssertionError, ValueError)):
            logs.read(f"{json.dumps(examples()['request'])}\n{text}\n")


@pytest.mark.parametrize(
    ("event", "change"),
    [
        ("request", {"ts": "2026-11-23T15:52:23Z"}),
        ("request", {"ts": "2026-11-23T15:52:23.065Z"}),
        ("request", {"ts": "2026-11-23T15:52:23.065361+00:00"}),
        ("request", {"ts": "2026-11-23 15:52:23.065361Z"}),
        ("request", {"level": "INFO"}),
        ("request", {"level": "warning"}),
        ("request", {"env": "staging"}),
        ("request", {"event": "requests"}),
        ("request", {"request_id": "two words"}),
        ("request", {"request_id": ""}),
        ("request", {"request_id": "x" * 65}),
        ("request", {"trace_id": "0AF7651916CD43DD8448EB211C80319C"}),
        ("request", {"method": "BREW"}),
        ("request", {"route": "/v1/sessions?cursor=x"}),
        ("request", {"route": "/v1/Ada"}),
        ("request", {"route": "v1"}),
        ("request", {"route": ""}),
        ("request", {"status": "200"}),
        ("request", {"status": 200.5}),
        ("request", {"status": 20}),
        ("request", {"status": None}),
        ("request", {"latency_ms": "8.1"}),
        ("request", {"latency_ms": -0.1}),
        ("request", {"error_class": "ValueError: ada@example.com"}),
        ("request", {"error_class": "psycopg2.errors.UniqueViolation"}),
        ("request", {"error_class": ""}),
        ("request", {"error_code": "Not found"}),
        ("refused", {"count": 0}),
        ("refused", {"count": "118"}),
        ("refused", {"error_code": None}),
        ("refused", {"level": "warning"}),
        ("auth_request", {"outcome": "ada@example.com"}),
        ("auth_request", {"outcome": None}),
        ("llm_call", {"model": "What is love?"}),
        ("llm_call", {"model": None}),
        ("llm_call", {"stream": None}),
        ("llm_call", {"stream": "true"}),
        ("llm_call", {"status": None}),
        ("llm_call", {"error_class": "the provider said: Hello"}),
        ("llm_call", {"input_tokens": -1}),
        ("llm_call", {"input_tokens": "312"}),
        ("llm_call", {"output_tokens": None}),
        ("llm_call", {"charged_tokens": 11.5}),
        ("llm_call", {"ttft_ms": "742.18"}),
        ("llm_call", {"duration_ms": None}),
        ("llm_call", {"provider_request_id": "two words"}),
        ("llm_call", {"provider_request_id": "x" * 65}),
        ("llm_call", {"provider_request_id": ""}),
        ("llm_call", {"level": "warning"}),
        ("unhandled_error", {"error_class": None}),
        ("unhandled_error", {"stack": ["flask/app.py:902:dispatch_request: ada@example.com"]}),
        ("unhandled_error", {"stack": ["flask/app.py:902"]}),
        ("unhandled_error", {"stack": ['File "flask/app.py", line 902, in dispatch_request']}),
        ("unhandled_error", {"stack": ["flask/app.py:902:f"] * 31}),
        ("unhandled_error", {"stack": "flask/app.py:902:f"}),
        ("warning", {"at": "flask_limiter/_extension.py:360: in-memory storage"}),
        ("library", {"logger": "gunicorn error"}),
        ("invalid_configuration", {"variable": "redis://:secret@redis"}),
        ("migration_applied", {"migration": "0001.create users"}),
        ("purge", {"table": "users"}),
        ("purge", {"rows": -1}),
        ("purge", {"rows": "412"}),
        ("command_failed", {"sqlstate": "a value"}),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused(event: str, change: Line) -> None:
    assert not is_valid({**examples()[event], **change})


LEVELS = {
    **dict.fromkeys(("auth_request", "auth_verify"), frozenset({"info"})),
    **dict.fromkeys(("migration_applied", "migration_undone", "database_up_to_date", "purge"), frozenset({"info"})),
    **dict.fromkeys(("unhandled_error", "invalid_configuration", "command_failed"), frozenset({"error"})),
    "request": {"debug", "info", "error"},
    "llm_call": {"info", "error"},
    "refused": {"info", "error"},
    "warning": {"warning"},
    "library": {"debug", "info", "warning", "error", "critical"},
}


@pytest.mark.parametrize("event", examples())
def test_an_event_has_the_levels_of_the_table_and_no_others(event: str) -> None:
    allowed = {level for level in LEVELS["library"] | {"trace"} if is_valid({**examples()[event], "level": level})}

    assert allowed == LEVELS[event]


def fields(event: str) -> set[str]:
    """What a line of this event may hold beside what its example does."""
    of_requests = {"request_id", "trace_id"}
    others = {
        "request": of_requests,
        "auth_request": of_requests,
        "auth_verify": of_requests,
        "llm_call": of_requests,
        "unhandled_error": {*of_requests, "stack"},
        "warning": of_requests,
        "library": {*of_requests, "template", "error_class", "stack"},
        "command_failed": {"error_class", "stack"},
    }
    return set(examples()[event]) | others.get(event, set())


@pytest.mark.parametrize("event", examples())
def test_a_member_too_many_is_refused(event: str) -> None:
    known = {name: value for example in examples().values() for name, value in example.items()}
    line = {name: value for name, value in examples()[event].items() if name != "trace_id"}

    for name in {*known, "email", "message", "path"} - fields(event):
        assert not is_valid({**line, name: known.get(name, "x")}), name


@pytest.mark.parametrize("event", examples())
def test_a_missing_member_is_refused(event: str) -> None:
    optional = {"trace_id", "stack", "template"}
    if event in ("unhandled_error", "warning", "library", "command_failed"):
        optional |= {"request_id"}

    for name in set(examples()[event]) - optional:
        line = copy.deepcopy(examples()[event])
        del line[name]
        assert not is_valid(line), name


@pytest.mark.parametrize("event", examples())
def test_a_member_of_another_type_is_refused(event: str) -> None:
    for name, value in examples()[event].items():
        for other in ({"email": "ada@example.com"}, ["ada@example.com"], 1 if isinstance(value, bool) else True):
            assert not is_valid({**examples()[event], name: other}), (name, value, other)


# --- The lists are complete. ---


def events_in_the_code() -> Iterator[str]:
    """The names that the code gives to events, each as a literal."""
    for path in (*(ROOT / "lumen_api").rglob("*.py"), ROOT / "app.py", ROOT / "gunicorn.conf.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("log_event", "logging.log_event", "_report"):
                if isinstance(node.args[0], ast.Constant):
                    yield str(node.args[0].value)
                else:  # a name that is handed on
                    assert ast.unparse(node) in ("log_event(event, outcome=outcome)", "_report(response.status_code)")
            elif isinstance(node, ast.Dict):  # a line that is made without log_event()
                named = zip(node.keys, node.values, strict=True)
                yield from (
                    str(value.value)
                    for key, value in named
                    if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant)
                )


def events_in_the_schema() -> Iterator[str]:
    document = logs.schema().schema
    assert isinstance(document, dict)
    for kind in document["oneOf"]:
        event = kind["properties"]["event"]
        yield from event.get("enum", [event.get("const")])


def test_the_table_has_every_event_that_the_code_logs_and_the_schema_knows() -> None:
    in_the_table = {name for row in rows("## The log") for name in re.findall(r"`(\w+)`", row[0])}

    assert in_the_table == set(events_in_the_code()) == set(events_in_the_schema()) == set(examples())


def test_the_outcomes_in_the_schema_are_those_in_the_code() -> None:
    document = logs.schema().schema
    assert isinstance(document, dict)
    code = "".join((ROOT / "lumen_api" / path).read_text() for path in ("blueprints/auth.py", "email/__init__.py"))
    named = re.findall(r'_report\("\w+", "(\w+)"\)', code) + re.findall(r'outcome(?:: str)? = "(\w+)"', code)

    assert set(document["properties"]["outcome"]["enum"]) == set(named)


def test_the_table_of_metrics_is_what_is_declared() -> None:
    table = [
        (row[0].strip("`"), row[1], tuple(re.findall(r"`([\w.]+\.[\w.]+)`", row[2]))) for row in rows("### Metrics")
    ]

    assert table == [(metric.name, metric.unit, metric.attributes) for metric in metrics.ALL]


def test_the_attributes_of_spans_are_those_that_may_leave() -> None:
    listed = section("### Spans").partition("no others")[2].partition(". Events")[0]

    assert set(re.findall(r"`([\w.]+)`", listed)) == tracing.ATTRIBUTES


# --- The alerts. ---


def prometheus() -> dict[str, set[str]]:
    """The names that our metrics have in Prometheus, each with its labels."""
    found = {}
    for metric in metrics.ALL:
        name = metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")
        suffixes = {"histogram": ("_count", "_sum", "_bucket"), "counter": ("_total",)}.get(metric.kind, ("",))
        labels = {attribute.replace(".", "_") for attribute in metric.attributes}
        found.update({f"{name}{suffix}": labels | {"le"} for suffix in suffixes})
    return found


ALERTS = {row[0]: row[1].strip("`") for row in rows("### Alerts worth having")}
WORDS = {"sum", "rate", "by", "histogram_quantile", "absent", "absent_over_time"}


def unknown_names(expression: str) -> set[str]:
    """What an expression names that no metric or label of ours is called."""
    unquoted = re.sub(r'"[^"]*"', "", expression)
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", unquoted))))
    selected = re.sub(r"\bby \([^)]*\)|\[\w+\]", "", unquoted)
    unknown = set[str]()
    for name, labels in re.findall(r"([a-z]\w*)(?:\{([^}]*)\})?", selected):
        if name in prometheus():
            unknown |= (set(re.findall(r"\w+", labels)) | grouped) - prometheus()[name]
        elif name not in WORDS:
            unknown.add(name)
    return unknown


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_names_metrics_and_labels_that_exist(alert: str) -> None:
    assert unknown_names(ALERTS[alert]) == set()


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ("sum(rate(lumen_auth_events[5m])) > 1", "lumen_auth_events"),
        ('sum(rate(lumen_auth_events_total{outcome="x"}[5m])) > 1', "outcome"),
        ("sum by (rule) (rate(lumen_rate_limit_refusals_total[5m])) > 5", "rule"),
        ("absent(http_server_request_duration_count)", "http_server_request_duration_count"),
    ],
)
def test_an_alert_about_nothing_is_found(expression: str, unknown: str) -> None:
    assert unknown_names(expression) == {unknown}
