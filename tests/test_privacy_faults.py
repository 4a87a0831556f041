"""Nothing about a person gets out while something fails that the service works with, and quotes the person.

For PostgreSQL see test_privacy_database.py.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from lumen_api import email as mail
from lumen_api.email.resend import Resend
from tests.conftest import AppFactory
from tests.support import eventually, raw_http
from tests.support.caller import Caller
from tests.support.canaries import Canaries
from tests.support.journey_of_a_canary import LINK, VERIFY
from tests.support.production import Production, production
from tests.support.raw_server import RawServer
from tests.support.resend import API_KEY, ResendServer
from tests.support.valkey import Valkey

PLENTY = {
    f"RATE_LIMIT_{rule}": "1000/minute" for rule in ("LINK_PER_IP", "LINK_PER_EMAIL", "VERIFY_PER_IP", "PER_USER")
}


class ErrorServer(RawServer):
    """Answers whatever it is sent with a Redis error, in Redis's place."""

    def __init__(self, port: int, error: str) -> None:
        def talk(connection: socket.socket, _: Event) -> None:
            while received := connection.recv(65536):
                # One reply for each command of a pipeline: it begins with "*".
                connection.sendall(f"-ERR unknown command {error}\r\n".encode() * received.count(b"*"))

        super().__init__(talk)
        self._listener.close()
        self._listener = socket.create_server(("127.0.0.1", port))


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Production]:
    # One worker, so that it is the one that meets the fault. Seconds that an export may take.
    variables = {**PLENTY, "LOG_LEVEL": "DEBUG", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with production(tmp_path, variables, workers=1) as it:
        yield it


def test_what_a_mail_server_quotes_goes_no_further(it: Production, canaries: Canaries) -> None:
    caller, email = Caller(it, canaries), canaries.email("the refused")
    outcomes = []

    for reply in (
        "550 5.1.1 <{}> unknown",
        "550-5.1.1 no\r\n550 5.1.1 such user <{}>",
        "451 4.7.1 <{}>: greylisted",
        "452 4.2.2 <{}> is full",
        "530 5.7.0 authenticate before writing to {}",
        "554 5.7.1 <{}>: relay denied",
        "999 {}",
        "{}",
    ):
        it.mailbox.answer_rcpt = lambda address, reply=reply: reply.format(address)  # type: ignore[misc]
        answer = caller.ask("POST", LINK, {"email": email})
        outcomes.append("sent" if answer.status == 200 else answer.json["error"]["code"])

    assert outcomes == ["sent"] * 2 + ["email_unavailable"] * 6
    assert it.leaks(canaries) == ""
    said = [line["outcome"] for line in it.records() if line["event"] == "auth_request"]
    assert said == ["recipient_refused"] * 2 + ["email_unavailable"] * 6


def test_what_resend_quotes_goes_no_further(
    make_app: AppFactory, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    app, email = make_app(LOG_LEVEL="DEBUG", SMTP_URL="", RESEND_API_KEY=API_KEY), canaries.email("the refused")
    quoted = json.dumps({"message": f"Invalid `to` field: {email.lower()}"}).encode()
    with ResendServer() as server:
        provider = Resend(API_KEY, sender="hello@example.com", api=server.url)
        mail.init_app(app, mail.Mailer(provider, link_ttl=timedelta(minutes=10), at_once=2))
        statuses = []
        for answer in (
            (422, quoted.replace(b"{", b'{"name": "validation_error", '), {"Content-Type": "application/json"}),
            (403, quoted, {"Content-Type": "application/json"}),
            (500, b"<html>" + quoted, {"Content-Type": "text/html"}),
            (200, quoted, {}),
            (302, b"", {"Location": f"http://{canaries.word('Location')}.example.com/{email.lower()}"}),
            (200, quoted, {"Content-Encoding": "gzip", canaries.word("header"): canaries.word("value")}),
        ):
            server.answer = answer
            statuses.append(app.test_client().post(LINK, json={"email": email}).status_code)

    assert statuses == [200, 503, 503, 503, 503, 503]
    printed = "".join(capfd.readouterr())
    assert printed.count('"event":"auth_request"') == 6
    assert canaries.find(printed) == []
    assert "@" not in printed


def test_what_redis_says_goes_no_further(it: Production, canaries: Canaries) -> None:
    caller, valkey = Caller(it, canaries), it.valkey

    def ask() -> None:
        caller.ok("POST", LINK, {"email": canaries.email("Ada")})
        caller.expect("invalid_token", "POST", VERIFY, {"token": canaries.word("token")})
        caller.ok("GET", "/v1/health/ready")

    def counts() -> bool:
        with valkey.client() as client:
            client.flushall()
        ask()
        return bool(valkey.keys())

    for fault in (refusing, hanging, gone, quoting):
        eventually(counts)
        before = errors_of(it, "lumen_api.rate_limits")
        with fault(valkey, canaries):
            ask()
            assert errors_of(it, "lumen_api.rate_limits") > before
    eventually(counts)

    assert it.leaks(canaries) == ""


@contextmanager
def refusing(valkey: Valkey, _: Canaries) -> Iterator[None]:
    """No permission to count."""
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-@scripting")
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def hanging(valkey: Valkey, _: Canaries) -> Iterator[None]:
    """It accepts and never answers."""
    valkey.pause()
    try:
        yield
    finally:
        valkey.resume()


@contextmanager
def gone(valkey: Valkey, _: Canaries) -> Iterator[None]:
    """Nobody is there."""
    valkey.kill()
    yield
    valkey.start()


@contextmanager
def quoting(valkey: Valkey, canaries: Canaries) -> Iterator[None]:
    """What stands in its place answers with errors that quote."""
    valkey.kill()
    with ErrorServer(valkey.port, f"'{canaries.word('what Redis quotes')}' by {canaries.email('Ada')}") as server:
        yield
        assert server.connections
    valkey.start()


def test_what_a_collector_quotes_goes_no_further(it: Production, canaries: Canaries) -> None:
    caller = Caller(it, canaries)
    quoted = f"rejected: {canaries.word('what the collector quotes')} of {canaries.email('Ada')}".encode()

    def fails(answer: Callable[[], tuple[int, bytes]]) -> None:
        """Let the collector answer so until that was noticed."""
        before, it.collector.answer = errors_of(it, "opentelemetry."), answer

        def noticed() -> bool:
            caller.sign_in("Ada")
            return errors_of(it, "opentelemetry.") > before

        eventually(noticed)

    fails(lambda: (400, quoted))
    fails(lambda: (401, quoted))
    fails(lambda: (500, quoted))
    fails(lambda: (200, quoted[: int(Event().wait(1.5))]))  # longer than the exporter waits
    it.collector.answer = lambda: (200, b"")
    eventually(lambda: it.collector.metrics("http.server.request.duration"))
    it.collector.__exit__()  # nobody listens any more
    fails(lambda: (200, b""))

    assert it.leaks(canaries) == ""


def errors_of(it: Production, logger: str) -> int:
    """How often a library has complained."""
    lines = [line for line in it.records() if line.get("logger", "").startswith(logger)]
    return sum(line["level"] in ("warning", "error") for line in lines)


def test_a_client_that_goes_away_is_not_described(it: Production, canaries: Canaries) -> None:
    caller, word = Caller(it, canaries), canaries.word
    body = json.dumps({"email": canaries.email("the impatient"), word("member"): "x" * 1000}).encode()
    length = f"Content-Length: {len(body)}"
    head = raw_http.request("POST", f"{LINK}?{word('query')}", f"X-Canary: {word('header')}", length)
    head = head.replace(b"X-Canary", b"Content-Type: application/json\r\nX-Canary")

    for sent in (head, head + body[:40], head + body):
        raw_http.talk(it.service.port, sent, hang_up=True)
        with socket.create_connection(("127.0.0.1", it.service.port)) as connection:
            connection.sendall(sent)
            # Not a word of goodbye: the server's next read or write fails.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(5):
        caller.ask("GET", "/v1/account")
    eventually(lambda: sum(line["route"] == LINK for line in it.requests()) >= 4)

    assert it.leaks(canaries) == ""
