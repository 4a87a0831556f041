"""Restarts under load: a caller that got through to the service is answered, whatever becomes of the worker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

from tests.conftest import ServiceFactory
from tests.support import ROOT, eventually, processes
from tests.support.raw_http import RawAnswer, answers_in, request
from tests.support.service import Service

CALLERS = 8
WORKERS = 2
HEALTH = request("GET", "/v1/health")


def ask(port: int) -> str:
    """One request on a new connection. How it went: "answered", "refused" (nobody listens), or what else."""
    try:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    except ConnectionRefusedError:
        return "refused"
    with sock:
        try:
            sock.sendall(HEALTH)
            return "answered" if read(sock).status == 200 else "failed"
        except (OSError, ValueError) as error:
            return type(error).__name__


def read(sock: socket.socket) -> RawAnswer:
    """The only answer on a connection that ends with it."""
    received = b""
    while data := sock.recv(65536):
        received += data
    (answer,) = answers_in(received)
    return answer


def under_load(service: Service, disturb: Callable[[], None]) -> list[str]:
    """What became of the requests of some callers who ask all the time while `disturb` runs."""
    over = Event()

    def caller() -> list[str]:
        seen = []
        while not over.is_set():
            seen.append(ask(service.port))
        return seen

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(caller) for _ in range(CALLERS)]
        try:
            disturb()
        finally:
            over.set()
        return [outcome for one in callers for outcome in one.result()]


def test_no_request_is_lost_when_the_service_reloads(serve: ServiceFactory) -> None:
    service = serve(workers=2)

    def reload_twice() -> None:
        for _ in range(2):
            old = set(service.workers())
            assert service.process
            service.process.send_signal(signal.SIGHUP)
            eventually(partial(_are_new, service, old), within=30)

    outcomes = under_load(service, reload_twice)

    assert len(outcomes) > CALLERS
    assert set(outcomes) == {"answered"}


def test_a_service_that_stops_answers_who_is_connected_and_refuses_everybody_else(serve: ServiceFactory) -> None:
    service = serve(workers=WORKERS)

    outcomes = under_load(service, lambda: _ended(service))

    # A connection that is made in the instant between a worker's last look and its closing of the socket is reset:
    # docs/reliability.md.
    assert set(outcomes) <= {"answered", "refused", "ConnectionResetError"}
    assert outcomes.count("ConnectionResetError") <= 2 * WORKERS
    assert "answered" in outcomes


def _are_new(service: Service, old: set[int]) -> bool:
    workers = set(service.workers())
    return len(workers) == 2 and not workers & old


def _ended(service: Service) -> None:
    process = service.process
    assert process
    eventually(lambda: ask(service.port) == "answered")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    service.process = None


def test_who_waits_for_a_worker_that_is_killed_is_answered_by_the_next(serve: ServiceFactory) -> None:
    service = serve(workers=1)
    (worker,) = service.workers()
    os.kill(worker, signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as waiting:
        waiting.sendall(HEALTH)
        processes.kill(worker)

        assert read(waiting).status == 200


def test_a_second_service_on_the_same_port_does_not_start(serve: ServiceFactory) -> None:
    service = serve(workers=1)
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    second = subprocess.run(command, cwd=ROOT, env=service.env, capture_output=True, timeout=60, check=False)

    assert second.returncode == 1
    assert b"Connection in use" in second.stdout


def test_with_one_worker_less_nobody_waits_for_the_one_that_has_gone(serve: ServiceFactory) -> None:
    service = serve(workers=2)
    assert service.process
    service.process.send_signal(signal.SIGTTOU)
    eventually(lambda: len(service.workers()) == 1)

    assert [ask(service.port) for _ in range(20)] == ["answered"] * 20
