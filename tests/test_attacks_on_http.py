"""Attacks on HTTP itself, against gunicorn on real sockets: hidden requests, line ends, floods."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from select import select
from time import monotonic

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import logs
from tests.support.attackers import HIDDEN, HIDDEN_ADDRESS, LINK, hidden_requests, post
from tests.support.credentials import new_cookie
from tests.support.locks import at_once
from tests.support.mailbox import Mailbox
from tests.support.raw_http import request, talk
from tests.support.service import Service, unharmed

VERIFY, LOGOUT = "/v1/auth/verify", "/v1/auth/logout"


@pytest.fixture
def service(serve: ServiceFactory) -> Iterator[Service]:
    """One worker, which must be the same and well when the test is over."""
    with unharmed(serve(workers=1)) as started:
        yield started


# --- A request hidden in another. ---


def test_a_request_that_hides_another_is_refused_and_the_other_is_never_carried_out(
    service: Service, mailbox: Mailbox
) -> None:
    answers = {name: talk(service.port, sent, hang_up=True) for name, sent in hidden_requests()}

    statuses = {name: [answer.status for answer in found] for name, found in answers.items()}
    assert {name: found for name, found in statuses.items() if found not in ([400], [501])} == {}
    assert mailbox.messages == []


def test_a_request_that_was_not_hidden_would_have_been_noticed(service: Service, mailbox: Mailbox) -> None:
    answers = talk(service.port, HIDDEN + request("GET", "/v1/health"))

    assert [answer.status for answer in answers] == [200, 200]
    assert len(mailbox.to(HIDDEN_ADDRESS)) == 1


# --- Line ends. ---

INJECTED = "X-Injected: yes"
LINE_ENDS = ("%0d%0a", "%0a", "%0d", "%250d%250a", "%e5%98%8d%e5%98%8a", "\\r\\n", "\x85", "\x0b", "\x0c")
RAW_LINE_ENDS = ("\r", "\n", "\r\r\n", "\n\n", "\r\n\t", "\0\r\n ")
HEADERS = ("X-Request-Id", "Origin", "Cookie", "Host", "X-Forwarded-For", "traceparent", "Referer", "User-Agent")
MEMBERS = {LINK: "email", VERIFY: "token", "/v1/sessions/start": "session_id"}


def with_line_ends(cookie: str) -> Iterator[bytes]:
    """Requests that try to write a header of their own into an answer, a mail or a line of the log."""
    for end in LINE_ENDS:
        yield request("GET", f"/v1/health{end}{INJECTED.replace(' ', '')}")
        yield request("GET", f"/v1/sessions?limit={end}{INJECTED.replace(' ', '')}", f"Cookie: {cookie}")
    for header in HEADERS:
        for end in (*LINE_ENDS, *RAW_LINE_ENDS):
            yield request("GET", "/v1/health", f"{header}: https://app.example.com{end}{INJECTED}")
    octal = r'"\015\012' + INJECTED + '"'
    yield request("POST", LOGOUT, f"Cookie: __Host-lumen_session={octal}")
    asked = f"Access-Control-Request-Headers: content-type%0d%0a{INJECTED}, x-injected"
    yield request("OPTIONS", VERIFY, "Origin: https://app.example.com", "Access-Control-Request-Method: POST", asked)
    for path, member in MEMBERS.items():
        for end in ("\r\n", "\n", "\r", "\r\n\r\n", "\u2028", "\u0085", "\x0b"):
            for value in (
                f"ada@example.com{end}{INJECTED}",
                f"{INJECTED}{end}ada@example.com",
                f"ada{end}@example.com",
            ):
                yield post(path, {member: value}, f"Cookie: {cookie}")


def test_no_line_end_of_a_caller_makes_a_header_a_mail_or_a_line_of_the_log(
    service: Service, app: Flask, mailbox: Mailbox
) -> None:
    sent = list(with_line_ends(new_cookie(app)["Cookie"]))

    answers = [talk(service.port, one, hang_up=True) for one in sent]

    assert [one for one, found in zip(sent, answers, strict=True) if len(found) != 1] == []
    assert [found for (found,) in answers if "injected" in str(found.headers).lower()] == []
    assert {found.status for (found,) in answers} <= {200, 400, 401, 404}
    assert mailbox.messages == []
    log = service.log.read_text()
    assert len(logs.read(log)) > 50
    assert "injected" not in log.lower()


# --- Floods of headers. ---


def taken_before_an_answer(port: int, start: bytes, piece: bytes, *, at_most: int) -> int:
    """How many bytes of a head that never ends are sent until a server has had enough. It must hang up soon then,
    although they go on."""
    sent, deadline = 0, monotonic() + 20
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(start)
        while sent < at_most and not select([connection], [], [], 0)[0]:
            connection.sendall(piece)
            sent += len(piece)
        while monotonic() < deadline:
            connection.sendall(piece)
        pytest.fail("it goes on reading")
    return sent


FLOODS = {
    "headers": (b"GET /v1/health HTTP/1.1\r\n", b"X-Flood: yes\r\n" * 1000),
    "one header": (b"GET /v1/health HTTP/1.1\r\nX-Flood: ", b"x" * 10_000),
    "cookies": (b"GET /v1/health HTTP/1.1\r\nCookie: ", b"x=y; " * 2000),
    "an address": (b"GET /", b"x" * 10_000),
    "empty lines": (b"", b"\r\n" * 5000),
    "trailers": (request("POST", VERIFY, "Transfer-Encoding: chunked") + b"0\r\n", b"X-Flood: yes\r\n" * 1000),
}


def test_a_head_without_an_end_is_cut_off(service: Service) -> None:
    # What the kernel holds between the two is part of it.
    enough = 20_000_000

    # All at once, because a server may go on for a while to throw away what comes.
    taken = at_once(
        [partial(taken_before_an_answer, service.port, *flood, at_most=enough) for flood in FLOODS.values()]
    )

    assert [name for name, count in zip(FLOODS, taken, strict=True) if count >= enough] == []
