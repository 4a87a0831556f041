"""HTTP/1.1 (RFC 9112) to one origin: httptools reads it, from non-blocking sockets that are waited for by a Watch.

Redirects are not followed and cookies not kept: a request carries our key.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

import httptools

from lumen_api.llm.errors import ProviderError, ProviderTimeout, Unanswered
from lumen_api.llm.watch import Watch

CONNECT = 5.0  # seconds for TCP and TLS together
KEEP_IDLE = 30.0  # seconds; what is in between forgets silent connections
MAX_IDLE = 16
LINGER = 0.5  # seconds
END_OF_BODY = 0.1  # seconds
MAX_HEAD = 64 * 1024  # bytes

_READ, _WRITE = select.POLLIN, select.POLLOUT
_PART = 65536  # bytes
_SIZED = {"content-length", "transfer-encoding"}
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True)
class Head:
    """Status and headers of an answer, names in lower case."""

    status: int
    headers: dict[str, str]


class Answer:
    """What has come of an answer. Its on_...() methods are httptools' callbacks."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.body: list[bytes] = []
        self.begun = False
        self.complete = False
        self.failure: Exception | None = None
        self.keep_alive = False
        self._headers: dict[str, str] = {}
        self._before = 0  # bytes before the head is complete
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take in what has come; nothing: the connection has been closed."""
        self.begun = self.begun or bool(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.failure = error
        self._before += len(data)
        if self.head is None and self._before > MAX_HEAD:
            self.failure = ValueError("an endless head")
        if not data:
            self._closed()

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        parts, self.body = self.body, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _closed(self) -> None:
        if not self.complete and (self.head is None or _SIZED & self.head.headers.keys()):
            self.failure = ConnectionError("closed in the middle")
        self.complete = True

    def on_message_begin(self) -> None:
        """Another answer that nobody has asked for: what follows on this connection is not ours."""
        self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers come here too, after the head."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Of the answer itself, or of an interim one like 103."""
        status = self._parser.get_status_code()
        if status >= 200 and self.head is None:
            self.head = Head(status, self._headers)
        self._headers = {}

    def on_body(self, data: bytes) -> None:
        """A part of it."""
        if not self.complete:
            self.body.append(data)

    def on_message_complete(self) -> None:
        """Of the answer itself, or of an interim one."""
        if self.head is not None and not self.complete:
            self.complete, self.keep_alive = True, self._parser.should_keep_alive()


