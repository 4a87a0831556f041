"""A service without a key for the model is as whole as any other; and one with a key does not wait for the provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from time import monotonic

import pytest

from tests.conftest import ServiceFactory
from tests.support import ROOT
from tests.support.anthropic import API_KEY
from tests.support.caller import Caller
from tests.support.canaries import Canaries
from tests.support.conversation_of_canaries import MESSAGES, USAGE, Conversation
from tests.support.journey_of_a_canary import LIMITS
from tests.support.llm import ASKED
from tests.support.mailbox import Mailbox
from tests.support.outages import black_hole, refusal
from tests.support.production import Production, production
from tests.support.raw_server import RawServer, silent
from tests.support.service import Service
from tests.test_config import PRODUCTION

NO_KEY = {"LLM_PROVIDER_KEY": "", "LLM_PROVIDER_URL": ""}


# --- Without a key. ---


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Production]:
    with production(tmp_path, {**LIMITS, **NO_KEY}) as it:
        yield it


def test_production_without_a_key_serves_all_but_the_model(it: Production) -> None:
    canaries = Canaries()
    caller = Caller(it, canaries)
    held = Conversation(caller)
    caller.expect("unauthorized", "POST", MESSAGES, held.prompt())
    held.sign_in("Ada")
    held.expect("invalid_json", body=b"{")
    held.expect("invalid_request", max_tokens=0)
    held.expect("model_not_allowed", model=held.said.word("model"))

    for streamed in (False, True):
        answer = held.ask(stream=streamed)
        assert (answer.status, answer.json["error"]["code"]) == (503, "llm_not_configured")
        assert int(answer.headers["Retry-After"]) > 0

    usage = held.usage()
    assert (usage["status"], usage["used"], usage["reserved"], usage["limit"]) == ("ok", 0, 0, 200_000)
    caller.ok("GET", "/v1/health/ready")
    assert (it.provider.connections, held.strays()) == (0, "")
    assert it.leaks(canaries, held.canaries) == ""
    assert "llm_call" not in {record["event"] for record in it.records()}


@pytest.mark.parametrize(
    ("key", "loaded"), [("", set()), (API_KEY, {"anthropic", "http"})], ids=["without a key", "with a key"]
)
def test_what_speaks_to_the_provider_is_loaded_with_a_key_alone(key: str, loaded: set[str]) -> None:
    script = "import json, sys, app; app.create_app(); print(json.dumps(sorted(sys.modules)))"

    modules = json.loads(run(["-c", script], key))

    parts = {name.removeprefix("lumen_api.llm.") for name in modules if name.startswith("lumen_api.llm.")}
    assert parts & {"anthropic", "http", "echo"} == loaded
    assert bool({"h11", "httptools"} & set(modules)) == bool(key)


def run(arguments: list[str], key: str) -> str:
    """What a fresh Python prints in production's configuration."""
    env = {"PATH": os.environ["PATH"], **PRODUCTION, "LLM_PROVIDER_KEY": key}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


# --- With a key, and a provider that is not there. ---


@contextmanager
def silence() -> Iterator[int]:
    """It takes connections and requests, and never answers."""
    with RawServer(silent) as server:
        yield server.port


PROVIDERS: dict[str, Callable[[], AbstractContextManager[int]]] = {
    "away": refusal,
    "silent": silence,
    "unreachable": black_hole,
}


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    began = monotonic()
    act()
    return monotonic() - began


def expect(service: Service, method: str, path: str, body: object = None) -> None:
    assert service.call(method, path, body).status == 200


def sign_in(service: Service, mailbox: Mailbox, email: str = "ada@example.com") -> str:
    """The cookie."""
    mailbox.clear()
    expect(service, "POST", "/v1/auth/request-link", {"email": email})
    answer = service.call("POST", "/v1/auth/verify", {"token": mailbox.token_for(email)})
    assert answer.status == 200
    return answer.cookie


def ask_model(service: Service, cookie: str) -> int:
    """The status that a call of the model ends with."""
    return service.call("POST", MESSAGES, ASKED, headers={"Cookie": cookie}).status


def times(service: Service, mailbox: Mailbox) -> dict[str, float]:
    """How long what has nothing to do with the model takes, as medians."""
    asks: dict[str, Callable[[], object]] = {
        "health": lambda: expect(service, "GET", "/v1/health"),
        "readiness": lambda: expect(service, "GET", "/v1/health/ready"),
        "sign-in": lambda: sign_in(service, mailbox),
    }
    return {name: median(seconds(ask) for _ in range(10)) for name, ask in asks.items()}


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_provider_that_is_not_there_makes_nothing_else_slower(
    serve: ServiceFactory, mailbox: Mailbox, kind: str
) -> None:
    with PROVIDERS[kind]() as port:
        url = {"LLM_PROVIDER_KEY": API_KEY, "LLM_PROVIDER_URL": f"http://127.0.0.1:{port}"}
        began = monotonic()
        without = serve(workers=1)
        started = monotonic()
        service = serve(workers=1, **url, LLM_IDLE_TIMEOUT="5s")
        assert monotonic() - started < 2 * (started - began) + 1

        usual, alone = times(without, mailbox), times(service, mailbox)
        users = [sign_in(service, mailbox, f"user-{number}@example.com") for number in range(6)]
        with ThreadPoolExecutor(12) as threads:
            calls = [threads.submit(ask_model, service, cookie) for cookie in users * 2]  # more than the 8 threads
            beside = times(service, mailbox)
            assert any(call.running() for call in calls) or kind == "away"

        assert {call.result() for call in calls} == {502 if kind == "away" else 504}
        # To wait for the provider would be 5 s.
        for name, took in usual.items():
            assert max(alone[name], beside[name]) < 5 * took + 0.1, name


def test_nobody_connects_to_the_provider_before_a_call(serve: ServiceFactory, mailbox: Mailbox) -> None:
    with RawServer(silent) as provider:
        url = f"http://127.0.0.1:{provider.port}"
        service = serve(workers=1, LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=url, LLM_IDLE_TIMEOUT="1s")
        times(service, mailbox)
        cookie = sign_in(service, mailbox)
        assert service.call("GET", USAGE, headers={"Cookie": cookie}).status == 200
        assert provider.connections == 0

        assert ask_model(service, cookie) == 504
        assert provider.connections == 1
