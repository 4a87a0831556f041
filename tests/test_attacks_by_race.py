"""Two hundred callers with one link: all of each request but its last byte is sent first, and then all last bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from selectors import EVENT_READ, DefaultSelector
from socket import create_connection, socket
from time import monotonic

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import databases
from tests.support.attackers import post
from tests.support.credentials import new_link
from tests.support.raw_http import RawAnswer, answers_in
from tests.support.rows import add_user

CALLERS, ROUNDS = 200, 50


def at_the_last_byte(port: int, request: bytes) -> list[RawAnswer]:
    """The answers to CALLERS times the same request, each on a connection of its own."""
    with ExitStack() as stack, DefaultSelector() as selector:
        connections = [stack.enter_context(create_connection(("127.0.0.1", port), timeout=30)) for _ in range(CALLERS)]
        for connection in connections:
            connection.sendall(request[:-1])
        received = dict.fromkeys(connections, b"")
        for connection in connections:
            connection.sendall(request[-1:])
            selector.register(connection, EVENT_READ, connection)
        # Whoever is answered hangs up at once: gunicorn's gthread waits for that.
        while selector.get_map():
            ready = selector.select(30)
            assert ready, "30 s without an answer"
            for key, _ in ready:
                answered: socket = key.data
                data = answered.recv(65536)
                received[answered] += data
                if not data:
                    selector.unregister(answered)
                    answered.close()
    return [answer for whole in received.values() for answer in answers_in(whole)]


def left(database: str) -> tuple[int, ...]:
    """How many links, users and sign-ins there are."""
    tables = ("auth_tokens", "users", "auth_sessions")
    return tuple(databases.query(database, f"select count(*) from {table}")[0][0] for table in tables)


@pytest.mark.faults
def test_of_two_hundred_simultaneous_verifies_one_signs_in(
    serve: ServiceFactory, app: Flask, database: str, record_property: Callable[[str, object], None]
) -> None:
    service = serve(workers=2)
    assert len(service.workers()) == 2
    statuses: Counter[str] = Counter()
    longest = 0.0

    for number in range(ROUNDS):
        email = f"ada{number}@example.com"
        if number % 2:
            add_user(database, email)
        request = post("/v1/auth/verify", {"token": new_link(app, email)})
        started = monotonic()
        answers = at_the_last_byte(service.port, request)
        longest = max(longest, monotonic() - started)

        found = Counter(f"{answer.status} {answer.code}".strip() for answer in answers)
        assert found["200"] == len([answer for answer in answers if "set-cookie" in answer.headers]) == 1
        # Refused, or sent away by a worker that has too much to do.
        assert sum(found.values()) == CALLERS
        assert found.keys() <= {"200", "401 invalid_token", "503 busy"}
        assert left(database) == (0, number + 1, number + 1)
        statuses += found

    record_property("rounds", str(ROUNDS))
    record_property("answers", ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items())))
    record_property("longest round", f"{longest:.2f} s")
