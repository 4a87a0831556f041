"""One thread that carries all streams of a process, from the moment at which each has begun to flow.

A thread for each stream is woken for each of its events, and with some hundred of them most of the time goes into
changing from one to the other (docs/llm.md has the figures). So the server's threads sleep, and this one passes
everything on as it comes, with the means that WSGI has for that: the write() of PEP 3333.

It needs epoll, which Linux has. Elsewhere each call goes on in its own thread.
"""

from __future__ import annotations

import math
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from lumen_api.llm.errors import ClientGone, Restarting
from lumen_api.llm.provider import Account, Chunks, Pause
from lumen_api.llm.watch import Watch

AVAILABLE = hasattr(select, "epoll")

TICK = 0.1  # seconds; how late a timeout may be

# Bytes. What a socket takes without waiting once it takes anything at all: a third of its buffer is free then.
PIECE = 4 * 1024


class Outlet:
    """The way to a client, which may read slowly or not at all."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.unsent = b""

    def next(self, *, wait: bool) -> bytes:
        """The next piece of `unsent` that can be written without waiting for the client; nothing: it does not read."""
        if self.unsent and not self._watch.client_reads():
            if not wait:
                return b""
            self._watch.until_client_reads()
        piece, self.unsent = self.unsent[:PIECE], self.unsent[PIECE:]
        return piece


class Flow:
    """One stream, as the pump knows it. `last` is what comes with the end of the answer, and is not written."""

    def __init__(
        self, chunks: Chunks, account: Account, watch: Watch, outlet: Outlet, write: Callable[[bytes], object]
    ) -> None:
        self.chunks, self.account, self.watch, self.outlet, self.write = chunks, account, watch, outlet, write
        self.last = b""
        self.error: Exception | None = None
        self.over = threading.Event()
        self.source: int | None = None  # the provider's descriptor, while it is waited for
        self.due = 0.0  # when to go on in any case

    def flush(self) -> bool:
        """Write what is unsent, as far as the client takes it. True if that is all."""
        while piece := self.outlet.next(wait=False):
            try:
                self.write(piece)
            except OSError as error:
                raise ClientGone from error
        return not self.outlet.unsent


class Pump:
    """Carries flows, in a thread that starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # nothing begins while events are handled
        self._closing = threading.Event()
        self._poller: select.epoll | None = None
        self._flows: dict[int, Flow] = {}  # by the descriptors that are waited for

    def carry(self, flow: Flow, pause: Pause) -> bytes:
        """Pass on all of `flow` but its last bytes, which are returned. Raises what has ended it before."""
        client = flow.watch.client_descriptor
        with self._lock:
            poller = self._started()
            self._flows[client] = flow
            poller.register(client, select.EPOLLRDHUP)
            self._wait_for_provider(poller, flow, pause)
        flow.over.wait()
        if flow.error is not None:
            raise flow.error
        return flow.last

    def close(self) -> None:
        """Nothing is carried any more."""
        self._closing.set()

    def _started(self) -> select.epoll:
        if self._poller is None:
            self._poller = select.epoll()
            threading.Thread(target=self._run, args=(self._poller,), name="llm-pump", daemon=True).start()
        return self._poller

    def _run(self, poller: select.epoll) -> None:
        try:
            with poller:
                self._carry_all(poller)
        finally:  # whatever has happened, nobody waits for ever
            with self._lock:
                self._poller = None
                for flow in set(self._flows.values()):
                    self._end(poller, flow, Restarting())

    def _carry_all(self, poller: select.epoll) -> None:
        tick = monotonic()
        while not self._closing.is_set():
            happened = poller.poll(TICK)
            with self._lock:
                for descriptor, events in happened:
                    if flow := self._flows.get(descriptor):  # None: it has ended in this round
                        self._go_on(poller, flow, descriptor, events)
                if monotonic() >= tick:
                    tick = monotonic() + TICK
                    for flow in set(self._flows.values()):
                        self._go_on(poller, flow)

    def _go_on(self, poller: select.epoll, flow: Flow, descriptor: int | None = None, events: int = 0) -> None:
        """Something has happened to one of its descriptors, or (None) it is time to look at the clock."""
        try:
            if descriptor is None:
                flow.watch.check()
                if monotonic() < flow.due:
                    return
            elif descriptor != flow.source:
                if events & ~select.EPOLLOUT:
                    raise ClientGone
                poller.modify(descriptor, select.EPOLLRDHUP)
            self._advance(poller, flow)
        except Exception as error:
            self._end(poller, flow, error)

    def _advance(self, poller: select.epoll, flow: Flow) -> None:
        """Pass on what there is, until the provider or the client has to be waited for."""
        while flow.flush():
            item = next(flow.chunks)
            if isinstance(item, Pause):
                self._wait_for_provider(poller, flow, item)
                return
            if flow.account.last.complete:
                flow.last = item
                self._end(poller, flow)
                return
            flow.outlet.unsent = item
        self._wait_for_client(poller, flow)

    def _wait_for_provider(self, poller: select.epoll, flow: Flow, pause: Pause) -> None:
        assert pause.sock is not None
        flow.due = monotonic() + pause.seconds
        if flow.source is None:
            flow.source = pause.sock.fileno()
            self._flows[flow.source] = flow
            poller.register(flow.source, select.EPOLLIN)

    def _wait_for_client(self, poller: select.epoll, flow: Flow) -> None:
        self._leave_provider(poller, flow)
        flow.due = math.inf
        poller.modify(flow.watch.client_descriptor, select.EPOLLRDHUP | select.EPOLLOUT)

    def _leave_provider(self, poller: select.epoll, flow: Flow) -> None:
        if flow.source is not None:
            with suppress(OSError, ValueError):  # a stream that has failed has closed it
                poller.unregister(flow.source)
            del self._flows[flow.source]
            flow.source = None

    def _end(self, poller: select.epoll, flow: Flow, error: Exception | None = None) -> None:
        self._leave_provider(poller, flow)
        with suppress(OSError, ValueError):
            poller.unregister(flow.watch.client_descriptor)
        del self._flows[flow.watch.client_descriptor]
        flow.error = error
        flow.over.set()
