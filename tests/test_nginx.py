"""The service behind nginx, set up by the very lines of docs/deploy.md."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.request import OpenerDirector, Request

import pytest

from tests.conftest import ORIGIN, ServiceFactory
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import FOREVER, stream
from tests.support.journeys import HASH
from tests.support.llm import ASKED
from tests.support.mailbox import Mailbox
from tests.support.nginx import Nginx

pytestmark = pytest.mark.full

NginxFactory = Callable[..., Nginx]


@pytest.fixture
def behind_nginx(serve: ServiceFactory, tmp_path: Path) -> Iterator[NginxFactory]:
    """Starts the service with the given variables, and nginx in front of it."""
    running: list[Nginx] = []

    def start(**variables: str) -> Nginx:
        service = serve(workers=1, **{"TRUSTED_PROXY_HOPS": "1", **variables})
        running.append(Nginx(service.port, tmp_path).__enter__())
        return running[-1]

    yield start
    for nginx in running:
        nginx.__exit__()


def call(browser: OpenerDirector, method: str, url: str, body: object = None) -> Any:
    """A request as the web app sends it; the answer's body."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json", "Origin": ORIGIN}, method=method)
    with browser.open(request, timeout=30) as response:
        assert response.status == 200
        return json.load(response)


def post(nginx: Nginx, path: str, body: bytes, source: str = "127.0.0.1", **headers: str) -> HTTPResponse:
    """A request on a connection of its own, from `source`; its headers' names are written with "_" for "-"."""
    connection = nginx.connection(source=source)
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request("POST", path, body, sent)
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def attempt(nginx: Nginx, source: str = "127.0.0.1", **headers: str) -> int:
    """Try to sign in with nonsense."""
    return post(nginx, "/v1/auth/verify", b'{"token":"nonsense"}', source, **headers).status


def test_the_whole_journey_works_with_a_browsers_cookies(behind_nginx: NginxFactory, mailbox: Mailbox) -> None:
    nginx = behind_nginx()
    cookies = CookieJar()
    browser = nginx.browser(cookies)
    v1 = nginx.url + "/v1"

    call(browser, "POST", v1 + "/auth/request-link", {"email": "ada@example.com"})
    call(browser, "POST", v1 + "/auth/verify", {"token": mailbox.token_for("ada@example.com")})
    (cookie,) = cookies
    assert call(browser, "GET", v1 + "/auth/session")["email"] == "ada@example.com"
    call(browser, "POST", v1 + "/sessions/start", {"session_id": "one"})
    call(browser, "POST", v1 + "/sessions/end", {"session_id": "one", "transcript_hash": HASH})
    sessions = call(browser, "GET", v1 + "/sessions")["sessions"]
    call(browser, "POST", v1 + "/auth/logout")

    # What a browser asks of a cookie with this prefix.
    assert (cookie.name, cookie.secure, cookie.path) == ("__Host-lumen_session", True, "/")
    assert not cookie.domain_specified
    assert [session["session_id"] for session in sessions] == ["one"]
    assert list(cookies) == []


