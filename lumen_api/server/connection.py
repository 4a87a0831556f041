"""What a worker knows of a client, and the threads that answer."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn

from lumen_api.server.framing import Head


@dataclass(frozen=True)
class Size:
    """Of a lane."""

    threads: int
    requests: int  # that it takes at once, those included that wait for a thread
    largest_body: int  # bytes; the application refuses larger ones by what their headers say


class Lane:
    """Threads for one kind of request."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.pool = ThreadPoolExecutor(size.threads)
        self.under_way = 0


class LargeBodies:
    """The memory of a worker for what is longer than a small body."""

    SMALL = 64 * 1024  # bytes, which each connection may send
    AT_MOST = 64 * 1024 * 1024  # what all connections hold above that, together

    def __init__(self) -> None:
        self._held = 0

    def hold(self, conn: Connection) -> bool:
        """Count what `conn` has received. False if there is no room for it."""
        more = max(0, len(conn.received) - self.SMALL) - conn.large
        if self._held + more > self.AT_MOST:
            return False
        self._held += more
        conn.large += more
        return True

    def release(self, conn: Connection) -> None:
        """Its request has been answered."""
        self._held -= conn.large
        conn.large = 0


class Connection(TConn):  # type: ignore[misc]  # gunicorn is not typed
    """A client, and what has come of its next request. `timeout`: when what it waits for has lasted too long."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, lane: Lane) -> None:
        super().__init__(cfg, sock, client, server)
        # It reads what the worker has received, and then finds the end: no thread ever waits for a client to send.
        self.parser = RequestParser(cfg, (), client)
        self.lane = lane
        self.future: Future[bool]
        self.data_ready = True
        self.received = bytearray()
        self.head: Head | None = None
        self.large = 0  # bytes that it holds of LargeBodies
        self.registered = False  # with the poller
        self.since = 0.0  # it waits like this
        self.kept = False  # it has been answered before
        self.ended = False  # we have sent all that we shall send

    @property
    def unread(self) -> int:
        """Bytes of our answers that the client's kernel has not acknowledged."""
        return int(struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
