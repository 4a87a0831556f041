"""Whoever asks for more than his share, with all his might, gets his share, and others get theirs at the same time.

Two workers count together in Valkey. The windows are a day long, so that none ends in the middle of a test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import eventually
from tests.support.credentials import new_cookie
from tests.support.service import Answer, Service
from tests.support.valkey import Valkey

GREEDY, OTHERS = 60, 24  # requests, at the same time
SHARE = 10

Ask = Callable[[int], Answer]


@pytest.fixture
def service(serve: ServiceFactory, valkey: Valkey) -> Service:
    """Two workers behind one proxy, as a balancer is."""
    return serve(
        workers=2,
        REDIS_URL=valkey.url,
        TRUSTED_PROXY_HOPS="1",
        RATE_LIMIT_LINK_PER_IP=f"{SHARE}/day",
        RATE_LIMIT_VERIFY_PER_IP=f"{SHARE}/day",
        RATE_LIMIT_PER_USER=f"{SHARE}/day",
    )


def shares_hold(valkey: Valkey, greedy: Ask, other: Ask, *, good: int, at_once: int) -> bool:
    """Whether exactly a share of the greedy one's requests passes, the rest is refused, and no other's is."""
    with valkey.client() as counters:
        counters.flushall()
    with ThreadPoolExecutor(at_once) as threads:
        asked = [(threads.submit(greedy, number), threads.submit(other, number)) for number in range(OTHERS)]
        more = [threads.submit(greedy, number) for number in range(OTHERS, GREEDY)]
    greedy_got = [future.result() for future in (*(first for first, _ in asked), *more)]
    for refused in [answer for answer in greedy_got if answer.status == 429]:
        assert refused.json["error"]["code"] == "rate_limited"
        assert refused.json["error"]["request_id"] == refused.headers["X-Request-Id"]
        assert int(refused.headers["Retry-After"]) > 0
    seen = [Counter(answer.status for answer in greedy_got), Counter(last.result().status for _, last in asked)]
    return seen == [{good: SHARE, 429: GREEDY - SHARE}, {good: OTHERS}]


def eventually_shares_hold(valkey: Valkey, greedy: Ask, other: Ask, *, good: int = 200, at_once: int = 16) -> None:
    """Eventually: a worker whose Redis takes more than 0.1 s, on a busy machine, counts for itself for a while."""
    eventually(lambda: shares_hold(valkey, greedy, other, good=good, at_once=at_once), within=20)


def link(service: Service, ip: str, email: str) -> Answer:
    return service.call("POST", "/v1/auth/request-link", {"email": email}, headers={"X-Forwarded-For": ip})


def attempt(service: Service, ip: str) -> Answer:
    """Try to sign in with a link that does not exist: 401."""
    return service.call("POST", "/v1/auth/verify", {"token": "nonsense"}, headers={"X-Forwarded-For": ip})


def test_one_address_that_tries_links_cannot_keep_others_from_signing_in(service: Service, valkey: Valkey) -> None:
    eventually_shares_hold(
        valkey,
        lambda _: attempt(service, "203.0.113.1"),
        lambda number: attempt(service, f"198.51.100.{number}"),
        good=401,
    )


def test_one_network_of_ipv6_has_one_share_however_many_addresses_it_uses(service: Service, valkey: Valkey) -> None:
    eventually_shares_hold(
        valkey,
        lambda number: attempt(service, f"2001:db8:1:1::{number:x}:1"),
        lambda number: attempt(service, f"2001:db8:2:{number:x}::1"),
        good=401,
    )


def test_an_address_that_makes_up_proxies_in_front_of_it_still_has_one_share(service: Service, valkey: Valkey) -> None:
    eventually_shares_hold(
        valkey,
        lambda number: attempt(service, f"198.51.100.{number}, 203.0.113.1"),
        lambda number: attempt(service, f"203.0.113.1, 198.51.100.{number}"),
        good=401,
    )


def test_one_address_cannot_use_up_the_mails_of_others(service: Service, valkey: Valkey) -> None:
    eventually_shares_hold(
        valkey,
        lambda number: link(service, "203.0.113.1", f"victim{number}@example.com"),
        lambda number: link(service, f"198.51.100.{number}", f"user{number}@example.com"),
        at_once=4,  # as many mails as a worker sends at once
    )


def test_one_user_with_many_devices_cannot_use_up_the_requests_of_others(
    service: Service, app: Flask, valkey: Valkey
) -> None:
    devices = [new_cookie(app, "greedy@example.com") for _ in range(6)]
    others = [new_cookie(app, f"user{number}@example.com") for number in range(4)]

    eventually_shares_hold(
        valkey,
        lambda number: service.call("GET", "/v1/auth/session", headers=devices[number % len(devices)]),
        lambda number: service.call("GET", "/v1/auth/session", headers=others[number % len(others)]),
    )
