"""No server is spoken to below TLS 1.2: OWASP ASVS 5.0.0, 12.1.1, for what the service itself connects to."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
import trustme
import urllib3

from lumen_api.email.resend import Resend
from tests.conftest import AppFactory
from tests.support import eventually
from tests.support.anthropic import API_KEY
from tests.support.llm import ask, signed_in
from tests.support.mailbox import Mailbox
from tests.support.raw_server import RawServer

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")


class Old(RawServer):
    """Speaks TLS 1.1 and nothing newer, and keeps the version of each handshake that came to its end."""

    def __init__(self, ca: trustme.CA) -> None:
        super().__init__(self._shake_hands)
        self.versions: list[str | None] = []
        self._context = lenient(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = ssl.TLSVersion.TLSv1_1
        ca.issue_cert("localhost").configure_cert(self._context)

    def __enter__(self) -> Old:
        super().__enter__()
        return self

    def _shake_hands(self, sock: socket.socket, _: Event) -> None:
        with self._context.wrap_socket(sock, server_side=True) as encrypted:
            self.versions.append(encrypted.version())


def lenient(protocol: int) -> ssl.SSLContext:
    """One that speaks TLS 1.1, which OpenSSL does at its lowest level of security alone."""
    context = ssl.SSLContext(protocol)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    return context


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Old]:
    """A server whose certificate is good, and whose TLS is not."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Old(ca) as server:
        yield server


def test_another_client_would_speak_tls_1_1_there(old: Old) -> None:
    client = lenient(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", old.port), timeout=10) as plain:
        client.wrap_socket(plain).close()

    eventually(lambda: old.versions == ["TLSv1.1"])


def test_a_mail_server_below_tls_1_2_gets_no_mail(make_app: AppFactory, old: Old) -> None:
    client = make_app(SMTP_URL=f"smtps://localhost:{old.port}").test_client()

    answer = client.post("/v1/auth/request-link", json={"email": "ada@example.com"})

    assert (answer.status_code, old.connections, old.versions) == (503, 1, [])


def test_a_mail_api_below_tls_1_2_gets_no_key(old: Old) -> None:
    resend = Resend("re_key", sender="lumen@example.com", api=f"https://localhost:{old.port}")

    with pytest.raises(urllib3.exceptions.SSLError):
        resend._http.request("POST", resend._api)

    assert (old.connections, old.versions) == (1, [])


def test_a_model_provider_below_tls_1_2_gets_no_key(make_app: AppFactory, mailbox: Mailbox, old: Old) -> None:
    url = f"https://localhost:{old.port}"
    caller = signed_in(make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=url), mailbox)

    assert ask(caller).status_code == 502
    assert (old.connections > 0, old.versions) == (True, [])
