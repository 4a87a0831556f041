"""A TCP server that says what a test tells it to, byte by byte: for answers that no honest server gives."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread

# Talks on one connection until it returns or the Event is set.
Talk = Callable[[socket.socket, Event], None]


class RawServer:
    """Hands each connection to `talk`, in a thread of its own. The end of the block ends them all."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[Thread] = []
        self._accepting = Thread(target=self._accept)
        self._closing = Event()
        self.port: int = self._listener.getsockname()[1]

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._connections)

    @property
    def open(self) -> int:
        """How many there are."""
        return sum(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> RawServer:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        # shutdown() wakes a thread that waits in accept() or recv(); close() would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self._talk(connection, self._closing)


def silent(connection: socket.socket, _: Event) -> None:
    """Take everything, and never answer."""
    while connection.recv(65536):
        pass


def dripping(text: bytes) -> Talk:
    """`text` over and over, one byte a second: no single read is ever slow enough to fail."""

    def talk(connection: socket.socket, closing: Event) -> None:
        while True:
            for byte in text:
                connection.sendall(bytes([byte]))
                if closing.wait(1):
                    return

    return talk


def script(*replies: bytes, then: Talk) -> Talk:
    """Each reply after what came before it was read, the first one at once; then go on with `then`."""

    def talk(connection: socket.socket, closing: Event) -> None:
        for number, reply in enumerate(replies):
            if number:
                connection.recv(65536)
            connection.sendall(reply)
        then(connection, closing)

    return talk


def hang_up(connection: socket.socket, closing: Event) -> None:
    """Close, in order: to close with bytes unread would be a reset, which takes back what was sent before."""
    connection.shutdown(socket.SHUT_WR)
    silent(connection, closing)
