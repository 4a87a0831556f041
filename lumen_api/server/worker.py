"""gunicorn's threaded worker, with three changes of what it does.

1. A thread is taken once a request is there in full. gunicorn's own worker gives a thread to whoever connects, for as
   long as the request takes to come, so that eight slow clients stop everybody ("slow loris").
2. What is more than can be done soon is refused at once, with 503. Otherwise requests queue up until all answers are
   too late for those who asked.
3. A worker that is told to stop takes the connections that are waiting for it, closes its socket, and answers them.
   Connections are closed without keeping the main loop waiting for the other side, which gunicorn does for 2 s.

All of it happens in the main thread, which never blocks; nothing here needs a lock.
"""

from __future__ import annotations

import errno
import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from selectors import EVENT_READ
from time import monotonic
from typing import Any, ClassVar

from gunicorn.workers.gthread import ThreadWorker

from lumen_api.errors import ApiError, Busy
from lumen_api.server import framing
from lumen_api.server.connection import Connection, Lane, LargeBodies, Size
from lumen_api.server.refusals import HeadersTooLarge, Refusals, RequestTimeout

# Seconds.
REQUEST_TIMEOUT = 10.0  # for a request to come, from its first byte on; on a new connection from its beginning
WAIT_FOR_THREAD = 1.0
SWEEP = 0.5  # between two looks at what has waited for too long
LINGER = 2.0  # for a client to close after us (RFC 9112, section 9.6)
STOP_KEEPALIVE = 2.0  # for a request that is on its way while we stop

# Bytes.
MINIMUM_RATE = 16 * 1024  # each second gained by as much: long bodies may take longer
MAX_HEAD = 64 * 1024
UNREAD = 64 * 1024  # of answers that a client may leave unread and still ask for more

