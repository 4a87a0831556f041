"""What other libraries log: where it was said and its template, never what is filled in."""

from __future__ import annotations

import json
import logging
import math
import re
from typing import Any

import pytest
import urllib3

from tests.conftest import AppFactory
from tests.support import free_port, logs
from tests.support.outages import refusal

CANARY = "canary"
Capture = pytest.CaptureFixture[str]


def records(capfd: Capture) -> list[dict[str, Any]]:
    """Every line that was printed since the last call: events of the schema, and no canary in them."""
    out, err = capfd.readouterr()
    assert err == ""
    assert CANARY not in out.lower()
    return logs.read(out)


@pytest.mark.parametrize("name", ["gunicorn.error", "werkzeug", "yoyo", "urllib3.connectionpool", "mail.log"])
def test_another_librarys_text_is_never_written(make_app: AppFactory, capfd: Capture, name: str) -> None:
    make_app()
    logger = logging.getLogger(name)

    logger.warning("Invalid request from ip=1.2.3.4")
    logger.error("%s at %(missing)s", CANARY)
    try:
        raise ValueError(CANARY)
    except ValueError:
        logger.exception("connection to %s failed", CANARY)

    written = records(capfd)
    assert "1.2.3.4" not in json.dumps(written)
    assert [(line["event"], line["logger"], line["level"]) for line in written] == [
        ("library", name, "warning"),
        ("library", name, "error"),
        ("library", name, "error"),
    ]
    assert [line.get("template") for line in written] == [None, "%s at %(missing)s", "connection to %s failed"]
    assert all(re.fullmatch(r"test_log_of_libraries:\d+", line["at"]) for line in written)
    assert written[-1]["error_class"] == "ValueError"


class Unspeakable:
    """An object that has no text."""

    def __str__(self) -> str:
        raise RuntimeError(CANARY)


@pytest.mark.parametrize(
    ("message", "args", "template"),
    [
        ("a constant", (), None),
        ("%s and %s", (CANARY,), "%s and %s"),  # one too few
        ("one too many", (CANARY,), "one too many"),
        ("%d", (CANARY,), "%d"),
        ("%(a)s", ({"a": CANARY},), "%(a)s"),
        ("%s", (Unspeakable(),), "%s"),
        ("%s %s %s", (b"canary", object(), math.nan), "%s %s %s"),
        ("two\nlines\r\x00\x1b[31m\u2028 %s", (CANARY,), "two\nlines\r\x00\x1b[31m\u2028 %s"),
        ("a lone surrogate \udcff %s", (CANARY,), "a lone surrogate \udcff %s"),
        (CANARY, (), None),
        (b"canary", (), None),
        ({"email": CANARY}, (), None),
        # What is no text cannot be a template: it is a value.
        (ValueError(CANARY), (), None),
        (ValueError(CANARY), (CANARY,), None),
        ([CANARY, "%s"], (CANARY,), None),
    ],
)
def test_of_a_message_its_template_is_written(
    make_app: AppFactory, capfd: Capture, message: object, args: tuple[object, ...], template: str | None
) -> None:
    make_app()

    logging.getLogger("a.library").warning(message, *args)

    (line,) = records(capfd)
    assert line.get("template") == template


def test_a_message_that_cannot_be_written_makes_no_noise(make_app: AppFactory, capfd: Capture) -> None:
    make_app()

    logging.getLogger("a.library").warning(Unspeakable())
    logging.getLogger("a.library").warning(Unspeakable(), CANARY)

    assert all(line["logger"] == "a.library" for line in records(capfd))


def test_what_a_library_attaches_to_a_message_is_not_written(make_app: AppFactory, capfd: Capture) -> None:
    make_app()

    logging.getLogger("a.library").warning("x", extra={"fields": {"email": CANARY}, "event": CANARY}, stack_info=True)

    (line,) = records(capfd)
    assert line.keys() == {"ts", "level", "env", "event", "logger", "at"}


@pytest.mark.parametrize(
    ("number", "level"), [(10, "debug"), (15, "debug"), (25, "info"), (35, "warning"), (45, "error"), (99, "critical")]
)
def test_a_level_that_only_one_library_knows_is_the_one_below(
    make_app: AppFactory, capfd: Capture, number: int, level: str
) -> None:
    make_app(LOG_LEVEL="DEBUG")

    logging.getLogger("a.library").log(number, "something")

    assert [line["level"] for line in records(capfd)] == [level]


def test_an_exception_that_is_logged_without_being_raised_has_a_class_and_no_stack(
    make_app: AppFactory, capfd: Capture
) -> None:
    make_app()

    logging.getLogger("a.library").warning("x", exc_info=ValueError(CANARY))
    logging.getLogger("a.library").warning("x", exc_info=True)  # noqa: LOG014 - there is none

    assert [(line.get("error_class"), line.get("stack")) for line in records(capfd)] == [
        ("ValueError", None),
        (None, None),
    ]


def test_a_line_within_a_request_has_its_id(make_app: AppFactory, capfd: Capture) -> None:
    app = make_app()

    def view() -> str:
        logging.getLogger("a.library").warning("x")
        return ""

    app.add_url_rule("/logs", view_func=view)
    app.test_client().get("/logs", headers={"X-Request-Id": "mine"})

    assert [(line["event"], line["request_id"]) for line in records(capfd)] == [
        ("library", "mine"),
        ("request", "mine"),
    ]


# --- Those that are there. ---


def test_gunicorn_writes_no_log_of_addresses_beside_ours(make_app: AppFactory, capfd: Capture) -> None:
    make_app(LOG_LEVEL="DEBUG")

    logging.getLogger("gunicorn.access").info("127.0.0.1 GET /canary")

    assert records(capfd) == []


def test_urllib3_tries_again_without_saying_where(make_app: AppFactory, capfd: Capture) -> None:
    make_app(LOG_LEVEL="DEBUG")
    retries = urllib3.Retry(1, backoff_factor=0)

    with pytest.raises(urllib3.exceptions.MaxRetryError), urllib3.PoolManager() as http:
        http.request("GET", f"http://user:{CANARY}@127.0.0.1:{free_port()}/{CANARY}?{CANARY}", retries=retries)

    lines = records(capfd)
    assert {(line["logger"], line["level"]) for line in lines} >= {("urllib3.connectionpool", "warning")}


def test_a_redis_that_is_away_is_a_warning_without_its_address(make_app: AppFactory, capfd: Capture) -> None:
    with refusal() as port:
        client = make_app(REDIS_URL=f"redis://:{CANARY}@127.0.0.1:{port}", LOG_LEVEL="DEBUG").test_client()
        client.post("/v1/auth/request-link", json={"email": f"{CANARY}@example.com"})

    lines = records(capfd)
    assert [line["status"] for line in lines if line["event"] == "request"] == [200]
    assert "warning" in {line["level"] for line in lines if line["event"] == "library"}