class Connection:
    """One connection, and the answer that is under way on it."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock`: connected, non-blocking, TLS or not."""
        self._sock = sock
        self._answer = Answer()
        self._head_taken = False
        self._unsent = False
        self.idle_since = 0.0

    def request(self, target: str, headers: Mapping[str, str], content: bytes, watch: Watch, *, seconds: float) -> None:
        """POST `content`. An answer that comes before all of it is sent ends the sending."""
        self._answer, self._head_taken = Answer(), False
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        unsent = memoryview("\r\n".join(lines).encode("ascii") + content)
        while unsent and not self._answer.begun and self._answer.failure is None:
            try:
                unsent = unsent[self._sock.send(unsent[:_PART]) :]
            except _NOT_YET:
                ready = watch.wait(self._sock, _READ | _WRITE, seconds)
                if not ready:
                    raise ProviderTimeout from None
                if ready & ~_WRITE:
                    self.read()
            except OSError:
                break  # what it has to say about that may have come already
        self._unsent = bool(unsent)

    @property
    def sock(self) -> socket.socket:
        """What read() reads."""
        return self._sock

    def read(self) -> bool:
        """Take in what has come, without waiting. False if there was nothing."""
        try:
            self._answer.feed(self._sock.recv(_PART))
        except _NOT_YET:  # or nothing for us: TLS has messages of its own
            return False
        except OSError as error:
            self._answer.failure = error
        return True

    def decrypted(self) -> bool:
        """Whether read() has something that the socket does not show any more: TLS comes in larger pieces."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def next(self) -> Head | bytes | None:
        """The head, then parts of the body, and b"" at its end; None: the next has not come yet.

        Raises Unanswered if not a byte of an answer came, and ProviderError if it broke off or is not HTTP.
        """
        answer = self._answer
        if answer.head is not None and not self._head_taken:
            self._head_taken = True
            return answer.head
        if answer.body:
            return answer.take()
        if answer.failure is not None:
            raise (ProviderError if answer.begun else Unanswered)() from answer.failure
        return b"" if answer.complete else None

    def finish(self, watch: Watch) -> None:
        """Take in the end of a body, if it comes at once: then the connection can be kept."""
        give_up = monotonic() + END_OF_BODY
        while not self._answer.complete and (left := give_up - monotonic()) > 0:
            if not self.decrypted():
                watch.wait(self._sock, _READ, left)
            self.read()

    def reusable(self) -> bool:
        """Whether another request may follow. If so, it is idle from now on."""
        self.idle_since = monotonic()
        return self._answer.complete and self._answer.keep_alive and not self._unsent

    def quiet(self) -> bool:
        """Whether the other side has neither closed nor said anything since the last answer."""
        # Of a stream that is garbage Python may close the socket first, and then put the connection back.
        return self._sock.fileno() >= 0 and not _readable(self._sock, 0)

    def rest(self) -> Iterator[bytes]:
        """Tell the provider that nobody listens any more, and read what is on its way: it will be on the bill."""
        give_up = monotonic() + LINGER
        with suppress(OSError):
            # The plain socket's: TLS would wait for the other side.
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
        while not self._answer.complete and self._answer.failure is None:
            if not self.read() and not _readable(self._sock, give_up - monotonic()):
                return
            yield self._answer.take()

    def close(self) -> None:
        """Close it, at once."""
        self._sock.close()


class Origin:
    """A server, and the idle connections to it. Safe for threads."""

    def __init__(self, url: str) -> None:
        """`url`: http or https, with a path or without; requests go to paths below it."""
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.path = parts.path
        self.host = parts.netloc
        self._idle: deque[Connection] = deque()
        self._room = MAX_IDLE

    def connection(self, watch: Watch) -> Connection:
        """A connection, opened or kept. Raises Unanswered, ProviderError (its certificate) or ProviderTimeout."""
        with suppress(IndexError):  # none is left
            while True:
                connection = self._idle.pop()
                if connection.quiet() and monotonic() - connection.idle_since < KEEP_IDLE:
                    return connection
                connection.close()
        return Connection(self._connect(watch))

    def put_back(self, connection: Connection) -> None:
        """Keep a connection for the next request, if it can take one."""
        if connection.reusable() and len(self._idle) < self._room:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        self._room = 0
        while self._idle:
            self._idle.pop().close()

    def _connect(self, watch: Watch) -> socket.socket:
        give_up = monotonic() + CONNECT
        failure: OSError | None = None
        try:
            addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unanswered from error
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            share = (give_up - monotonic()) / (len(addresses) - tried)
            sock = socket.socket(family, kind, protocol)
            try:
                return self._opened(sock, address, watch, monotonic() + share)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        if isinstance(failure, TimeoutError):
            raise ProviderTimeout from failure
        if isinstance(failure, ssl.SSLCertVerificationError):
            raise ProviderError from failure
        raise Unanswered from failure

    def _opened(self, sock: socket.socket, address: tuple[object, ...], watch: Watch, give_up: float) -> socket.socket:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sock.connect_ex(address) not in (0, errno.EINPROGRESS):
            raise ConnectionRefusedError
        if not watch.wait(sock, _WRITE, give_up - monotonic()):
            raise TimeoutError
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "connect")
        return self._encrypted(sock, watch, give_up) if self._tls else sock

    def _encrypted(self, sock: socket.socket, watch: Watch, give_up: float) -> ssl.SSLSocket:
        assert self._tls
        encrypted = self._tls.wrap_socket(sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            while True:
                try:
                    encrypted.do_handshake()
                    return encrypted
                except ssl.SSLWantReadError:
                    events = _READ
                except ssl.SSLWantWriteError:
                    events = _WRITE
                if not watch.wait(encrypted, events, give_up - monotonic()):
                    raise TimeoutError
        except BaseException:
            encrypted.close()
            raise


def _readable(sock: socket.socket, seconds: float) -> bool:
    poller = select.poll()
    poller.register(sock, _READ)
    return bool(poller.poll(max(0.0, seconds) * 1000))
