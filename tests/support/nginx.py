"""nginx as docs/deploy.md sets it up: the documented block itself, with this test's ports and files in it."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
from http.client import HTTPSConnection
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.request import HTTPCookieProcessor, HTTPSHandler, OpenerDirector, build_opener

import trustme

from tests.support import ROOT, eventually, free_port
from tests.support.programs import listens, path_of

HOST = "127.0.0.1"


class Nginx:
    """A running nginx with TLS, in front of the service on `upstream_port`."""

    def __init__(self, upstream_port: int, folder: Path) -> None:
        """`folder`: where its files are."""
        self.port = free_port()
        self.url = f"https://{HOST}:{self.port}"
        self._folder = folder / "nginx"
        self._folder.mkdir()
        ca = trustme.CA()
        certificate = ca.issue_cert(HOST)
        certificate.private_key_pem.write_to_path(self._folder / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(self._folder / "cert.pem")
        self.tls = ssl.create_default_context()
        ca.configure_trust(self.tls)
        self._configuration = self._folder / "nginx.conf"
        self._configuration.write_text(self._main(documented_server(self._folder, self.port, upstream_port)))
        self._process: subprocess.Popen[bytes] | None = None

    def _main(self, server: str) -> str:
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{name}_temp_path {self._folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
            {user} daemon off; worker_processes 1; pid {self._folder}/pid; error_log {self._folder}/error.log;
            events {{ }}
            http {{ access_log off; {temporary} {server} }}
            """

    def __enter__(self) -> Nginx:
        self._process = subprocess.Popen(
            [path_of("nginx"), "-p", self._folder, "-c", self._configuration, "-e", self._folder / "error.log"]
        )
        eventually(self._serves)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)

    def _serves(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self._folder / "error.log").read_text()
        return listens(self.port)

    def browser(self, cookies: CookieJar) -> OpenerDirector:
        """A client that keeps cookies as the Internet wants it (RFC 6265), Secure ones for https alone."""
        return build_opener(HTTPCookieProcessor(cookies), HTTPSHandler(context=self.tls))

    def connection(self, *, source: str = HOST) -> HTTPSConnection:
        """A connection from another address of this machine."""
        return HTTPSConnection(HOST, self.port, context=self.tls, source_address=(source, 0), timeout=30)


def documented_server(folder: Path, port: int, upstream_port: int) -> str:
    """The `server` block of docs/deploy.md, with other ports and files. Fails when the page has changed."""
    (block,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    replacements = {
        r"listen 443 ssl;": (f"listen {HOST}:{port} ssl;", 1),
        r"/etc/ssl/\S+\.pem;": (f"{folder}/cert.pem;", 1),
        r"/etc/ssl/\S+\.key;": (f"{folder}/key.pem;", 1),
        r"proxy_pass http://127\.0\.0\.1:8080;": (f"proxy_pass http://127.0.0.1:{upstream_port};", 2),
    }
    for pattern, (replacement, times) in replacements.items():
        block, count = re.subn(pattern, replacement, block)
        assert count == times, f"docs/deploy.md: {pattern} is there {count} times"
    return str(block)
