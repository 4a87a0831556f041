"""Resend's HTTP API, as much as the service uses of it (https://resend.com/docs/api-reference/emails/send-email)."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

API_KEY = "re_a_key_of_the_tests"


class ResendServer:
    """Keeps the mails that it accepts. `answer` is what it says instead: status, body and headers."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: its certificate should be for "localhost"."""
        self.mails: list[dict[str, Any]] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.connections: list[socket.socket] = []
        self.answer: tuple[int, bytes, dict[str, str]] | None = None
        self.close_after_answer = False
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = False  # so that server_close() waits for them
        self._scheme = "http"
        if tls:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The `api` for Resend()."""
        return f"{self._scheme}://localhost:{self.port}/emails"

    def __enter__(self) -> ResendServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for connection in self.connections:  # some are kept open by their client
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def error(self, status: int, name: str, message: str) -> None:
        """From now on answer with one of Resend's errors."""
        body = json.dumps({"statusCode": status, "name": name, "message": message})
        self.answer = (status, body.encode(), {"Content-Type": "application/json"})


class _Handler(BaseHTTPRequestHandler):
    service: ClassVar[ResendServer]
    protocol_version = "HTTP/1.1"  # keeps connections open, as Resend does

    def setup(self) -> None:
        super().setup()
        self.service.connections.append(self.connection)

    def handle(self) -> None:
        try:
            super().handle()
        except (ssl.SSLError, ConnectionError):
            self.close_connection = True  # a client that refuses our certificate

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.service.seen.append((f"{self.command} {self.path}", dict(self.headers)))
        if self.service.answer:
            self._answer(*self.service.answer)
        elif self.headers["Authorization"] != f"Bearer {API_KEY}":
            self._answer_json(403, {"statusCode": 403, "name": "invalid_api_key", "message": "API key is invalid"})
        elif self.path != "/emails" or self.headers["Content-Type"] != "application/json":
            self._answer_json(404, {"statusCode": 404, "name": "not_found", "message": "no such endpoint"})
        else:
            self.service.mails.append(json.loads(content))
            self._answer_json(200, {"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"})

    def _answer_json(self, status: int, body: dict[str, Any]) -> None:
        self._answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.service.close_after_answer or "Content-Length" in headers

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""