ACCEPT_AT_ONCE = 64
SPARE = 50  # connections that are left when idle ones are closed for new ones

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Worker(ThreadWorker):  # type: ignore[misc]
    """See the module's docstring. gunicorn's names: `poller`, `nr_conns`, `accept`, `murder_keepalived`, ..."""

    # gunicorn.conf.py sets them: the lane of all requests, and those of paths that begin like this.
    size: ClassVar[Size]
    sizes: ClassVar[dict[bytes, Size]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: set[Connection] = set()  # registered with the poller; each has its `timeout`
        self.handed: set[Connection] = set()  # to a thread, that has taken them or will
        self._large_bodies = LargeBodies()
        self._next_sweep = self._accept_again = 0.0

    def get_thread_pool(self) -> ThreadPoolExecutor:
        # In the worker's own process: threads do not survive a fork.
        self._lane = Lane(self.size)
        self._lanes = {path: Lane(size) for path, size in self.sizes.items()}
        return self._lane.pool

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.refusals = Refusals(self.wsgi)

    # --- Connections. ---

    def accept(self, listener: Any) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if not self._accept_one(listener):
                break

    def _accept_one(self, listener: Any) -> bool:
        try:
            sock, client = listener.accept()
        except OSError as error:  # gone again, or taken by another worker
            if self.alive and error.errno in (errno.EMFILE, errno.ENFILE):
                self._accept_again = monotonic() + SWEEP
                self.set_accept_enabled(False)
            return False
        if self.nr_conns > self.worker_connections - SPARE:
            self._make_room()
        self.nr_conns += 1
        conn = Connection(self.cfg, sock, client, listener.getsockname(), self._lane)
        conn.since = monotonic()
        conn.timeout = conn.since + REQUEST_TIMEOUT
        self.waiting.add(conn)
        self._receive(conn)  # under load it is there already
        if conn in self.waiting:
            self._register(conn)
        return True

    def _wait(self, conn: Connection, seconds: float) -> None:
        conn.since = monotonic()
        conn.timeout = conn.since + seconds
        self.waiting.add(conn)
        self._register(conn)

    def _register(self, conn: Connection) -> None:
        if not conn.registered:
            conn.registered = True
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, lambda _: self._readable(conn))

    def _readable(self, conn: Connection) -> None:
        if conn in self.waiting:  # and has not been dropped for another of the same turn
            self._receive(conn)

    def _forget(self, conn: Connection) -> None:
        self.waiting.discard(conn)
        if conn.registered:
            conn.registered = False
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Connection) -> None:
        self._forget(conn)
        self._large_bodies.release(conn)
        self.nr_conns -= 1
        conn.close()

    def _end(self, conn: Connection) -> None:
        """Send nothing more, and close when the client has closed: earlier, the kernel could cut off the answer."""
        conn.ended = True
        conn.received.clear()
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone, or gunicorn has closed it already: an answer broke off
            self._drop(conn)
        else:
            self._wait(conn, LINGER)

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest, or a thousand of them would keep everybody out."""
        if idle := [conn for conn in self.waiting if not conn.received]:
            self._drop(min(idle, key=lambda conn: conn.since))

    def murder_keepalived(self, force: bool = False) -> None:
        """gunicorn calls it in each turn of its loop: end what has waited for too long."""
        now = monotonic()
        if now < self._next_sweep and not force:
            return
        self._next_sweep = now + SWEEP
        self.refusals.log()
        for conn in [conn for conn in self.waiting if force or conn.timeout <= now]:
            if conn.received and not force:
                self._refuse(conn, RequestTimeout(), close=True)
            else:
                self._drop(conn)
        for conn in [conn for conn in self.waiting if conn.received]:
            self._look(conn)
        for conn in [conn for conn in self.handed if conn.timeout <= now]:
            conn.future.cancel()  # if no thread has taken it yet

    # --- Requests. ---

    def _receive(self, conn: Connection) -> None:
        try:
            data = conn.sock.recv(MAX_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if conn.ended or not (data or conn.received):
            if not data:
                self._drop(conn)
        elif not data and conn.unread > UNREAD:
            self._drop(conn)
        elif not data:
            self._admit(conn)  # a part is all that comes: gunicorn says what is wrong with it
        else:
            self._receive_part(conn, data)

    def _receive_part(self, conn: Connection, data: bytes) -> None:
        if not conn.received:
            conn.timeout = monotonic() + REQUEST_TIMEOUT
        conn.timeout += len(data) / MINIMUM_RATE
        conn.received += data
        self._look(conn, searched=len(conn.received) - len(data))

    def _look(self, conn: Connection, *, searched: int = 0) -> None:
        """Hand the request over if it is there in full, or if it need not be."""
        if conn.unread > UNREAD:
            if len(conn.received) > MAX_HEAD:
                self._drop(conn)
            return  # until the next sweep
        head = conn.head
        if head is None:
            head = conn.head = framing.head_of(conn.received, searched=searched)
            if head is None:
                self._look_at_a_part(conn)
                return
            conn.lane = next((lane for path, lane in self._lanes.items() if head.path.startswith(path)), self._lane)
        if head.is_whole(conn.received) or head.is_too_large(conn.received, conn.lane.size.largest_body):
            self._admit(conn)
        elif not self._large_bodies.hold(conn):
            self._refuse(conn, Busy(), close=True)
        elif head.expects_continue:
            head.expects_continue = False
            self._send(conn, _CONTINUE)

    def _look_at_a_part(self, conn: Connection) -> None:
        if len(conn.received) > MAX_HEAD:
            self._refuse(conn, HeadersTooLarge(), close=True)
        elif framing.is_no_http(conn.received):
            self._admit(conn)

    def _admit(self, conn: Connection) -> None:
        if conn.lane.under_way < conn.lane.size.requests:
            self._hand_over(conn)
        else:
            self._refuse(conn, Busy(), close=not conn.kept)

    def _hand_over(self, conn: Connection) -> None:
        self._forget(conn)
        conn.parser.unreader.unread(bytes(conn.received))
        conn.received = bytearray()
        conn.lane.under_way += 1
        conn.timeout = monotonic() + WAIT_FOR_THREAD
        self.handed.add(conn)
        conn.future = conn.lane.pool.submit(self.handle, conn)
        conn.future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        # In the thread. gunicorn would wait for a body that the application has refused to read.
        whole = conn.head is not None and conn.head.content_length <= conn.lane.size.largest_body
        return bool(keepalive and whole and super()._keepalive_after(conn, keepalive))

    def finish_request(self, conn: Connection, future: Future[bool]) -> None:
        """Back in the main thread: wait for the next request, or end the connection."""
        conn.lane.under_way -= 1
        conn.lane = self._lane
        self.handed.discard(conn)
        self._large_bodies.release(conn)
        if future.cancelled():
            # All threads wait, as for a database that hangs, and this client soon gives up.
            self._refuse(conn, Busy(), close=True)
            return
        conn.head, conn.kept = None, True
        if future.exception() or not future.result():
            self._end(conn)
            return
        # What a client has sent ahead.
        conn.received += conn.parser.unreader.take_buffered()
        self._wait(conn, self.cfg.keepalive if self.alive else STOP_KEEPALIVE)
        if conn.received:
            conn.timeout = monotonic() + REQUEST_TIMEOUT
            self._look(conn)

    # --- Refusals. ---

    def _refuse(self, conn: Connection, error: ApiError, *, close: bool) -> None:
        head, conn.head = conn.head, None
        read = head is not None and head.is_all_of(conn.received)
        close = close or not self.alive or not read or (head is not None and not head.may_be_followed)
        conn.received.clear()
        self._large_bodies.release(conn)
        sent = self._send(conn, self.refusals.answer(error, head, close=close))
        if sent and not close:
            self._wait(conn, self.cfg.keepalive)
        elif sent and read:
            self._drop(conn)  # the kernel sends what we have written, as nothing is left to read
        else:
            self._end(conn)

    def _send(self, conn: Connection, data: bytes) -> bool:
        try:
            return bool(conn.sock.send(data) == len(data))
        except OSError:
            return False

    # --- Stopping. ---

    def set_accept_enabled(self, enabled: bool) -> None:
        if enabled and monotonic() < self._accept_again:
            return  # no descriptor was left
        super().set_accept_enabled(enabled)
        if not enabled and (not self.alive or self.ppid != os.getppid()):
            self._accept_the_last()

    def _accept_the_last(self) -> None:
        """Take who has connected already, and let the kernel refuse everybody else."""
        for listener in self.sockets:
            for _ in range(self.cfg.backlog):
                if not self._accept_one(listener):
                    break
            listener.close()
        for conn in self.waiting:
            if not conn.received:
                conn.timeout = min(conn.timeout, monotonic() + STOP_KEEPALIVE)
