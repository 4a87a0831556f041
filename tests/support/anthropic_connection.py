"""The server's end of one connection, that notices in every wait when the client leaves or the server closes."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from contextlib import suppress
from math import ceil, inf
from time import monotonic

# The client has sent a FIN, or a reset. (Its FIN says no more than that it sends no more; a provider takes it for
# the end and stops generating.)
LEFT = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class ClientGone(Exception):
    """The client has left."""


class ServerCloses(Exception):
    """The end of the server's block."""


class Connection:
    """One client. Waits as long as it takes; every method may raise ClientGone or ServerCloses."""

    def __init__(self, sock: socket.socket, closing: socket.socket, *, number: int, tls: ssl.SSLContext | None) -> None:
        """`closing` becomes readable when the server closes."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._closing = closing
        self._tls = tls
        self._received = b""
        self.number = number
        self.idle = False  # between two requests

    def handshake(self) -> None:
        """TLS's, if this is a connection with TLS."""
        try:
            if self._tls:
                self._sock = self._tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            while isinstance(self._sock, ssl.SSLSocket) and not self._shaken(self._sock):
                self._wait(select.POLLIN)
        except OSError:  # it does not trust us, or left
            raise ClientGone from None

    def read_until(self, end: bytes) -> bytes:
        """All up to `end`."""
        while end not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(end)
        return head + end

    def read(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._received) < size:
            self._receive()
        data, self._received = self._received[:size], self._received[size:]
        return data

    def write(self, data: bytes, size: int | None = None) -> None:
        """All of it, in writes of at most `size` bytes."""
        self.pause(0)
        view = memoryview(data)
        while view:
            if self._wait(select.POLLOUT | select.POLLRDHUP) & LEFT:
                raise ClientGone
            try:
                sent = self._sock.send(view[:size])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
            except OSError:
                raise ClientGone from None
            view = view[sent:]

    def pause(self, seconds: float, *, deaf: bool = False) -> None:
        """Do nothing for so long. `deaf`: whether the client is there or not."""
        deadline = monotonic() + seconds
        if deaf:
            self._wait_for(seconds)
            return
        # A TLS client may also say in a record that it leaves.
        events = select.POLLRDHUP | (select.POLLIN if isinstance(self._sock, ssl.SSLSocket) else 0)
        while ready := self._wait(events, deadline - monotonic()):
            if ready & LEFT:
                raise ClientGone
            self._receive()

    def end(self) -> None:
        """Say that there is no more, and wait until the client has no more either.

        To close with bytes unread would be a reset, which takes back what was sent before.
        """
        if isinstance(self._sock, ssl.SSLSocket):
            with suppress(OSError):  # it has sent ours, and does not wait for theirs
                self._sock.unwrap()
        with suppress(OSError, ClientGone):
            self._sock.shutdown(socket.SHUT_WR)
            while True:
                self._received = b""
                self._receive()

    def cut(self, *, reset: bool) -> None:
        """End it without a word of TLS."""
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def shut_down(self) -> None:
        """End it, from another thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; a second time is no harm."""
        self._sock.close()

    def _receive(self) -> None:
        """Take what has come; wait until there is something."""
        while True:
            try:
                data = self._sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(select.POLLIN)
                continue
            except OSError:
                raise ClientGone from None
            if not data:
                raise ClientGone
            self._received += data
            return

    def _wait(self, events: int, seconds: float = inf) -> int:
        """Which of the events there are; 0: none within `seconds`."""
        poll = select.poll()
        poll.register(self._sock, events)
        poll.register(self._closing, select.POLLIN)
        ready = dict(poll.poll(None if seconds == inf else max(0, ceil(seconds * 1000))))
        if self._closing.fileno() in ready:
            raise ServerCloses
        return ready.get(self._sock.fileno(), 0)

    def _wait_for(self, seconds: float) -> None:
        """Nothing but the time, and the server's end."""
        poll = select.poll()
        poll.register(self._closing, select.POLLIN)
        if poll.poll(None if seconds == inf else seconds * 1000):
            raise ServerCloses

    @staticmethod
    def _shaken(sock: ssl.SSLSocket) -> bool:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True
