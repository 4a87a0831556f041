"""Rate limits by IP address, email address and user, counted in fixed windows in Redis or Valkey.

A rule has a name and limits like "5/minute;20/hour". A view names the rule, and whom to count is handed in.
Nobody is recognisable in the counters' keys: they are keyed hashes.

Flask-Limiter connects to the storage. The counting is ours: one round trip for all limits of a rule and their headers,
where Flask-Limiter makes three for each limit, and takes as much CPU time as the rest of a request together.

When Redis is away or hangs, every worker counts in its own memory until Redis answers again. The timeouts below
keep what a request waits for that under 0.3 s: without them and with redis-py's default of retries it was 8 s.
"""

from __future__ import annotations

import functools
import hmac
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, ParamSpec, TypeVar

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter
from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage, RedisStorage, Storage
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionBroken
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from lumen_api.errors import RateLimited
from lumen_api.observability import metrics

P = ParamSpec("P")
R = TypeVar("R")

_REDIS_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 0.1,  # seconds
    "socket_timeout": 0.1,
    "retry": Retry(NoBackoff(), 0),
    "health_check_interval": 0,
}
LONGEST_PAUSE = 32.0  # seconds between two looks whether Redis is back; the first is after one

# Counts a request against the limits of a rule, the narrowest first, up to one that is exceeded. Returns the number of
# that one, or of the narrowest, its count, and the milliseconds until its window ends. KEYS: a counter for each limit;
# ARGV: for each its amount and its window in milliseconds.
_COUNT = """
local narrowest
for i, key in ipairs(KEYS) do
    local count = redis.call("INCR", key)
    local left = redis.call("PTTL", key)
    if left < 0 then
        left = tonumber(ARGV[2 * i])
        redis.call("PEXPIRE", key, left)
    end
    if count > tonumber(ARGV[2 * i - 1]) then
        return {i, count, left}
    end
    narrowest = narrowest or {i, count, left}
end
return narrowest
"""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """How a limit stands after a request was counted. `resets_in`: seconds."""

    limit: RateLimitItem
    count: int
    resets_in: float

    @property
    def exceeded(self) -> bool:
        """Whether the request is one too many."""
        return self.count > self.limit.amount

    def headers(self) -> dict[str, str]:
        """What the answer says of it."""
        headers = {
            "X-RateLimit-Limit": str(self.limit.amount),
            "X-RateLimit-Remaining": str(max(0, self.limit.amount - self.count)),
            "X-RateLimit-Reset": str(math.ceil(time.time() + self.resets_in)),
        }
        if self.exceeded:
            headers["Retry-After"] = str(min(max(1, math.ceil(self.resets_in)), self.limit.get_expiry()))
        return headers


class Shared:
    """Counters in Redis, for all workers together. Raises RedisError."""

    def __init__(self, storage: RedisStorage) -> None:
        self._storage = storage
        client: Any = storage.get_connection()
        self._connections = client.connection_pool
        self._script = client.register_script(_COUNT).sha  # its name in Redis, where it need not be yet
        self._idle: deque[Any] = deque()  # Connection, whose methods are not typed

    def hit(self, key: str, limits: Sequence[RateLimitItem]) -> Standing:
        """Count a request, and tell of the limit that it exceeds, or of the narrowest."""
        # In a cluster the braces keep the counters of one subject together, as a script needs them.
        keys = [f"lumen/{{{key}}}/{limit.get_expiry()}" for limit in limits]
        arguments = [number for limit in limits for number in (limit.amount, limit.get_expiry() * 1000)]
        number, count, left = self._run(len(keys), *keys, *arguments)
        return Standing(limits[number - 1], count, left / 1000)

    def reachable(self) -> bool:
        """Whether Redis answers."""
        return bool(self._storage.check())

    def _run(self, *arguments: int | str) -> list[int]:
        # Not redis-py's client, which looks before each command whether the connection still stands, and takes twice
        # the time of a command for that and for what we do not need. One that does not stand is found by using it.
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connections.make_connection()
        kept = connection._sock is not None  # redis-py has no other name for that
        try:
            try:
                return self._count(connection, *arguments)
            except ConnectionBroken:
                if not kept:
                    raise
                return self._count(connection, *arguments)  # it connects anew
        finally:
            self._idle.append(connection)

    def _count(self, connection: Any, *arguments: int | str) -> list[int]:
        try:
            connection.send_command("EVALSHA", self._script, *arguments)
            return list(connection.read_response())
        except NoScriptError:
            connection.send_command("EVAL", _COUNT, *arguments)
            return list(connection.read_response())


