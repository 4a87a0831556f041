"""The provider over TLS: the same streams, on kept connections, and nothing for whoever cannot show who it is."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest
import trustme
from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support import contract, eventually
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import FOREVER, message, stream
from tests.support.llm import ask, body_of, failure, signed_in, usage
from tests.support.mailbox import Mailbox
from tests.support.raw_server import RawServer, silent

provider, env = contract.provider, contract.env_with_a_model

ERROR = (502, "provider_error", None)
TIMEOUT = (504, "provider_timeout", None)
LARGE = [{"role": "user", "content": "x" * 1_900_000}]

CallerFactory = Callable[..., FlaskClient]


@pytest.fixture
def make_caller(make_app: AppFactory, mailbox: Mailbox) -> CallerFactory:
    """Makes a signed-in client of a service with variables."""
    return lambda **variables: signed_in(make_app(**variables), mailbox)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The only one that the service trusts."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return ca


def server_side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_over_tls_a_stream_is_the_same_and_the_connection_is_kept(
    make_caller: CallerFactory, authority: trustme.CA
) -> None:
    with AnthropicServer(tls=server_side(authority.issue_cert("localhost"))) as provider:
        caller = make_caller(LLM_PROVIDER_URL=provider.url)
        for said in (stream(20, word="Grüße "), stream(5).writes_of(1), stream(5, word="x" * 100_000).at_once()):
            provider.behave(said)
            assert ask(caller, stream=True).data == body_of(said)
        provider.behave(message())
        assert ask(caller).status_code == 200
        assert provider.connections == 1

        provider.close_idle()
        eventually(lambda: provider.open == 0)
        assert ask(caller).status_code == 200
        assert (provider.connections, len(provider.finished())) == (2, 5)
        assert usage(caller)[1] == 0


def test_over_tls_a_large_request_arrives_whole(make_caller: CallerFactory, authority: trustme.CA) -> None:
    with AnthropicServer(tls=server_side(authority.issue_cert("localhost"))) as provider:
        caller = make_caller(LLM_PROVIDER_URL=provider.url, LLM_DAILY_TOKENS="999999")
        assert ask(caller, messages=LARGE).status_code == 200
        assert provider.finished()[0].json["messages"] == LARGE


def test_over_tls_what_has_come_is_passed_on_and_leaving_is_noticed(
    make_caller: CallerFactory, authority: trustme.CA
) -> None:
    with AnthropicServer(tls=server_side(authority.issue_cert("localhost"))) as provider:
        caller = make_caller(LLM_PROVIDER_URL=provider.url)
        said = stream(20).until("content_block_delta", FOREVER, nth=10)
        provider.behave(said)
        answer = ask(caller, stream=True)
        parts, seen = answer.iter_encoded(), b""
        while seen != body_of(said):
            seen += next(parts)

        left = monotonic()
        answer.close()

        (request,) = provider.finished()
        assert request.left is not None
        assert request.left - left < 1
        assert usage(caller) == (25 + 17, 0)


YESTERDAY = datetime.now(UTC) - timedelta(days=1)
WRONG = [
    pytest.param(lambda _: trustme.CA().issue_cert("localhost"), id="nobody we trust"),
    pytest.param(lambda ca: ca.issue_cert("example.com"), id="another name"),
    pytest.param(lambda ca: ca.issue_cert("localhost", not_after=YESTERDAY), id="expired"),
]


@pytest.mark.parametrize("issue", WRONG)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_wrong_certificate_is_an_error_that_is_not_tried_again_and_the_provider_sees_no_request(
    make_caller: CallerFactory,
    authority: trustme.CA,
    issue: Callable[[trustme.CA], trustme.LeafCert],
    streamed: bool,
) -> None:
    with AnthropicServer(tls=server_side(issue(authority))) as provider:
        caller = make_caller(LLM_PROVIDER_URL=provider.url)

        assert failure(ask(caller, stream=streamed)) == ERROR
        assert (provider.connections, provider.requests) == (1, [])
        assert usage(caller) == (0, 0)


def test_plain_http_where_tls_should_be_is_an_error(make_caller: CallerFactory) -> None:
    with RawServer(lambda sock, _: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        caller = make_caller(LLM_PROVIDER_URL=f"https://localhost:{server.port}")

        assert failure(ask(caller)) == ERROR


def test_a_handshake_that_never_ends_is_a_timeout_after_5_seconds_and_not_tried_again(
    make_caller: CallerFactory,
) -> None:
    with RawServer(silent) as server:
        caller = make_caller(LLM_PROVIDER_URL=f"https://localhost:{server.port}")
        began = monotonic()

        assert failure(ask(caller)) == TIMEOUT
        assert 4.9 < monotonic() - began < 9
        assert server.connections == 1
    assert usage(caller) == (0, 0)
