"""Rate limits by IP address, email address and user, counted by Flask-Limiter in Redis or Valkey.

A rule has a name and limits like "5/minute;20/hour". A view names the rule, and whom to count is handed in.
Nobody is recognisable in the counters' keys: they are keyed hashes.

When Redis is away or hangs, every worker counts in its own memory until Redis answers again. The timeouts below
keep what a request waits for that under 0.3 s: without them and with redis-py's default of retries it was 8 s.
"""

from __future__ import annotations

import functools
import hmac
import math
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, ParamSpec, TypeVar

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter, RateLimitExceeded
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from lumen_api.errors import Busy, RateLimited
from lumen_api.observability import metrics

P = ParamSpec("P")
R = TypeVar("R")

_REDIS_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 0.1,  # seconds
    "socket_timeout": 0.1,
    "retry": Retry(NoBackoff(), 0),
    "health_check_interval": 0,
}


class RateLimits:
    """The counters of one app. Never a module's global: that would keep the settings of the first app."""

    def __init__(
        self, app: Flask, rules: Mapping[str, str], *, storage_url: str | None, key: bytes, proxy_hops: int
    ) -> None:
        """`rules`: limits by name. `storage_url`: Redis, or None to count in memory. `key`: hashes the subjects."""
        self._key = key
        self._proxy_hops = proxy_hops
        self._limiter = Limiter(
            lambda: str(g.rate_limit_key),
            storage_uri=storage_url or "memory://",
            storage_options=_REDIS_OPTIONS if storage_url else {},
            strategy="fixed-window",
            key_prefix="lumen",
            in_memory_fallback_enabled=storage_url is not None,
        )
        self._limiter.init_app(app)
        # Flask-Limiter looks in before every request whether a lost Redis is back. Health checks touch nothing.
        self._limiter.request_filter(lambda: request.blueprint == "health")
        self._hits = {name: self._hit(name, limits) for name, limits in rules.items()}

    def hit(self, rule: str, subject: str) -> None:
        """Count one request of `subject`. Raises RateLimited when it is above `rule`."""
        g.rate_limit_key = hmac.digest(self._key, f"{rule} {subject}".encode(), "sha256").hex()
        error: Exception | None = None
        for _ in range(3):
            try:
                self._hits[rule]()
            except RateLimitExceeded:
                metrics.REFUSALS.record(1, rule)
                raise RateLimited from None
            except (RedisError, RuntimeError) as failure:
                # RedisError: Flask-Limiter turns to memory in the first request that misses Redis, and raises in
                # those beside it. RuntimeError: limits' memory storage (5.8) starts one timer from two threads now
                # and then, before it counts.
                error = failure
            else:
                return
        raise Busy from error

    def client_network(self) -> str:
        """Whom the request's IP address stands for: the peer's, or the one that the outermost trusted proxy saw."""
        # Not Werkzeug's ProxyFix: a quotation mark that a caller writes in front of the list makes it see no list.
        forwarded = request.headers.get("X-Forwarded-For", "").split(",")
        named = forwarded[-self._proxy_hops] if 0 < self._proxy_hops <= len(forwarded) else ""
        return network_of(named.strip() or request.remote_addr)

    def reachable(self) -> bool:
        """Whether the counters that all workers share can be reached."""
        return bool(self._limiter.storage.check())

    def describe(self, response: Response) -> Response:
        """`response`, saying how the limit stands that this request was counted against last.

        Not Flask-Limiter's own headers: they say Retry-After on every answer, and 0 in a window's last second.
        """
        limit = self._limiter.current_limit
        if limit:
            try:
                remaining, reset_at = limit.remaining, limit.reset_at
            except RedisError:  # it went away a moment after it had counted
                remaining, reset_at = 0, int(time.time())
            response.headers["X-RateLimit-Limit"] = str(limit.limit.amount)
            response.headers["X-RateLimit-Remaining"] = str(remaining)
            response.headers["X-RateLimit-Reset"] = str(reset_at)
            if limit.breached:
                wait = math.ceil(reset_at - time.time())
                response.headers["Retry-After"] = str(min(max(1, wait), limit.limit.get_expiry()))
        return response

    def _hit(self, name: str, limits: str) -> Callable[[], None]:
        def hit() -> None:
            """Flask-Limiter counts when a function that it decorates is called: this one has nothing else to do."""

        hit.__qualname__ = f"hit.{name}"  # what Flask-Limiter tells functions apart by
        return self._limiter.shared_limit(limits, scope=name)(hit)


def init_app(app: Flask, rules: Mapping[str, str], *, storage_url: str | None, key: bytes, proxy_hops: int) -> None:
    """Give `app` its counters, and its answers the headers that tell of them."""
    limits = RateLimits(app, rules, storage_url=storage_url, key=key, proxy_hops=proxy_hops)
    app.extensions["lumen.rate_limits"] = limits
    app.after_request(limits.describe)


def current() -> RateLimits:
    """The current app's."""
    limits: RateLimits = current_app.extensions["lumen.rate_limits"]
    return limits


def limited_by_ip(rule: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Guard a view with `rule`, counted by the client's network. Bad input counts too."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            current().hit(rule, current().client_network())
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
