"""HTTP byte by byte: for requests that no honest client sends."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any, NamedTuple


class RawAnswer(NamedTuple):
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's code; empty if it is none of the application's."""
        if "json" not in self.headers.get("content-type", ""):
            return ""
        body: dict[str, Any] = json.loads(self.body)
        return str(body["error"]["code"]) if "error" in body else ""


def talk(port: int, *parts: bytes, hang_up: bool = False, timeout: float = 10) -> list[RawAnswer]:
    """Send the parts, one after the other, and read every response until the server closes.

    `hang_up`: say that nothing more comes, as a client does that goes away.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        # A server that has seen enough closes, and does not wait for the rest.
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        if hang_up:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    return answers_in(received)


def answers_in(received: bytes) -> list[RawAnswer]:
    """The responses in what a server sent, each with a Content-Length or up to the end."""
    answers = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(status_line.split()[1])
        length = 0 if status == 100 else int(headers.get("content-length", len(rest)))
        answers.append(RawAnswer(status, headers, rest[:length]))
        received = rest[length:]
    return answers


def request(method: str, path: str, *headers: str, close: bool = True) -> bytes:
    """The head of a request; non-ASCII text goes out as Latin-1."""
    lines = [f"{method} {path} HTTP/1.1", "Host: lumen", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunked(body: bytes, size: int = 4096) -> bytes:
    """`body` in chunks of `size` bytes, with the last one."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
