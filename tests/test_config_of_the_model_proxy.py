"""The model proxy's variables: what is refused, what is meant, and what a worker needs for it."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest

from config import Config
from tests.support import ROOT
from tests.test_config import DEVELOPMENT, PRODUCTION, TEST, problems

KEY = {"LLM_PROVIDER_KEY": "sk-ant-a-key-of-the-tests"}
PLAIN_HTTP = {"LLM_PROVIDER_URL": "http://127.0.0.1:9000"}


# --- What is refused. ---


def test_production_without_a_key_is_a_complete_configuration_in_which_nobody_answers() -> None:
    assert problems(PRODUCTION) == []
    assert not Config.from_env(PRODUCTION).llm_served


def test_production_sends_no_key_over_plain_http() -> None:
    assert problems({**PRODUCTION, **KEY, **PLAIN_HTTP}) == ["LLM_PROVIDER_URL"]
    assert problems({**PRODUCTION, **KEY, "LLM_PROVIDER_URL": "HTTPS://Proxy.example.com/anthropic/"}) == []


def test_an_unknown_environment_is_held_to_https_too() -> None:
    assert "LLM_PROVIDER_URL" in problems({**KEY, **PLAIN_HTTP, "APP_ENV": "staging"})


@pytest.mark.parametrize("env", [TEST, DEVELOPMENT], ids=lambda env: env["APP_ENV"])
def test_a_fake_provider_may_be_had_over_plain_http_outside_production(env: dict[str, str]) -> None:
    assert problems({**env, **KEY, **PLAIN_HTTP}) == []


def test_where_no_key_is_sent_plain_http_is_no_problem() -> None:
    assert problems({**PRODUCTION, **PLAIN_HTTP}) == []


@pytest.mark.parametrize("name", ["LLM_DAILY_TOKENS", "LLM_TOTAL_DAILY_TOKENS"])
def test_a_budget_that_the_largest_call_would_never_fit_is_refused(name: str) -> None:
    limits = {**PRODUCTION, "LLM_MAX_OUTPUT_TOKENS": "1000"}

    assert problems({**limits, name: "999"}) == [name]
    assert problems({**limits, name: "1000"}) == [name]  # its input counts as well
    assert problems({**limits, name: "1001"}) == []


def test_a_largest_call_above_both_budgets_is_complained_of_once_for_each() -> None:
    found = problems({**PRODUCTION, "LLM_MAX_OUTPUT_TOKENS": "1000000", "LLM_TOTAL_DAILY_TOKENS": "1000000"})

    assert found == ["LLM_DAILY_TOKENS", "LLM_TOTAL_DAILY_TOKENS"]


# --- What the texts mean. ---


def test_the_defaults_are_those_of_the_contract() -> None:
    config = Config.from_env(PRODUCTION)

    assert config.llm_provider_url == "https://api.anthropic.com"
    assert config.llm_models == ("claude-sonnet-5-5", "claude-haiku-5-5")
    assert (config.llm_max_output_tokens, config.llm_daily_tokens) == (4096, 200_000)
    assert config.llm_total_daily_tokens == 10_000_000
    assert (config.llm_idle_timeout, config.llm_total_timeout) == (timedelta(seconds=60), timedelta(minutes=10))


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("claude-sonnet-5-5", ("claude-sonnet-5-5",)),
        (" b , a ", ("b", "a")),
        (
            "eu.anthropic.claude:0,claude@20250929,org/model_1",
            ("eu.anthropic.claude:0", "claude@20250929", "org/model_1"),
        ),
        ("a" * 128, ("a" * 128,)),
    ],
)
def test_models_are_names_with_commas_between_them(text: str, models: tuple[str, ...]) -> None:
    assert Config.from_env({**PRODUCTION, "LLM_MODELS": text}).llm_models == models


# --- What a worker needs. ---


@pytest.mark.parametrize(
    ("env", "served"),
    [(PRODUCTION, False), ({**PRODUCTION, **KEY}, True), (TEST, False), ({**TEST, **KEY}, True), (DEVELOPMENT, True)],
)
def test_a_worker_has_threads_for_calls_where_somebody_answers_them(env: dict[str, str], served: bool) -> None:
    config = Config.from_env({**env, "LLM_CALLS_PER_WORKER": "100"})

    assert config.llm_served == served


def test_an_empty_key_is_no_key() -> None:
    assert not Config.from_env({**PRODUCTION, "LLM_PROVIDER_KEY": " "}).llm_served


@pytest.mark.parametrize(("env", "threads"), [({}, 0), (KEY, 256 + 8), ({**KEY, "LLM_CALLS_PER_WORKER": "1"}, 9)])
def test_gunicorn_gives_calls_threads_of_their_own(env: dict[str, str], threads: int) -> None:
    code = """import runpy
lane = runpy.run_path("gunicorn.conf.py")["Worker"].sizes.get(b"/v1/llm")
print(lane.threads if lane else 0)"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**PRODUCTION, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.stdout.strip() == str(threads), run.stderr
