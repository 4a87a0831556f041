"""The house rules for answers: every route has its guard, and every error its facts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest
from flask import Flask

from lumen_api.errors import ApiError

# --- Routes. ---

# Whoever calls. Every other route is for a caller who is signed in.
PUBLIC = {
    "GET /v1/health",
    "GET /v1/health/ready",
    "GET /v1/openapi.json",
    "POST /v1/auth/request-link",
    "POST /v1/auth/verify",
    "POST /v1/auth/logout",
}


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield method, rule.rule


def test_every_route_but_the_public_ones_asks_who_calls(app: Flask) -> None:
    guarded = [(method, path) for method, path in routes(app) if f"{method} {path}" not in PUBLIC]
    answers = {(method, path): app.test_client().open(path, method=method) for method, path in guarded}

    assert len(guarded) >= 9
    assert {route for route, answer in answers.items() if answer.status_code != 401} == set()
    assert {answer.get_json()["error"]["code"] for answer in answers.values()} == {"unauthorized"}


def test_a_forged_cookie_opens_no_guarded_route(app: Flask) -> None:
    client = app.test_client()
    client.set_cookie("__Host-lumen_session", "a" * 43 + "." + "b" * 43, secure=True)

    guarded = [(method, path) for method, path in routes(app) if f"{method} {path}" not in PUBLIC]

    assert {client.open(path, method=method).status_code for method, path in guarded} == {401}


# --- Errors. ---


def errors(base: type[ApiError] = ApiError) -> Iterator[type[ApiError]]:
    """Every error that the service can answer with: conftest.py has imported all of it."""
    for error in base.__subclasses__():
        if error.__module__.startswith("lumen_api."):
            yield error
        yield from errors(error)


def test_every_error_has_a_code_of_its_own_or_is_a_kind_of_the_one_that_has_it() -> None:
    codes = [error.code for error in errors() if "code" in vars(error)]

    assert len(codes) > 20
    assert len(codes) == len(set(codes))
    assert [error for error in errors() if ("code" in vars(error)) != ("status" in vars(error))] == []


@pytest.mark.parametrize("error", [pytest.param(error, id=error.__name__) for error in errors()])
def test_an_error_is_three_facts(error: type[ApiError]) -> None:
    assert 400 <= error.status <= 504
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert re.fullmatch(r"[A-Z].*[.:-]", error.message)


@pytest.mark.parametrize("error", [pytest.param(error, id=error.__name__) for error in errors()])
def test_an_error_says_when_to_try_again_where_that_helps(error: type[ApiError]) -> None:
    says = error.retry_after is not None or "retry_after" in inspect.signature(error).parameters

    # Flask-Limiter puts the header on its own 429.
    assert says or error.status != 503
    assert not says or error.status in (429, 503)
