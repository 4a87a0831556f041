"""A mail provider that hangs, and a process that dies: what the others notice of it, and what is left behind."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import kill
from signal import SIGKILL
from smtplib import SMTPException
from threading import Event
from time import monotonic

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from lumen_api.email import End, Mail
from lumen_api.email.smtp import _HERE, Smtp, _frame
from tests.conftest import AppFactory, ServiceFactory
from tests.support import databases, eventually
from tests.support.gate import Gate
from tests.support.mailbox import Mailbox, token_in
from tests.support.raw_server import RawServer, dripping, script, silent
from tests.support.service import Answer, Service

AT_ONCE = 4  # half of a worker's threads
LINK = "/v1/auth/request-link"


def ask(app: Flask, email: str = "ada@example.com") -> TestResponse:
    return app.test_client().post(LINK, json={"email": email})


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture
def gate(mailbox: Mailbox) -> Iterator[Gate]:
    gate = Gate()
    mailbox.answer_rcpt = gate
    yield gate
    gate.open()


def test_no_database_connection_is_held_while_a_mail_is_under_way(
    make_app: AppFactory, database: str, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    app = make_app(DATABASE_POOL_SIZE="1")
    under_way = pool.submit(ask, app)
    assert gate.reached.wait(10)

    others = app.test_client()
    assert others.get("/v1/health/ready").status_code == 200
    busy = "select state from pg_stat_activity where application_name = 'lumen-api' and state <> 'idle'"
    assert databases.query(database, f"{busy} and datname = current_database()") == []

    gate.open()
    assert under_way.result(10).status_code == 200


@pytest.fixture
def hanging() -> Iterator[RawServer]:
    with RawServer(silent) as server:
        yield server


def smtp(server: RawServer) -> str:
    return f"smtp://127.0.0.1:{server.port}"


def test_one_mail_more_than_half_the_threads_is_refused_within_a_second(
    make_app: AppFactory, database: str, pool: ThreadPoolExecutor
) -> None:
    with RawServer(silent) as server:
        app = make_app(SMTP_URL=smtp(server))
        under_way = [pool.submit(ask, app) for _ in range(AT_ONCE)]
        eventually(lambda: server.connections == AT_ONCE)

        began = monotonic()
        answer = ask(app)

        assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "email_unavailable")
        assert monotonic() - began < 1
        assert server.connections == AT_ONCE
    # The server has hung up now.
    assert [mail.result(10).status_code for mail in under_way] == [503] * AT_ONCE
    assert databases.query(database, "select from auth_tokens") == []


def test_after_a_hang_mails_go_out_again(
    make_app: AppFactory, mailbox: Mailbox, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    app = make_app()
    under_way = [pool.submit(ask, app) for _ in range(AT_ONCE + 1)]
    assert {mail.result(10).status_code for mail in under_way} == {503}

    gate.open()
    mailbox.clear()
    eventually(lambda: ask(app, "grace@example.com").status_code == 200)

    client = app.test_client()
    assert client.post("/v1/auth/verify", json={"token": mailbox.token_for("grace@example.com")}).status_code == 200


def test_a_mail_that_took_too_long_is_given_up(make_app: AppFactory, pool: ThreadPoolExecutor) -> None:
    # Otherwise four servers that drip for hours keep every other mail from being sent for as long.
    with RawServer(dripping(b"220-hi\r\n")) as server:
        app = make_app(SMTP_URL=smtp(server))
        under_way = [pool.submit(ask, app) for _ in range(AT_ONCE)]
        assert {mail.result(10).status_code for mail in under_way} == {503}

        eventually(lambda: server.open == 0, within=5)


def test_a_mail_that_was_taken_without_an_answer_does_not_sign_in(make_app: AppFactory, database: str) -> None:
    mails: list[str] = []

    def silent_at_last(connection: socket.socket, over: Event) -> None:
        """A server that takes the mail, and does not say so before the caller has given up."""
        received = b""
        for reply in (b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go on"):
            connection.sendall(reply + b"\r\n")
            received = connection.recv(65536)
        while not received.endswith(b"\r\n.\r\n"):
            received += connection.recv(65536)
        mails.append(received.decode())
        over.wait(10)

    with RawServer(silent_at_last) as server:
        app = make_app(SMTP_URL=smtp(server))
        assert ask(app).status_code == 503

    (mail,) = mails
    token = token_in(mail.replace("=\r\n", "").replace("=3D", "=").split("text/html")[0])
    assert app.test_client().post("/v1/auth/verify", json={"token": token}).status_code == 401
    assert databases.query(database, "select from auth_tokens") == []


# --- The same, as it is deployed. ---


def timed(call: Callable[[], Answer]) -> tuple[int, float]:
    began = monotonic()
    return call().status, monotonic() - began


def test_other_routes_stay_fast_while_the_provider_hangs(
    serve: ServiceFactory, hanging: RawServer, pool: ThreadPoolExecutor
) -> None:
    service = serve(workers=1, SMTP_URL=smtp(hanging))

    def mail(number: int) -> tuple[int, float]:
        return timed(lambda: service.call("POST", LINK, {"email": f"ada{number}@example.com"}))

    mails: list[Future[tuple[int, float]]] = [pool.submit(mail, number) for number in range(12)]
    eventually(lambda: hanging.connections == AT_ONCE)
    others = [
        timed(lambda: service.call("GET", "/v1/health/ready")),
        timed(lambda: service.call("GET", "/v1/auth/session")),
        timed(lambda: service.call("POST", "/v1/auth/verify", {"token": "x"})),
    ]

    assert hanging.open == AT_ONCE  # still
    assert [status for status, _ in others] == [200, 401, 401]
    assert max(seconds for _, seconds in others) < 2
    answers = [mail.result(10) for mail in mails]
    assert {status for status, _ in answers} == {503}
    assert sum(seconds > 3 for _, seconds in answers) == AT_ONCE


def crash_in_the_middle_of_a_mail(service: Service, gate: Gate, pool: ThreadPoolExecutor) -> None:
    under_way = pool.submit(service.call, "POST", LINK, {"email": "ada@example.com"})
    assert gate.reached.wait(10)
    (worker,) = service.workers()
    kill(worker, SIGKILL)
    with pytest.raises(OSError):
        under_way.result(10)
    eventually(lambda: service.workers() not in ([], [worker]))
    eventually(service.serves)
    gate.open()


def test_a_crash_in_the_middle_of_a_mail_leaves_nothing_that_signs_in(
    serve: ServiceFactory, mailbox: Mailbox, database: str, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    service = serve(workers=1)
    crash_in_the_middle_of_a_mail(service, gate, pool)
    ((digest,),) = databases.query(database, "select token_hash from auth_tokens")

    for token in (digest.hex(), base64.urlsafe_b64encode(digest).decode()):
        assert service.call("POST", "/v1/auth/verify", {"token": token}).status == 401
    # The mailbox works in turns, so a mail that went out before this one would be there.
    assert service.call("POST", LINK, {"email": "grace@example.com"}).status == 200
    assert [message["To"] for message in mailbox.messages] == ["grace@example.com"]


def test_who_asks_again_after_a_crash_signs_in(
    serve: ServiceFactory, mailbox: Mailbox, database: str, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    service = serve(workers=1)
    crash_in_the_middle_of_a_mail(service, gate, pool)

    assert service.call("POST", LINK, {"email": "ada@example.com"}).status == 200
    token = mailbox.token_for("ada@example.com")
    assert service.call("POST", "/v1/auth/verify", {"token": token}).status == 200
    assert databases.query(database, "select from auth_tokens") == []  # the lost one is void, too


@pytest.mark.parametrize("first", [b"", b"220 hi\r\n"], ids=["before its greeting", "after its greeting"])
def test_a_mail_that_nobody_waits_for_any_more_ends_wherever_it_is(first: bytes) -> None:
    # It may have waited for a name, or for TLS, until the request was over: the drip begins then.
    over = End()
    over.close()
    mail = Mail("ada@example.com", "Hello", "text", "html", "https://app.example.com")

    with RawServer(script(first, then=dripping(b"250-x\r\n"))) as server:
        began = monotonic()
        with pytest.raises((OSError, SMTPException)):
            Smtp(f"smtp://127.0.0.1:{server.port}", sender="Lumen <hello@example.com>").send(mail, over)

    assert monotonic() - began < 3


def test_the_name_of_the_sender_may_say_anything() -> None:
    sender = f"{'x' * 55} {_HERE} <hello@example.com>"

    begin, between, end = _frame(sender)

    assert begin.endswith(b"quoted-printable\r\n\r\n")
    assert b"text/html" in between
    assert end.startswith(b"\r\n--")
