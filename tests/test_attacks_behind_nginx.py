"""Hidden requests behind nginx as docs/deploy.md sets it up: the two may never disagree about where one ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.conftest import ServiceFactory
from tests.support.attackers import HIDDEN, HIDDEN_ADDRESS, hidden_requests, post
from tests.support.mailbox import Mailbox, text_of
from tests.support.nginx import HOST, Nginx
from tests.support.raw_http import RawAnswer, answers_in, request

pytestmark = pytest.mark.full


@pytest.fixture
def nginx(serve: ServiceFactory, tmp_path: Path) -> Iterator[Nginx]:
    """In front of a service with one worker."""
    service = serve(workers=1, TRUSTED_PROXY_HOPS="1")
    with Nginx(service.port, tmp_path) as running:
        yield running


LAST = request("GET", "/v1/health", "X-Request-Id: the-last")


def talk(nginx: Nginx, sent: bytes) -> list[RawAnswer]:
    """Every response to what is sent through TLS, and to a last request after the first of them."""
    received = b""
    connection = socket.create_connection((HOST, nginx.port), timeout=30)
    with nginx.tls.wrap_socket(connection, server_hostname=HOST) as tls, suppress(ConnectionError):
        tls.sendall(sent)
        received += tls.recv(65536)
        with suppress(OSError):  # it has hung up
            tls.sendall(LAST)
        while data := tls.recv(65536):
            received += data
    answers = answers_in(received)
    # Whoever hangs up answers no more; and whoever does not answers the last one last.
    return answers[:-1] if answers[-1].headers.get("x-request-id") == "the-last" else answers


def own_answer(victim: HTTPSConnection, name: str) -> bool:
    """Whether somebody else, on a connection that stays open, gets the answer to what they ask."""
    victim.request("GET", "/v1/auth/session", headers={"X-Request-Id": name})
    response = victim.getresponse()
    body = response.read()
    return (response.status, response.headers["X-Request-Id"]) == (401, name) and name.encode() in body


def test_behind_nginx_a_hidden_request_is_never_carried_out_and_nobody_gets_anothers_answer(
    nginx: Nginx, mailbox: Mailbox
) -> None:
    victim = nginx.connection()
    statuses: dict[str, list[int]] = {}
    wrong: list[str] = []

    for number, (name, sent) in enumerate(hidden_requests()):
        statuses[name] = [answer.status for answer in talk(nginx, sent)]
        if not own_answer(victim, f"victim-{number}"):
            wrong.append(name)
    victim.close()

    # nginx or gunicorn refuses it, once.
    assert {name: found for name, found in statuses.items() if found not in ([400], [501])} == {}
    assert wrong == []
    assert mailbox.messages == []


def test_behind_nginx_a_request_that_was_not_hidden_would_have_been_noticed(nginx: Nginx, mailbox: Mailbox) -> None:
    answers = talk(nginx, HIDDEN + request("GET", "/v1/health", close=False))

    assert [answer.status for answer in answers] == [200, 200]
    assert len(mailbox.to(HIDDEN_ADDRESS)) == 1


def test_behind_nginx_a_link_leads_to_the_app_whatever_host_the_request_names(nginx: Nginx, mailbox: Mailbox) -> None:
    lines = ["X-Forwarded-Host: evil.example", "Forwarded: host=evil.example", "X-Forwarded-Proto: http"]
    for host in ("evil.example", "app.example.com.evil.example:80", "evil.example#"):
        whole = post("/v1/auth/request-link", {"email": "ada@example.com"}, *lines)
        for target in (b"/v1/auth/request-link", b"https://evil.example/v1/auth/request-link"):
            sent = whole.replace(b"/v1/auth/request-link", target, 1).replace(b"Host: lumen", f"Host: {host}".encode())
            assert [answer.status for answer in talk(nginx, sent)] in ([200], [400]), (host, target)

    assert len(mailbox.messages) >= 2
    for message in mailbox.messages:
        assert "https://app.example.com/login/callback?token=" in text_of(message)
        assert "evil" not in message.as_string()


def test_behind_nginx_no_other_spelling_of_an_address_is_open_to_strangers(nginx: Nginx) -> None:
    spellings = ["//v1/account", "/v1//account", "/./v1/account", "/x/../v1/account", "/v1/%61ccount", "/v1%2faccount"]
    spellings += ["/v1/llm/../account", "/v1/llm/..%2faccount", "/v1/llm/%2e%2e/account", "/V1/ACCOUNT", "/v1/account/"]

    statuses = {path: [answer.status for answer in talk(nginx, request("GET", path))] for path in spellings}

    assert {path: found for path, found in statuses.items() if found not in ([400], [401], [404])} == {}
