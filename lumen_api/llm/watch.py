"""Waiting for the provider, and at the same time for everything else that can happen to a call.

It is one poll(): on the provider's socket, on the client's, and on a pipe that says that the process is about to end.
So a client that leaves is noticed at once, before the first byte too, and no timeout needs a thread of its own. It is
also why there is no HTTP client library here: they wait for their own socket alone, and after a timeout they cannot go
on reading where they were. Once a stream flows the pump waits for it, in the same way.
"""

from __future__ import annotations

import math
import os
import select
import socket
import struct
from contextlib import suppress
from time import monotonic

from lumen_api.llm.errors import ClientGone, ProviderTimeout, Restarting

# The peer has closed its side (Linux). A broken connection is reported without being asked for.
_LEAVES = getattr(select, "POLLRDHUP", 0)
_GONE = _LEAVES | select.POLLHUP | select.POLLERR | select.POLLNVAL

NOTHING = -1  # instead of a descriptor


class Stop:
    """Tells all calls of this process that it is about to end. Safe to use in a signal handler."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.at = math.inf

    def fileno(self) -> int:
        """Readable from begin() on."""
        return self._reader

    def begin(self, seconds: float) -> None:
        """Let calls go on for `seconds`, and no longer. Only the first time counts."""
        if self.at == math.inf:
            self.at = monotonic() + seconds
            os.write(self._writer, b"\0")

    def close(self) -> None:
        """Nobody watches any more."""
        os.close(self._reader)
        os.close(self._writer)


class Watch:
    """What one call waits with. Every method raises ClientGone, ProviderTimeout (the call's own time is over) or
    Restarting as soon as that has happened."""

    def __init__(self, client: socket.socket | None, stop: Stop, *, seconds: float) -> None:
        """`client`: None where there is no socket, as in a test without a server. `seconds`: for the whole call."""
        self._client = client
        self.client_descriptor = NOTHING if client is None else client.fileno()
        self._stop = stop
        self._over = monotonic() + seconds
        self._waiting_for: tuple[int, int] | None = None
        self._outgoing = select.poll()
        self._poller = select.poll()
        self._poller.register(stop, select.POLLIN)
        if client is not None:
            self._poller.register(client, _LEAVES)
            self._outgoing.register(client, select.POLLOUT)
            # The last resort, if a write has to wait although client_reads(): others may wait behind it.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))

    def wait(self, sock: socket.socket, events: int, seconds: float) -> int:
        """The events of `sock` that have come, of POLLIN and POLLOUT; 0 when none has within `seconds`."""
        descriptor = sock.fileno()
        if self._waiting_for != (descriptor, events):
            self.forget()
            self._poller.register(descriptor, events)
            self._waiting_for = (descriptor, events)
        return self._wait(descriptor, seconds)

    def check(self) -> None:
        """Raise what the clock says."""
        over = min(self._over, self._stop.at)
        if monotonic() >= over:
            raise Restarting if over == self._stop.at else ProviderTimeout

    def forget(self) -> None:
        """The socket that was waited for last is closed, or somebody else's."""
        if self._waiting_for is not None:
            self._poller.unregister(self._waiting_for[0])
            self._waiting_for = None

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`."""
        self.forget()
        self._wait(NOTHING, seconds)

    def until_client_reads(self) -> None:
        """Wait until the client takes more, however slowly it reads: a write would wait for ever."""
        if self._client is not None and not self.client_reads():
            self.forget()
            self._poller.register(self._client, _LEAVES | select.POLLOUT)
            try:
                self._wait(self.client_descriptor, math.inf)
            finally:
                self._poller.register(self._client, _LEAVES)

    def client_reads(self) -> bool:
        """Whether the client would take more at this moment."""
        return self._client is None or self._outgoing.poll(0) == [(self.client_descriptor, select.POLLOUT)]

    def hang_up(self) -> None:
        """Close the connection to the client: what it has got is not all."""
        if self._client is not None:
            with suppress(OSError):
                # Closed with a reset: a client that does not read would keep what was written for it in memory.
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # The plain socket's: TLS would wait for the other side.
                socket.socket.shutdown(self._client, socket.SHUT_RDWR)

    def _wait(self, descriptor: int, seconds: float) -> int:
        give_up = monotonic() + seconds
        while True:
            self.check()
            until = min(give_up, self._over, self._stop.at)
            ready = dict(self._poller.poll(max(0.0, until - monotonic()) * 1000))
            if ready.get(self.client_descriptor, 0) & _GONE:
                raise ClientGone
            if self._stop.fileno() in ready:  # how long there is left is known from now on
                self._poller.unregister(self._stop)
            if descriptor in ready:
                return ready[descriptor]
            if monotonic() >= give_up:
                return 0
