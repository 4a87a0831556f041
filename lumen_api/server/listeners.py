"""A listening socket for each worker, made by the master and kept while workers come and go.

With one socket for all, the kernel gives connections to whichever worker asks first: of 32 one got all and the other
none. gunicorn's `reuse_port` cures that by letting each worker open its own. But then a worker that ends takes the
connections with it that wait in its queue: some callers of a service that reloads are cut off, and in gunicorn's
drain they wait for nothing for 20 s first. So the master opens them, as nginx does (`listen ... reuseport`), and a new
worker goes on where the last one ended.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import Counter
from typing import Any

from gunicorn import sock
from gunicorn.arbiter import Arbiter

# Connections have these from their listener. Seconds that a thread waits for a client to read, without progress.
_SEND = 10
# Bytes of answers that wait in the kernel for a client, and in no thread. It doubles them, and has a limit of its own
# (Linux: net.core.wmem_max), which by default leaves room for two of the largest answers but exports.
_UNREAD = 512 * 1024

# Elsewhere SO_REUSEPORT does not share connections out; there all workers listen on gunicorn's one socket.
_SHARED_OUT = sys.platform == "linux"


def open_all(arbiter: Arbiter) -> None:
    """As many as there will be workers. gunicorn's hook `on_starting`; exits if another process has the port."""
    if not _SHARED_OUT or arbiter.master_pid:  # in a live upgrade (USR2) they are inherited
        return
    [first] = sock.create_sockets(arbiter.cfg, arbiter.log)  # alone on its port, or gunicorn says who is not
    address, kind = first.getsockname(), type(first)
    first.close()
    arbiter.LISTENERS = [
        kind(address, arbiter.cfg, arbiter.log, fd=_bound_to(address)) for _ in range(arbiter.cfg.workers)
    ]


def _bound_to(address: tuple[str, int]) -> int:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    return listener.detach()


def limit(arbiter: Arbiter) -> None:
    """Bound how long a client can keep a thread waiting. gunicorn's hook `when_ready`."""
    for listener in arbiter.LISTENERS:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND, 0))


def choose(arbiter: Arbiter, worker: Any) -> None:
    """Give a worker that is about to be made the socket that fewest have. gunicorn's hook `pre_fork`."""
    if _SHARED_OUT:
        taken = Counter(other.sockets[0].fileno() for other in arbiter.WORKERS.values())
        worker.sockets = [min(arbiter.LISTENERS, key=lambda listener: taken[listener.fileno()])]


def release(arbiter: Arbiter, worker: Any) -> None:
    """Close the socket of a worker that nobody follows: the kernel would still share connections out to it. gunicorn's
    hook `child_exit`."""
    (own,) = worker.sockets
    used = any(own in other.sockets for other in arbiter.WORKERS.values())
    if own in arbiter.LISTENERS and not used and len(arbiter.WORKERS) >= arbiter.num_workers:
        arbiter.LISTENERS.remove(own)
        own.close()


def close_others(arbiter: Arbiter, worker: Any) -> None:
    """Nobody listens on a socket once its own workers and the master have ended. gunicorn's hook `post_fork`."""
    for listener in arbiter.LISTENERS:
        if listener not in worker.sockets:
            listener.close()
