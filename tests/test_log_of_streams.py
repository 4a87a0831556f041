"""A request's line comes when its answer has ended, once, and with its own ids, whatever else runs meanwhile."""

from __future__ import annotations

import io
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask, Response, send_file, stream_with_context
from werkzeug.test import TestResponse

from tests.conftest import AppFactory
from tests.support import logs

Capture = pytest.CaptureFixture[str]
MINE = {"X-Request-Id": "mine"}
OTHER = {"X-Request-Id": "other"}


def parts(*, broken: bool = False) -> Iterator[str]:
    """A body that takes a while."""
    for _ in range(3):
        threading.Event().wait(0.03)
        yield "part"
    if broken:
        raise ValueError("canary")


def answered_with(make_app: AppFactory, answer: Callable[[], Response]) -> Flask:
    """An app that streams at /streams."""
    app = make_app()
    app.add_url_rule("/streams", view_func=answer)
    return app


def lines(capfd: Capture) -> list[dict[str, Any]]:
    return [line for line in logs.read(capfd.readouterr().out) if line["event"] == "request"]


def begin(app: Flask, method: str = "GET") -> tuple[TestResponse, Iterator[bytes]]:
    """An answer that has begun, and the rest of its body."""
    answer = app.test_client().open("/streams", method=method, headers=MINE, buffered=False)
    return answer, answer.iter_encoded()


streams = pytest.mark.parametrize(
    "answer",
    [lambda: Response(parts()), lambda: Response(stream_with_context(parts()))],
    ids=["plain", "with context"],
)


@streams
def test_a_stream_is_logged_when_it_ends_and_not_before(
    make_app: AppFactory, capfd: Capture, answer: Callable[[], Response]
) -> None:
    begun, body = begin(answered_with(make_app, answer))
    next(body)
    assert lines(capfd) == []

    assert list(body) == [b"part", b"part"]
    begun.close()

    (line,) = lines(capfd)
    assert (line["request_id"], line["route"], line["status"], line["level"]) == ("mine", "/streams", 200, "info")
    assert 90 <= line["latency_ms"] < 10_000


@streams
def test_a_stream_keeps_its_id_while_its_thread_answers_another(
    make_app: AppFactory, capfd: Capture, answer: Callable[[], Response]
) -> None:
    app = answered_with(make_app, answer)
    begun, body = begin(app)
    next(body)

    app.test_client().get("/v1/account", headers=OTHER)
    assert [(line["request_id"], line["route"]) for line in lines(capfd)] == [("other", "/v1/account")]
    list(body)
    begun.close()

    assert [(line["request_id"], line["route"]) for line in lines(capfd)] == [("mine", "/streams")]


def test_a_stream_that_ends_within_another_request_keeps_its_id(make_app: AppFactory, capfd: Capture) -> None:
    app = answered_with(make_app, lambda: Response(parts()))
    open_streams: list[TestResponse] = []
    app.add_url_rule("/ends", "ends", lambda: open_streams.pop().close() or "")  # type: ignore[func-returns-value]
    begun, body = begin(app)
    next(body)
    open_streams.append(begun)

    app.test_client().get("/ends", headers=OTHER)

    assert [(line["request_id"], line["route"]) for line in lines(capfd)] == [("mine", "/streams"), ("other", "/ends")]


@streams
def test_a_stream_whose_caller_hangs_up_is_logged_once(
    make_app: AppFactory, capfd: Capture, answer: Callable[[], Response]
) -> None:
    begun, body = begin(answered_with(make_app, answer))
    next(body)

    begun.close()

    (line,) = lines(capfd)
    assert (line["request_id"], line["status"]) == ("mine", 200)
    assert line["latency_ms"] < 90


@streams
def test_a_stream_that_is_asked_for_its_head_is_logged_once(
    make_app: AppFactory, capfd: Capture, answer: Callable[[], Response]
) -> None:
    begun, body = begin(answered_with(make_app, answer), "HEAD")

    assert list(body) == []
    begun.close()

    assert [(line["request_id"], line["method"], line["status"]) for line in lines(capfd)] == [("mine", "HEAD", 200)]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Response(parts(broken=True)),
        lambda: Response(stream_with_context(parts(broken=True))),
    ],
    ids=["plain", "with context"],
)
def test_a_stream_that_breaks_is_logged_once(
    make_app: AppFactory, capfd: Capture, answer: Callable[[], Response]
) -> None:
    begun, body = begin(answered_with(make_app, answer))

    with suppress(ValueError):
        list(body)
    begun.close()

    assert [line["request_id"] for line in lines(capfd)] == ["mine"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: send_file(io.BytesIO(b"part" * 3), "text/plain"),  # the server reads it past Flask
        lambda: Response(iter(()), status=204),
        lambda: Response(["a", "list"]),
        Response,
        lambda: Response(parts(), status=500),
    ],
    ids=["file", "no content", "list", "empty", "failure"],
)
def test_an_answer_of_any_kind_is_logged_once(
    make_app: AppFactory, capfd: Capture, answer: Callable[[], Response]
) -> None:
    begun, body = begin(answered_with(make_app, answer))

    list(body)
    begun.close()

    (line,) = lines(capfd)
    assert (line["status"], line["level"]) == (begun.status_code, "error" if begun.status_code == 500 else "info")


def test_requests_at_once_never_share_an_id(make_app: AppFactory, capfd: Capture) -> None:
    app = make_app()
    together = threading.Barrier(8)

    def view() -> str:
        together.wait(10)
        logging.getLogger("a.library").warning("in between")
        together.wait(10)
        return ""

    app.add_url_rule("/together", view_func=view)
    ids = [f"id-{number}" for number in range(8)]

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda name: app.test_client().get("/together", headers={"X-Request-Id": name}), ids):
            pass

    logged = logs.read(capfd.readouterr().out)
    assert Counter(line["request_id"] for line in logged) == dict.fromkeys(ids, 2)
    assert {(line["request_id"], line["event"]) for line in logged} == {
        (name, event) for name in ids for event in ("library", "request")
    }
