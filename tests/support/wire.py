"""A client's connection, and the contract's rules for every answer that comes over it."""

from __future__ import annotations

import json
import re
import select
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, IncompleteRead
from typing import Any

from tests.support.ledger import Ledger
from tests.support.service import Answer

LATEST = 6.0  # seconds: nobody waits longer for an answer


class Wire:
    """One connection, kept as long as it lasts. Every answer is held against the contract's rules for all answers."""

    def __init__(self, port: int, ledger: Ledger, name: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=LATEST)
        self._ledger = ledger
        self._name = name
        self._asked = 0

    def ask(self, method: str, path: str, body: object = None, *, cookie: str = "") -> Answer | None:
        """The answer, or None when the connection was refused or broke."""
        self._asked += 1
        request_id = f"{self._name}-{self._asked}"
        headers = {"X-Request-Id": request_id, **({"Cookie": cookie} if cookie else {})}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if _hung_up(self._connection):
            self._connection.close()
        sent = time.monotonic()
        answer, how = self._exchange(method, path, None if body is None else json.dumps(body), headers)
        self._judge(f"{method} {path} ({request_id})", answer, how, sent, time.monotonic() - sent)
        if answer:
            for flaw in flaws(answer, request_id):
                self._ledger.problem("shape", f"{method} {path} ({request_id}): {flaw}: {answer.body[:200]!r}")
        return answer

    def _judge(self, what: str, answer: Answer | None, how: str, sent: float, seconds: float) -> None:
        """Whether it came in time, and after the last fault at all."""
        self._ledger.request(sent, seconds)
        if answer is None:
            self._ledger.silence(sent + seconds, how)
        if how == "silent" or seconds > LATEST:
            self._ledger.problem("late", f"{what}: {how} after {seconds:.1f} s")
        if sent > self._ledger.calm_since and (answer is None or answer.status >= 500):
            after = f"{sent - self._ledger.calm_since:.2f} s after the last fault"
            self._ledger.problem("calm", f"{what}, {after}: {answer.body[:200]!r}" if answer else f"{what}: {how}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _exchange(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[Answer | None, str]:
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read()), "answered"
        except ConnectionRefusedError:
            how = "refused"
        except (ConnectionError, IncompleteRead):
            how = "broken"
        except TimeoutError:
            how = "silent"
        except HTTPException as error:
            how = "broken"
            self._ledger.problem("shape", f"{method} {path}: {error!r}")
        self._connection.close()
        return None, how


def _hung_up(connection: HTTPConnection) -> bool:
    """Whether the server has closed a connection that was kept, as it may between two requests."""
    if connection.sock is None:
        return False
    poller = select.poll()
    poller.register(connection.sock, select.POLLIN)
    return bool(poller.poll(0))


def flaws(answer: Answer, request_id: str) -> Iterator[str]:
    """What the contract does not allow in any answer here."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    expected = {
        "x-request-id": request_id,
        "content-type": "application/json; charset=utf-8",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    yield from (f"{name} is {headers.get(name)}" for name in expected if headers.get(name) != expected[name])
    if answer.status not in (200, 401, 409, 503):
        yield f"{answer.status} is no answer to this"
    if answer.status == 503 and not re.fullmatch("[1-9][0-9]*", headers.get("retry-after", "")):
        yield f"retry-after is {headers.get('retry-after')}"
    try:
        body = answer.json
    except ValueError:
        yield "the body is not JSON"
    else:
        if not (_is_success(body) if answer.status == 200 else _is_envelope(body, request_id)):
            yield f"{answer.status} with a body of another shape"


def _is_success(body: Any) -> bool:
    return bool(body["status"] == "ok")


def _is_envelope(body: Any, request_id: str) -> bool:
    error = body.get("error", {})
    return set(error) == {"code", "message", "request_id"} and error["request_id"] == request_id