def test_the_limit_is_by_the_clients_address_and_not_nginxs(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx(RATE_LIMIT_VERIFY_PER_IP="2/hour")

    assert [attempt(nginx, "127.0.0.2") for _ in range(3)] == [401, 401, 429]
    assert [attempt(nginx, "127.0.0.3") for _ in range(3)] == [401, 401, 429]


def test_a_forged_address_does_not_escape_the_limit(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx(RATE_LIMIT_VERIFY_PER_IP="2/hour")
    forged = [f"203.0.113.{number}, 198.51.100.{number}" for number in range(4)]

    assert [attempt(nginx, X_Forwarded_For=header) for header in forged] == [401, 401, 429, 429]


def test_nobody_is_limited_by_an_address_that_another_has_forged(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx(RATE_LIMIT_VERIFY_PER_IP="1/hour")

    assert [attempt(nginx, "127.0.0.2", X_Forwarded_For="127.0.0.3") for _ in range(2)] == [401, 429]
    assert attempt(nginx, "127.0.0.3") == 401


def test_no_other_header_of_a_caller_changes_the_answer(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx()
    tried: list[dict[str, str]] = [
        {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "http", "X_Forwarded_Prefix": "/evil"},
        {"X_Forwarded_Proto": "http", "X_Forwarded_Ssl": "on"},
        {"Host": "evil.example"},
        {"Forwarded": "for=203.0.113.1;host=evil.example"},
    ]

    responses = [post(nginx, "/v1/auth/verify", b'{"token":"nonsense"}', **headers) for headers in tried]

    assert [(headers, response.status) for headers, response in zip(tried, responses, strict=True)] == [
        (headers, 401) for headers in tried
    ]
    assert not [response for response in responses if "evil" in str(response.headers)]


def test_the_request_id_passes_through(behind_nginx: NginxFactory) -> None:
    response = post(behind_nginx(), "/v1/auth/verify", b"{}", X_Request_Id="from-the-app.1")

    assert response.headers.get_all("X-Request-Id") == ["from-the-app.1"]
    assert json.loads(response.body)["error"]["request_id"] == "from-the-app.1"  # type: ignore[attr-defined]


def test_the_origin_is_checked_behind_nginx_too(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx()

    assert attempt(nginx, Origin="https://evil.example") == 403
    assert attempt(nginx, Origin=nginx.url) == 403
    assert attempt(nginx, Origin=ORIGIN) == 401


def test_bodies_pass_up_to_64_kib(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx()

    def status(size: int) -> int:
        start, end = b'{"token":"', b'"}'
        return post(nginx, "/v1/auth/verify", start + b"x" * (size - len(start) - len(end)) + end).status

    assert [status(20_000), status(64 * 1024), status(64 * 1024 + 1)] == [401, 401, 413]


# --- Calls of the model. ---


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def with_model(behind_nginx: NginxFactory, provider: AnthropicServer, mailbox: Mailbox) -> tuple[Nginx, str]:
    """nginx in front of a service with a model, and the cookie of somebody who may call it."""
    nginx = behind_nginx(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url, LLM_DAILY_TOKENS="2000000")
    post(nginx, "/v1/auth/request-link", b'{"email":"ada@example.com"}')
    token = mailbox.token_for("ada@example.com")
    signed_in = post(nginx, "/v1/auth/verify", json.dumps({"token": token}).encode())
    return nginx, str(signed_in.headers["Set-Cookie"]).partition(";")[0]


def test_calls_of_the_model_pass_up_to_2_mib(with_model: tuple[Nginx, str]) -> None:
    nginx, cookie = with_model
    start, end = json.dumps({**ASKED, "messages": [{"role": "user", "content": "?"}]}).encode().split(b"?")

    def status(size: int) -> int:
        body = start + b"x" * (size - len(start) - len(end)) + end
        return post(nginx, "/v1/llm/messages", body, Cookie=cookie).status

    assert [status(64 * 1024 + 1), status(2 * 1024 * 1024), status(2 * 1024 * 1024 + 1)] == [200, 200, 413]


def test_an_event_of_a_stream_passes_before_the_next_one_comes(
    with_model: tuple[Nginx, str], provider: AnthropicServer
) -> None:
    nginx, cookie = with_model
    provider.behave(stream(20).until("content_block_delta", FOREVER))
    connection = nginx.connection()
    headers = {"Content-Type": "application/json", "Cookie": cookie}
    connection.request("POST", "/v1/llm/messages", json.dumps({**ASKED, "stream": True}), headers)
    response = connection.getresponse()

    assert response.headers["Content-Type"].startswith("text/event-stream")
    lines = (response.readline() for _ in range(1000))
    assert next(line for line in lines if b"content_block_delta" in line)

    # And who leaves nginx leaves the provider.
    response.close()
    connection.close()
    assert provider.finished()[0].end == "client_gone"


# --- Connections. ---


def test_connections_to_the_service_are_used_for_many_requests(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx()
    connection = nginx.connection()

    for _ in range(50):
        connection.request("GET", "/v1/health")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b'{"status":"ok"}\n')
    connection.close()


def test_a_client_that_does_not_trust_the_certificate_gets_nowhere(behind_nginx: NginxFactory) -> None:
    nginx = behind_nginx()
    nginx.tls = ssl.create_default_context()

    with pytest.raises(ssl.SSLCertVerificationError):
        nginx.connection().request("GET", "/v1/health")
