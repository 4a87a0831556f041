"""nginx as docs/deploy.md sets it up: OWASP ASVS 5.0.0, 12.1.1, 12.1.2 and 13.4.6."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import free_port
from tests.support.nginx import HOST, Nginx

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning"),
]

VERSIONS = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """Without a service behind it: nobody sends a request."""
    with Nginx(free_port(), tmp_path) as nginx:
        yield nginx


def spoken(
    nginx: Nginx, oldest: ssl.TLSVersion, newest: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0"
) -> str | None:
    """The version that a client gets which takes these versions and ciphers; None: it is refused."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_ciphers(ciphers)
    client.minimum_version, client.maximum_version = oldest, newest
    with socket.create_connection((HOST, nginx.port), timeout=10) as plain:
        try:
            with client.wrap_socket(plain) as encrypted:
                return encrypted.version()
        except ssl.SSLError:
            return None


def test_nginx_as_documented_speaks_tls_1_2_and_1_3_and_nothing_older(nginx: Nginx) -> None:
    found = [spoken(nginx, version, version) for version in VERSIONS]

    assert found == [None, None, "TLSv1.2", "TLSv1.3"]


def test_nginx_as_documented_prefers_the_newest_tls(nginx: Nginx) -> None:
    assert spoken(nginx, VERSIONS[0], VERSIONS[-1]) == "TLSv1.3"


@pytest.mark.parametrize("ciphers", ["ECDHE+AES+SHA1", "ECDHE+AES+SHA256", "AES128-GCM-SHA256", "DHE+AESGCM"])
def test_nginx_as_documented_takes_no_cipher_without_authentication_or_forward_secrecy(
    nginx: Nginx, ciphers: str
) -> None:
    named = [cipher["name"] for cipher in _with(ciphers).get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    modern = {name for name in named if name.startswith("ECDHE") and ("GCM" in name or "POLY1305" in name)}

    for name in set(named) - modern:
        assert spoken(nginx, VERSIONS[2], VERSIONS[2], f"{name}:@SECLEVEL=0") is None, name


def test_nginx_as_documented_does_not_say_which_version_it_is(nginx: Nginx) -> None:
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((HOST, nginx.port), timeout=10) as plain, client.wrap_socket(plain) as encrypted:
        encrypted.sendall(b"GET /v1/health HTTP/1.1\r\nHost: lumen\r\nConnection: close\r\n\r\n")
        answer = encrypted.recv(65536)

    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"nginx/" not in answer


def _with(ciphers: str) -> ssl.SSLContext:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return client
