"""What the log says about an exception that nobody expected: its class and where it was, never its text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tests.conftest import AppFactory
from tests.support import logs

CANARY = "canary"
PIPE_BUF = 4096  # Linux writes a line of up to so many bytes into a pipe in one piece
Capture = pytest.CaptureFixture[str]


class Unspeakable(Exception):
    """Nothing can be said about it, and it says so with more of the same."""

    def __str__(self) -> str:
        raise Unspeakable(CANARY)

    __repr__ = __str__


class WithNotes(Exception):
    """It says more than its text."""

    def __init__(self) -> None:
        super().__init__(CANARY, {"email": CANARY})
        self.add_note(CANARY)


def endless() -> None:
    endless()


def a_long_way_down(left: int = 100) -> None:
    if left == 0:
        raise ValueError(CANARY)
    a_long_way_down(left - 1)


def caused() -> NoReturn:
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        raise ValueError(f"{CANARY}@example.com") from error


def beside_another() -> NoReturn:
    try:
        raise KeyError(CANARY)
    except KeyError:
        raise ValueError(CANARY)  # noqa: B904


def in_a_circle() -> NoReturn:
    first, second = ValueError(CANARY), KeyError(CANARY)
    first.__cause__, second.__cause__ = second, first
    raise first


def in_a_group() -> NoReturn:
    raise ExceptionGroup(CANARY, [ValueError(CANARY), ExceptionGroup(CANARY, [KeyError(CANARY)])])


def unspeakable() -> NoReturn:
    raise Unspeakable


def with_notes() -> NoReturn:
    raise WithNotes


def from_text() -> None:
    exec(compile(f"raise ValueError({CANARY!r})", f"<{CANARY}>".replace(CANARY, "string"), "exec"))


def in_a_lambda() -> None:
    list(map(lambda number: 1 / number, [0]))  # noqa: C417


def fail_with(make_app: AppFactory, capfd: Capture, function: Callable[[], object]) -> tuple[Any, Any, str]:
    """The two lines of a request that fails in `function`, and the text of them."""
    app = make_app()

    def view() -> str:
        function()
        return ""

    app.add_url_rule("/fails", view_func=view)
    answer = app.test_client().get("/fails")
    assert answer.status_code == 500
    assert CANARY not in answer.text
    out, err = capfd.readouterr()
    assert err == ""
    event, line = logs.read(out)
    assert event["request_id"] == line["request_id"] == answer.headers["X-Request-Id"]
    return event, line, out


@pytest.mark.parametrize(
    ("function", "error_class", "last"),
    [
        (endless, "RecursionError", "endless"),
        (a_long_way_down, "ValueError", "a_long_way_down"),
        (caused, "ValueError", "caused"),
        (beside_another, "ValueError", "beside_another"),
        (in_a_circle, "ValueError", "in_a_circle"),
        (in_a_group, "ExceptionGroup", "in_a_group"),
        (unspeakable, "Unspeakable", "unspeakable"),
        (with_notes, "WithNotes", "with_notes"),
        (from_text, "ValueError", "<module>"),
        (in_a_lambda, "ZeroDivisionError", "<lambda>"),
    ],
)
def test_an_unexpected_error_is_its_class_and_where_it_was(
    make_app: AppFactory, capfd: Capture, function: Callable[[], object], error_class: str, last: str
) -> None:
    event, line, text = fail_with(make_app, capfd, function)

    assert (event["event"], event["level"], event["error_class"]) == ("unhandled_error", "error", error_class)
    assert (line["level"], line["error_code"]) == ("error", "internal_error")
    assert event["stack"][-1].endswith(f":{last}")
    assert len(event["stack"]) <= 30
    assert CANARY not in text.lower()
    assert all(len(written) < PIPE_BUF for written in text.splitlines(keepends=True))


def test_a_long_stack_is_cut_at_its_outer_end(make_app: AppFactory, capfd: Capture) -> None:
    event, _, _ = fail_with(make_app, capfd, a_long_way_down)

    assert len(event["stack"]) == 30
    assert all(frame.endswith(":a_long_way_down") for frame in event["stack"])


def test_a_stack_names_lines_and_nothing_of_the_machine(make_app: AppFactory, capfd: Capture) -> None:
    event, _, _ = fail_with(make_app, capfd, caused)

    stack = event["stack"]
    assert all(re.fullmatch(r"[\w.-][\w./-]*\.py:\d+:\S+", frame) for frame in stack)
    assert any(frame.startswith("flask/app.py:") for frame in stack)
    assert re.fullmatch(r"tests/test_log_of_errors\.py:\d+:caused", stack[-1])


def test_the_requests_own_line_names_the_exception_and_not_what_caused_it(make_app: AppFactory, capfd: Capture) -> None:
    _, line, _ = fail_with(make_app, capfd, caused)

    assert line["error_class"] == "ValueError"


@pytest.mark.parametrize("name", ["ada@example.com", "Two Words", "", 'Quoted"', "Lines\nTwo", "Überlauf", "\udcff"])
def test_a_class_with_an_odd_name_leaves_the_log_readable(make_app: AppFactory, capfd: Capture, name: str) -> None:
    app = make_app()

    def fail() -> NoReturn:
        raise type(name, (Exception,), {})

    app.add_url_rule("/fails", view_func=fail)
    app.test_client().get("/fails")

    out, err = capfd.readouterr()
    assert err == ""
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["unhandled_error", "request"]
