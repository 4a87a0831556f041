"""Anthropic's Messages API on real sockets, as much as the service uses of it.

    with AnthropicServer() as provider:                       # tls=...: over https
        make_app(LLM_PROVIDER_URL=provider.url, LLM_PROVIDER_KEY=API_KEY)
        provider.behave(error(529), stream(20, every=0.05))   # the last one is for all requests that follow
        ...
        (refused, served) = provider.finished()               # .requests: also those under way
        assert served.headers["x-api-key"] == API_KEY
        assert (served.served_input, served.served_output, served.end) == (25, 20, "complete")

Without `behave()` it is honest: it answers as the request asks, streamed or not. What it can say instead is in
anthropic_answers.py. A port where nobody answers: free_port(); one that never answers a TLS handshake:
RawServer(silent).
"""

from __future__ import annotations

import json
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from math import ceil
from threading import Lock, Thread
from time import monotonic
from typing import Any, Literal

from tests.support import eventually
from tests.support.anthropic_answers import Answer, Cut, Wait, error, message, stream
from tests.support.anthropic_connection import ClientGone, Connection, ServerCloses

API_KEY = "sk-ant-api03-a-key-of-the-tests"
VERSION = "2023-06-01"

# The real one knows more, which the service does not pass on.
MEMBERS = {"model", "messages", "max_tokens", "system", "temperature", "stop_sequences", "stream"}


@dataclass
class Request:
    """One request, and what was served for it: the tokens whose bytes were written."""

    method: str
    path: str
    headers: Message  # whatever the case of the names
    connection: int  # the number of the connection that it came on: 1, 2, …
    body: bytes = b""
    arrived: float = field(default_factory=monotonic)
    answer: Answer | None = field(default=None, repr=False)
    served_input: int = 0
    served_output: int = 0
    left: float | None = None  # when the client was seen to leave (monotonic)
    end: Literal["complete", "client_gone", "cut", "server_closed"] | None = None  # None: still under way

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


Behaviour = Answer | Callable[[Request], Answer]


def honest(request: Request, *, words: int = 20, every: float = 0) -> Answer:
    """What was asked for: a token of input for each five bytes, and no more output than `max_tokens`."""
    asked = request.json
    limit = asked["max_tokens"]
    stop_reason = "end_turn" if words <= limit else "max_tokens"
    common: dict[str, Any] = {"input": ceil(len(request.body) / 5), "stop_reason": stop_reason, "model": asked["model"]}
    if asked.get("stream"):
        return stream(min(words, limit), every=every, **common)
    return message(min(words, limit), after=words * every, **common)


class AnthropicServer:
    """Listens from the beginning of the block to its end, with a thread for each connection."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        """`tls`: its certificate should be for "localhost"."""
        self.requests: list[Request] = []
        self.connections = 0  # how many there have been
        self._script: list[Behaviour] = [honest]
        self._tls = tls
        self._lock = Lock()
        self._open: dict[Connection, Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._closing, self._close = socket.socketpair()
        self._accepting = Thread(target=self._accept)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._open)

    @property
    def served(self) -> int:
        """The tokens of all requests, input and output."""
        return sum(request.served_input + request.served_output for request in list(self.requests))

    def behave(self, *behaviours: Behaviour) -> None:
        """Answer so from now on: one request after the other, and the last behaviour for all that follow.

        A request that Anthropic would refuse (wrong key, wrong members) is refused and changes nothing of it.
        """
        with self._lock:
            self._script = list(behaviours)

    def finished(self) -> list[Request]:
        """All requests, once none is under way: a client knows the end of its answer before `end` says so."""
        eventually(lambda: all(request.end for request in list(self.requests)))
        return list(self.requests)

    def close_idle(self) -> None:
        """Close the connections that are kept open, once what is under way is done."""
        eventually(lambda: all(connection.idle for connection in list(self._open)))
        for connection in list(self._open):
            connection.shut_down()

    def __enter__(self) -> AnthropicServer:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()  # which wakes every thread
        self._accepting.join()
        self._listener.close()
        for thread in list(self._open.values()):
            thread.join()
        self._closing.close()

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._closing, select.POLLIN)
        while all(fd != self._closing.fileno() for fd, _ in poll.poll()):
            sock, _ = self._listener.accept()
            self.connections += 1
            connection = Connection(sock, self._closing, number=self.connections, tls=self._tls)
            thread = Thread(target=self._serve, args=(connection,))
            self._open[connection] = thread
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            with suppress(ClientGone, ServerCloses):
                connection.handshake()
                while self._exchange(connection):
                    pass
        finally:
            connection.close()
            del self._open[connection]

    def _exchange(self, connection: Connection) -> bool:
        """One request. Whether another may follow."""
        connection.idle = True
        head = connection.read_until(b"\r\n\r\n")
        connection.idle = False
        request = _read_head(head, connection.number)
        early = self._early()
        if not early:
            request.body = connection.read(int(request.headers.get("content-length", 0)))
        with self._lock:
            behaviour = early or _refusal(request) or self._next()
            answer = behaviour if isinstance(behaviour, Answer) else behaviour(request)
            request.answer = answer
            self.requests.append(request)
        return _answer(connection, request, answer)

    def _early(self) -> Answer | None:
        """The next answer, if it does not wait for the request's body."""
        with self._lock:
            behaviour = self._script[0]
            if isinstance(behaviour, Answer) and not behaviour.reads_body:
                self._next()
                return behaviour
            return None

    def _next(self) -> Behaviour:
        return self._script.pop(0) if len(self._script) > 1 else self._script[0]


def _read_head(head: bytes, connection: int) -> Request:
    first, _, headers = head.partition(b"\r\n")
    method, path, _ = first.decode("latin-1").split(" ")
    return Request(method, path, BytesParser().parsebytes(headers, headersonly=True), connection)


def _answer(connection: Connection, request: Request, answer: Answer) -> bool:
    """Whether another request may follow."""
    try:
        for step in answer.on_the_wire():
            if isinstance(step, Cut):
                connection.cut(reset=step.reset)
                request.end = "cut"
                return False
            if isinstance(step, Wait):
                connection.pause(step.seconds, deaf=step.deaf)
            else:
                connection.write(step.data, answer.write_size)
                request.served_input += step.input
                request.served_output += step.output
    except ClientGone:
        request.left = monotonic()
        request.end = "client_gone"
        return False
    except ServerCloses:
        request.end = "server_closed"
        return False
    request.end = "complete"
    if not answer.keeps_open:
        connection.end()
    return answer.keeps_open


def _refusal(request: Request) -> Answer | None:
    """What the real one would say to a request that it does not understand, in its order."""
    if request.path != "/v1/messages":
        return error(404, message="Not found")
    if request.method != "POST":
        return error(405, message="Method Not Allowed")
    if request.headers["x-api-key"] != API_KEY:
        return error(401, message="invalid x-api-key")
    if request.headers["anthropic-version"] != VERSION:
        return error(400, message="anthropic-version: header is required")
    if request.headers.get_content_type() != "application/json":
        return error(400, message="content-type: must be application/json")
    problem = _problem_of_body(request)
    return error(400, message=problem) if problem else None


def _problem_of_body(request: Request) -> str | None:
    try:
        asked = request.json
    except ValueError:
        return "The request body is not valid JSON"
    missing = [name for name in ("model", "max_tokens", "messages") if name not in asked]
    unknown = [name for name in asked if name not in MEMBERS]
    if missing:
        return f"{missing[0]}: Field required"
    return f"{unknown[0]}: Extra inputs are not permitted" if unknown else None