class Own:
    """Counters in the memory of this process."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self._lock = threading.Lock()  # two threads at once can make limits' (5.8) storage start one timer twice

    def hit(self, key: str, limits: Sequence[RateLimitItem]) -> Standing:
        """See Shared.hit()."""
        narrowest: Standing | None = None
        with self._lock:
            for limit in limits:
                name = f"{key}/{limit.get_expiry()}"
                count = self._storage.incr(name, limit.get_expiry())
                standing = Standing(limit, count, self._storage.get_expiry(name) - time.time())
                if standing.exceeded:
                    return standing
                narrowest = narrowest or standing
        assert narrowest is not None  # a rule has a limit: Config has seen to it
        return narrowest


class RateLimits:
    """The counters of one app. Never a module's global: that would keep the settings of the first app."""

    def __init__(self, rules: Mapping[str, str], *, storage_url: str | None, key: bytes, proxy_hops: int) -> None:
        """`rules`: limits by name. `storage_url`: Redis, or None to count in memory. `key`: hashes the subjects."""
        self._key = key
        self._proxy_hops = proxy_hops
        self._rules = {
            name: sorted(parse_many(limits), key=lambda limit: limit.get_expiry()) for name, limits in rules.items()
        }
        storage = _storage(storage_url)
        self._shared = Shared(storage) if isinstance(storage, RedisStorage) else None
        self._own = Own(storage if isinstance(storage, MemoryStorage) else MemoryStorage())
        self._pause = self._away_until = 0.0

    def hit(self, rule: str, subject: str) -> None:
        """Count one request of `subject`. Raises RateLimited when it is above `rule`."""
        key = f"{rule}/{hmac.digest(self._key, f'{rule} {subject}'.encode(), 'sha256').hex()}"
        g.rate_limit = standing = self._count(key, self._rules[rule])
        if standing.exceeded:
            metrics.REFUSALS.record(1, rule)
            raise RateLimited

    def _count(self, key: str, limits: Sequence[RateLimitItem]) -> Standing:
        if self._shared is not None and time.monotonic() >= self._away_until:
            if self._pause:  # this request looks whether Redis is back, the others do not wait for it
                self._away_until = time.monotonic() + self._pause
            try:
                standing = self._shared.hit(key, limits)
            except RedisError:
                if not self._pause:
                    _logger.warning("Redis is away: requests are counted in memory")
                self._pause = min(2 * self._pause or 1.0, LONGEST_PAUSE)
                self._away_until = time.monotonic() + self._pause
            else:
                self._pause = self._away_until = 0.0
                return standing
        return self._own.hit(key, limits)

    def client_network(self) -> str:
        """Whom the request's IP address stands for: the peer's, or the one that the outermost trusted proxy saw."""
        # Not Werkzeug's ProxyFix: a quotation mark that a caller writes in front of the list makes it see no list.
        forwarded = request.headers.get("X-Forwarded-For", "").split(",")
        named = forwarded[-self._proxy_hops] if 0 < self._proxy_hops <= len(forwarded) else ""
        return network_of(named.strip() or request.remote_addr)

    def reachable(self) -> bool:
        """Whether the counters that all workers share can be reached."""
        return self._shared is None or self._shared.reachable()


def init_app(app: Flask, rules: Mapping[str, str], *, storage_url: str | None, key: bytes, proxy_hops: int) -> None:
    """Give `app` its counters, and its answers the headers that tell of them."""
    limits = RateLimits(rules, storage_url=storage_url, key=key, proxy_hops=proxy_hops)
    app.extensions["lumen.rate_limits"] = limits
    app.after_request(describe)


def describe(response: Response) -> Response:
    """`response`, saying how the limit stands that its request was counted against last."""
    if standing := g.get("rate_limit"):
        response.headers.extend(standing.headers())
    return response


def current() -> RateLimits:
    """The current app's."""
    limits: RateLimits = current_app.extensions["lumen.rate_limits"]
    return limits


def limited_by_ip(rule: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Guard a view with `rule`, counted by the client's network. Bad input counts too."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            limits = current()
            limits.hit(rule, limits.client_network())
            return view(*args, **kwargs)

        return limited

    return decorate


def network_of(address: str | None) -> str:
    """Whom an IP address stands for: itself, or its /64 for IPv6, where one customer has at least that many.

    X-Forwarded-For holds ports and brackets too. What is no address at all counts together.
    """
    host = (address or "").strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((int(ip), 64), strict=False))
    return str(ip)


def _storage(url: str | None) -> Storage:
    limiter = Limiter(
        lambda: "",
        storage_uri=url or "memory://",
        storage_options=_REDIS_OPTIONS if url else {},
        strategy="fixed-window",
    )
    limiter.init_app(Flask("limits"))  # one of its own, because it looks into each request of the app that it is given
    return limiter.storage
