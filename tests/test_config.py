"""The configuration: what is refused, by variable and all at once, and what each text means."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest

from config import DEVELOPMENT_SECRET, Config, ConfigError
from tests.support import ROOT

SECRET = "a secret of the tests that is long enough for production"

TEST = {
    "APP_ENV": "test",
    "DATABASE_URL": "postgresql://lumen@localhost/lumen",
    "SMTP_URL": "smtps://mail.example.com",
    "EMAIL_FROM": "lumen@example.com",
}
PRODUCTION = {
    **TEST,
    "APP_ENV": "production",
    "REDIS_URL": "rediss://redis.example.com",
    "AUTH_TOKEN_SECRETS": SECRET,
    "WEB_ORIGINS": "https://app.example.com",
    "TRUSTED_PROXY_HOPS": "1",
}
DEVELOPMENT = {"APP_ENV": "development"}


def problems(env: Mapping[str, str]) -> list[str]:
    """The variables that are complained of."""
    try:
        Config.from_env(env)
    except ConfigError as error:
        return [name for name, _ in error.problems]
    return []


# --- What production refuses. ---


def test_an_empty_environment_is_production_and_lists_everything_at_once() -> None:
    assert sorted(problems({})) == [
        *("AUTH_TOKEN_SECRETS", "DATABASE_URL", "EMAIL_FROM", "REDIS_URL"),
        *("SMTP_URL", "TRUSTED_PROXY_HOPS", "WEB_ORIGINS"),
    ]


def test_a_complete_production_has_no_problem() -> None:
    assert problems(PRODUCTION) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("REDIS_URL", ""),
        ("SMTP_URL", ""),
        ("EMAIL_FROM", " "),
        ("TRUSTED_PROXY_HOPS", ""),
        ("AUTH_TOKEN_SECRETS", ""),
        ("AUTH_TOKEN_SECRETS", DEVELOPMENT_SECRET),
        ("AUTH_TOKEN_SECRETS", "x" * 31),
        ("AUTH_TOKEN_SECRETS", f"{SECRET},{'x' * 31}"),
        ("AUTH_TOKEN_SECRETS", f"{SECRET},{DEVELOPMENT_SECRET}"),
        ("WEB_ORIGINS", ""),
        ("WEB_ORIGINS", "*"),
        ("WEB_ORIGINS", "http://app.example.com"),
        ("WEB_ORIGINS", "https://app.example.com,http://localhost:3000"),
        ("APP_URL", "http://app.example.com"),
        ("AUTH_COOKIE_NAME", "lumen_session"),
        ("AUTH_COOKIE_NAME", "__Secure-lumen_session"),
        ("AUTH_COOKIE_NAME", "__host-lumen_session"),
    ],
)
def test_one_unsafe_thing_in_production_is_the_only_one_listed(name: str, value: str) -> None:
    assert problems({**PRODUCTION, name: value}) == [name]


@pytest.mark.parametrize("name", ["AUTH_TOKEN_SECRET", "WEB_ORIGIN", "RESEND_FROM_EMAIL"])
def test_a_problem_under_another_name_is_listed_under_the_first(name: str) -> None:
    first = {"AUTH_TOKEN_SECRET": "AUTH_TOKEN_SECRETS", "WEB_ORIGIN": "WEB_ORIGINS", "RESEND_FROM_EMAIL": "EMAIL_FROM"}
    assert problems({**PRODUCTION, first[name]: "", name: "short"}) == [first[name]]


def test_two_mail_providers_are_one_too_many() -> None:
    assert problems({**PRODUCTION, "RESEND_API_KEY": "re_key"}) == ["SMTP_URL"]


def test_resend_alone_is_a_mail_provider() -> None:
    assert problems({**PRODUCTION, "SMTP_URL": "", "RESEND_API_KEY": "re_key"}) == []


@pytest.mark.parametrize("name", ["DATABASE_URL", "SMTP_URL", "EMAIL_FROM"])
def test_the_test_environment_needs_real_parts_too(name: str) -> None:
    assert problems({**TEST, name: ""}) == [name]


def test_development_needs_nothing() -> None:
    config = Config.from_env(DEVELOPMENT)

    assert config.embedded_postgres == ROOT / ".lumen"
    assert config.link_base == "http://localhost:8080"
    assert config.session_cookie_name == "lumen_session"


# --- What is refused everywhere. ---


@pytest.mark.parametrize("value", ["prod", "Production", "DEVELOPMENT", "staging", "development,test"])
def test_an_unknown_environment_is_refused_and_not_guessed(value: str) -> None:
    assert problems({**PRODUCTION, "APP_ENV": value}) == ["APP_ENV"]
    # And held to what production is held to, so that all problems are there at once.
    assert set(problems({"APP_ENV": value})) == {"APP_ENV", *problems({})}


# --- What the texts mean. ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("24h", 86400),
        ("1d", 86400),
        ("900", 900),
        ("1", 1),
        (" 10m ", 600),
        ("366d", 31622400),
    ],
)
def test_a_duration_has_a_unit_or_is_seconds(text: str, seconds: int) -> None:
    config = Config.from_env({**DEVELOPMENT, "AUTH_TOKEN_TTL": text, "SESSION_TTL": text})

    assert config.auth_token_ttl == config.session_ttl == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://app.example.com", ("https://app.example.com",)),
        ("HTTPS://App.Example.com:443/", ("https://app.example.com",)),
        ("http://localhost:80, http://localhost:3000", ("http://localhost", "http://localhost:3000")),
        ("http://[::1]:3000/", ("http://[::1]:3000",)),
    ],
)
def test_an_origin_has_the_form_in_which_browsers_send_it(text: str, origins: tuple[str, ...]) -> None:
    assert Config.from_env({**DEVELOPMENT, "WEB_ORIGINS": text}).web_origins == origins


def test_links_lead_to_the_first_origin_or_where_app_url_says() -> None:
    env = {**PRODUCTION, "WEB_ORIGINS": "https://a.example,https://b.example"}

    assert Config.from_env(env).link_base == "https://a.example"
    assert Config.from_env({**env, "APP_URL": "https://c.example/app/"}).link_base == "https://c.example/app"


def test_the_allowed_origins_are_the_configured_ones_alone() -> None:
    env = {**PRODUCTION, "WEB_ORIGINS": "https://a.example,https://b.example", "APP_URL": "https://c.example/app"}

    assert Config.from_env(env).allowed_origins == {"https://a.example", "https://b.example", "https://c.example"}


def test_in_development_the_service_is_an_allowed_origin_itself() -> None:
    origins = Config.from_env({**DEVELOPMENT, "PORT": "9000"}).allowed_origins

    assert origins == {"http://localhost:3000", "http://localhost:9000", "http://127.0.0.1:9000"}


@pytest.mark.parametrize(
    ("alias", "name", "value", "field"),
    [
        ("WEB_ORIGIN", "WEB_ORIGINS", "https://a.example", "web_origins"),
        ("AUTH_TOKEN_SECRET", "AUTH_TOKEN_SECRETS", "x" * 40, "auth_token_secrets"),
        ("RESEND_FROM_EMAIL", "EMAIL_FROM", "post@example.org", "email_from"),
    ],
)
def test_the_other_name_of_a_variable_works_and_gives_way(alias: str, name: str, value: str, field: str) -> None:
    without = {key: text for key, text in PRODUCTION.items() if key != name}
    meant = getattr(Config.from_env({**PRODUCTION, name: value}), field)

    assert getattr(Config.from_env({**without, alias: value}), field) == meant
    assert getattr(Config.from_env({**without, alias: value, name: ""}), field) == meant
    assert getattr(Config.from_env({**PRODUCTION, alias: value}), field) != meant


def test_the_defaults_are_those_of_the_contract() -> None:
    config = Config.from_env(PRODUCTION)

    assert config.port == 8080
    assert (config.auth_token_ttl, config.session_ttl) == (timedelta(minutes=10), timedelta(hours=12))
    assert config.session_cookie_name == "__Host-lumen_session"
    assert config.rate_limits == {
        "link_per_ip": "5/minute;20/hour",
        "link_per_email": "5/minute;20/hour",
        "verify_per_ip": "30/minute;200/hour",
        "per_user": "120/minute",
        "llm_per_user": "20/minute",
    }
    assert Config.from_env(DEVELOPMENT).web_origins == ("http://localhost:3000",)


# --- One place. ---


def test_the_variables_are_listed_with_the_services_own_first() -> None:
    names = [setting.name for setting in Config.settings().values()]

    assert names[0] == "APP_ENV"
    assert len(names) == len(set(names))
    prefixes = (re.match("LLM_|OTEL_|", name) for name in names)
    assert [prefix for prefix, _ in groupby(match[0] for match in prefixes if match)] == ["", "LLM_", "OTEL_"]


def test_nothing_but_config_reads_the_environment() -> None:
    sources = [ROOT / "app.py", ROOT / "wsgi.py", ROOT / "gunicorn.conf.py", *(ROOT / "lumen_api").rglob("*.py")]
    assert len(sources) > 20

    assert {source.name for source in sources if reads_environment(source)} == set()
    assert reads_environment(ROOT / "config.py")


def reads_environment(source: Path) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in names and not ast.unparse(node.value).endswith("request"):
            return True  # (a request's environ is WSGI's)
        if isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names}:
            return True
    return False
