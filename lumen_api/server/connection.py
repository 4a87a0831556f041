"""What a worker knows of a client, and the threads that answer."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn

from lumen_api.server.framing import Head


class Lane:
    """Threads for one kind of request."""

    def __init__(self, threads: int, limit: int) -> None:
        self.pool = ThreadPoolExecutor(threads)
        self.limit = limit
        self.under_way = 0  # requests, those included that wait for a thread


class Connection(TConn):  # type: ignore[misc]  # gunicorn is not typed
    """A client, and what has come of its next request. `timeout`: when what it waits for has lasted too long."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, lane: Lane) -> None:
        super().__init__(cfg, sock, client, server)
        self.parser = RequestParser(cfg, sock, client)
        self.lane = lane
        self.data_ready = True  # a thread need not wait
        self.received = bytearray()
        self.head: Head | None = None
        self.large = 0  # bytes of LARGE_BODIES that are charged to it
        self.registered = False  # with the poller
        self.kept = False  # it has been answered before
        self.ended = False  # we have sent all that we shall send

    @property
    def unread(self) -> int:
        """Bytes of our answers that the client's kernel has not acknowledged."""
        return int(struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
