"""Every setting of the service, once: its variable, type, unit, default and one line of documentation.

`Config.from_env()` reads them all and reports every problem at once, by variable; the model proxy's are listed in
`lumen_api/llm/settings.py`, OpenTelemetry's in `lumen_api/observability/settings.py`. What a setting means for the
environment (`APP_ENV`) is decided here and nowhere else: the rest of the code never asks for its name. The README's
table and `.env.example` are rendered from `Config` by `scripts/config_docs.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from inspect import get_annotations
from pathlib import Path
from typing import Any

import click

from lumen_api import settings as kind
from lumen_api.llm.settings import LlmSettings
from lumen_api.observability.settings import TelemetrySettings
from lumen_api.settings import Setting, variable

# One gunicorn worker answers this many requests at once, beside health and its calls of the model. The pool of database
# connections and the number of mails in flight are derived from it, so it is one number and not three.
WORKER_THREADS = 8

DEVELOPMENT_SECRET = "for-development-only-and-refused-in-production"
MINIMUM_SECRET_LENGTH = 32


class ConfigError(click.ClickException):
    """The environment cannot be served from. Its message shows what was read and lists every problem."""

    def __init__(self, problems: list[tuple[str, str]], config: Config) -> None:
        self.problems = problems
        self.app_env = config.app_env or "production"
        width = max(len(name) for name, _ in problems)
        lines = [f"  {name:<{width}}  {problem}" for name, problem in problems]
        heading = f"the configuration has {len(problems)} problem(s):"
        super().__init__("\n".join([heading, *lines, "", render(config.shown())]))


@dataclass(frozen=True, kw_only=True)
class Config(LlmSettings, TelemetrySettings):
    """The settings of one process, read once at its start and never changed."""

    app_env: str = variable(
        "APP_ENV",
        kind.choice("production", "test", "development"),
        "production",
        "What the process is for. A forgotten variable is safe: it means production.",
    )
    port: int = variable("PORT", kind.integer(1, 65535), "8080", "TCP port to listen on.")
    web_origins: tuple[str, ...] = variable(
        "WEB_ORIGINS",
        kind.origins,
        "http://localhost:3000",
        "Origins of the web app, comma-separated: only these may call from a browser. `WEB_ORIGIN` works too.",
        alias="WEB_ORIGIN",
    )
    app_url: str | None = variable(
        "APP_URL",
        kind.web_url,
        None,
        "Where magic links lead (`/login/callback` is added). Default: the first of `WEB_ORIGINS`; "
        "in development this server.",
    )
    database_url: str | None = variable(
        "DATABASE_URL",
        kind.postgres_url,
        None,
        "PostgreSQL 15 or newer. In development a real PostgreSQL is started under `.lumen/` without it.",
        show=kind.url_without_credentials,
    )
    database_pool_size: int = variable(
        "DATABASE_POOL_SIZE",
        kind.integer(1, 1000),
        str(WORKER_THREADS),
        "Connections that one worker process opens at most.",
    )
    redis_url: str | None = variable(
        "REDIS_URL",
        kind.redis_url,
        None,
        "Redis or Valkey, where all workers count requests together. Without it each worker counts in its own memory.",
        show=kind.url_without_credentials,
    )
    auth_token_secrets: tuple[str, ...] = variable(
        "AUTH_TOKEN_SECRETS",
        kind.secrets,
        DEVELOPMENT_SECRET,
        f"Secrets of at least {MINIMUM_SECRET_LENGTH} characters, comma-separated: the first signs, all verify. "
        "`AUTH_TOKEN_SECRET` works too.",
        alias="AUTH_TOKEN_SECRET",
        show=kind.masked,
    )
    auth_token_ttl: timedelta = variable("AUTH_TOKEN_TTL", kind.duration, "10m", "How long a magic link works.")
    session_ttl: timedelta = variable(
        "SESSION_TTL", kind.duration, "12h", "How long a sign-in lasts, counted from its beginning."
    )
    auth_cookie_name: str | None = variable(
        "AUTH_COOKIE_NAME",
        kind.cookie_name,
        None,
        "Name of the session cookie. Default: `__Host-lumen_session`; in development `lumen_session`.",
    )
    trusted_proxy_hops: int | None = variable(
        "TRUSTED_PROXY_HOPS",
        kind.integer(0, 10),
        None,
        "Proxies in front: the client's address is the n-th from the right in `X-Forwarded-For`. 0: it is the peer's.",
    )
    rate_limit_link_per_ip: str = variable(
        "RATE_LIMIT_LINK_PER_IP",
        kind.rate_limit,
        "5/minute;20/hour",
        "Requests for a link, per IP address (IPv6: per /64).",
    )
    rate_limit_link_per_email: str = variable(
        "RATE_LIMIT_LINK_PER_EMAIL", kind.rate_limit, "5/minute;20/hour", "Requests for a link, per email address."
    )
    rate_limit_verify_per_ip: str = variable(
        "RATE_LIMIT_VERIFY_PER_IP", kind.rate_limit, "30/minute;200/hour", "Attempts to sign in, per IP address."
    )
    rate_limit_per_user: str = variable(
        "RATE_LIMIT_PER_USER", kind.rate_limit, "120/minute", "Requests to signed-in routes, per user."
    )
    rate_limit_llm_per_user: str = variable(
        "RATE_LIMIT_LLM_PER_USER", kind.rate_limit, "20/minute", "Calls of the model, per user."
    )
    email_from: str = variable(
        "EMAIL_FROM",
        kind.email_from,
        "Lumen <lumen@example.com>",
        "Sender of the mails. `RESEND_FROM_EMAIL` works too.",
        alias="RESEND_FROM_EMAIL",
    )
    resend_api_key: str | None = variable(
        "RESEND_API_KEY", kind.api_key, None, "Sends mail through Resend's HTTP API.", show=kind.masked
    )
    smtp_url: str | None = variable(
        "SMTP_URL",
        kind.smtp_url,
        None,
        "Sends mail through SMTP: `smtps://user:password@host:465` (TLS) or `smtp://user:password@host:587` (STARTTLS; "
        "a loopback host may do without).",
        show=kind.url_without_credentials,
    )
    api_docs: bool | None = variable(
        "API_DOCS", kind.boolean, None, "`1`: the API's documentation is at `/docs`. Default: only in development."
    )
    log_level: str = variable("LOG_LEVEL", kind.log_level, "INFO", "Least severe level that is logged.")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Config:
        """The configuration in `env` (default: the process's), or ConfigError with every problem in it."""
        env = os.environ if env is None else env
        values: dict[str, Any] = {}
        problems: list[tuple[str, str]] = []
        for name, setting in cls.settings().items():
            try:
                values[name] = setting.read(env)
            except ValueError as error:
                values[name] = None
                problems.append((setting.name, str(error)))
        config = cls(**values)
        unreadable = {name for name, _ in problems}
        problems += [problem for problem in config._problems(env) if problem[0] not in unreadable]
        if problems:
            raise ConfigError(problems, config)
        return config

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Each field's setting, by the field's name: our own first, which a dataclass puts after those of its bases."""
        found = {f.name: f.metadata["setting"] for f in fields(cls)}
        return {name: found[name] for part in cls.__mro__ for name in get_annotations(part)}

    def shown(self) -> list[tuple[str, str]]:
        """Every variable with the value in force, secrets masked."""
        effective = {"app_url": self.link_base, "auth_cookie_name": self.session_cookie_name}
        values = {**vars(self), **effective, "api_docs": self.docs_shown}
        return [
            (setting.name, "(not set)" if values[name] is None else setting.show(values[name]))
            for name, setting in self.settings().items()
        ]

    # --- What follows from the settings. ---

    @property
    def development(self) -> bool:
        """True on a developer's own machine: plain http, the link in the answer, an embedded PostgreSQL."""
        return self.app_env == "development"

    @property
    def host(self) -> str:
        """The address to listen on: only production serves other machines."""
        return "0.0.0.0" if self.app_env == "production" else "127.0.0.1"

    @property
    def link_base(self) -> str:
        """What comes before `/login/callback` in a magic link."""
        fallback = f"http://localhost:{self.port}" if self.development else next(iter(self.web_origins or ()), "")
        return self.app_url or fallback

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins that may change state or read an answer from a browser."""
        own = {f"http://localhost:{self.port}", f"http://127.0.0.1:{self.port}"} if self.development else set()
        return frozenset({*self.web_origins, kind.origin_of(self.link_base), *own})

    @property
    def session_cookie_name(self) -> str:
        # The prefix makes browsers refuse the cookie unless it is Secure, host-only and for the whole site
        # (RFC 6265bis, section 4.1.3.2); they would refuse it on plain http too, hence the other name.
        return self.auth_cookie_name or ("lumen_session" if self.development else "__Host-lumen_session")

    @property
    def docs_shown(self) -> bool:
        """Whether `/docs` is there."""
        return self.development if self.api_docs is None else self.api_docs

    @property
    def rate_limits(self) -> dict[str, str]:
        """The limits by the name of their rule."""
        return {
            "link_per_ip": self.rate_limit_link_per_ip,
            "link_per_email": self.rate_limit_link_per_email,
            "verify_per_ip": self.rate_limit_verify_per_ip,
            "per_user": self.rate_limit_per_user,
            "llm_per_user": self.rate_limit_llm_per_user,
        }

    @property
    def llm_served(self) -> bool:
        """Whether anybody answers calls of the model: the provider, or in development the built-in echo."""
        return self.development or self.llm_provider_key is not None

    @property
    def embedded_postgres(self) -> Path | None:
        """Where a PostgreSQL of our own lives, when none is configured; only ever in development."""
        return Path(__file__).parent / ".lumen" if self.development and not self.database_url else None

    def _problems(self, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        if self.development and (self.auth_cookie_name or "").startswith(("__Host-", "__Secure-")):
            yield "AUTH_COOKIE_NAME", "promises a Secure cookie, which browsers drop on plain http"
        if self.resend_api_key and self.smtp_url:
            yield "SMTP_URL", "is set beside RESEND_API_KEY: choose one mail provider"
        yield from self._llm_problems()
        yield from self._telemetry_problems(env)
        if not self.development:
            yield from self._missing_parts(env)
        if self.app_env in ("production", None):
            yield from self._unsafe_in_production()
            yield from self._not_https()

    def _missing_parts(self, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        if not self.database_url:
            yield "DATABASE_URL", "is not set"
        if not self.resend_api_key and not self.smtp_url:
            yield "SMTP_URL", "is not set, nor is RESEND_API_KEY: outside development a real mail provider is needed"
        if not env.get("EMAIL_FROM", "").strip() and not env.get("RESEND_FROM_EMAIL", "").strip():
            yield "EMAIL_FROM", "is not set"

    def _unsafe_in_production(self) -> Iterator[tuple[str, str]]:
        if not self.redis_url:
            yield "REDIS_URL", "is not set: limits would be counted by each worker alone"
        for secret in self.auth_token_secrets or ():
            if secret == DEVELOPMENT_SECRET:
                yield "AUTH_TOKEN_SECRETS", "is not set, or holds the development secret"
            elif len(secret) < MINIMUM_SECRET_LENGTH:
                yield "AUTH_TOKEN_SECRETS", f"holds a secret shorter than {MINIMUM_SECRET_LENGTH} characters"
        if self.trusted_proxy_hops is None:
            yield "TRUSTED_PROXY_HOPS", "is not set: say how many proxies are in front (0 for none)"
        if not self.session_cookie_name.startswith("__Host-"):
            yield "AUTH_COOKIE_NAME", "must begin with __Host- in production"

    def _not_https(self) -> Iterator[tuple[str, str]]:
        provider = self.llm_provider_url if self.llm_provider_key else None
        urls = {"WEB_ORIGINS": self.web_origins or (), "APP_URL": (self.app_url,), "LLM_PROVIDER_URL": (provider,)}
        for name, several in urls.items():
            if any(url and not url.startswith("https://") for url in several):
                yield name, "must be https:// in production"


def render(settings: list[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in settings)
    return "\n".join(["the configuration in force:", *(f"  {name:<{width}}  {value}" for name, value in settings)])
