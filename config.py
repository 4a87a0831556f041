"""Every setting of the service, once: its variable, type, unit, default and one line of documentation.

`Config.from_env()` reads them all and reports every problem at once, by variable. What a setting means for
the environment (`APP_ENV`) is decided here and nowhere else: the rest of the code never asks for its name.
The README's table and `.env.example` are rendered from this file by `scripts/config_docs.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from email.headerregistry import Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click
import limits
import psycopg2
from email_validator import EmailNotValidError, validate_email
from psycopg2.extensions import parse_dsn

# One gunicorn worker answers this many requests at once. The pool of database connections and the number of
# mails in flight are derived from it, so it is one number and not three.
WORKER_THREADS = 8

DEVELOPMENT_SECRET = "for-development-only-and-refused-in-production"
MINIMUM_SECRET_LENGTH = 32


class ConfigError(click.ClickException):
    """The environment cannot be served from. Its message shows what was read and lists every problem."""

    def __init__(self, problems: list[tuple[str, str]], settings: list[tuple[str, str]]) -> None:
        self.problems = problems
        width = max(len(name) for name, _ in problems)
        lines = [f"  {name:<{width}}  {problem}" for name, problem in problems]
        super().__init__(
            "\n".join([render(settings), "", f"the configuration has {len(problems)} problem(s):", *lines])
        )


# --- How a variable's text becomes a value. The docstring names the type and unit for the README's table; a
# ValueError goes on from the variable's name.


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    parse.__doc__ = f"one of {', '.join(allowed)}"
    return parse


def log_level(text: str) -> str:
    """one of DEBUG, INFO, WARNING, ERROR, CRITICAL"""
    return choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")(text.upper())


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return int(text)

    parse.__doc__ = f"integer, {minimum} to {maximum}"
    return parse


def duration(text: str) -> timedelta:
    """duration: `90s`, `15m`, `24h` or seconds"""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0
    if not 1 <= seconds <= 366 * 86400:
        raise ValueError("must be a duration of at least a second and at most a year, like 90s, 15m, 24h or 900")
    return timedelta(seconds=seconds)


def web_url(text: str) -> str:
    """URL, http or https"""
    # In the form in which a browser sends an origin: lower case, no default port, no slash at the end.
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname or not text.isascii() or re.search(r"[\s\\*]", text):
        raise ValueError("must be an http:// or https:// URL")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ValueError("must not hold a user, a query or a fragment")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    default_port = {"http": 80, "https": 443}[url.scheme]
    netloc = host if port in (None, default_port) else f"{host}:{port}"
    return urlunsplit((url.scheme, netloc, url.path.rstrip("/"), "", ""))


def origin_of(url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))


def origins(text: str) -> tuple[str, ...]:
    """origins, comma-separated"""
    urls = tuple(web_url(part) for part in _listed(text))
    if any(urlsplit(url).path for url in urls):
        raise ValueError("must be origins (scheme, host, port), without a path")
    return urls


def secrets(text: str) -> tuple[str, ...]:
    """secrets, comma-separated"""
    return tuple(_listed(text))


def _listed(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError("has an empty entry between its commas")
    return parts


def postgres_url(text: str) -> str:
    """URL, postgresql"""
    # libpq reads it, and not _url(): it may name several hosts.
    try:
        if not text.startswith(("postgresql://", "postgres://")):
            raise ValueError
        parts = parse_dsn(text)
        ports = parts.get("port", "").split(",")
        if len(ports) not in (1, len(parts.get("host", "").split(","))):
            raise ValueError
        for port in filter(None, ports):
            integer(1, 65535)(port)
    except (ValueError, psycopg2.Error):
        raise ValueError("must be a URL like postgresql://user:password@host:5432/database") from None
    return text


def _url(text: str, schemes: tuple[str, ...]) -> str:
    try:
        url = urlsplit(text)
        url.port  # noqa: B018  (a property that raises on an impossible port)
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in schemes or not (url.hostname or url.scheme.endswith("unix")):
        raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return text


def redis_url(text: str) -> str:
    """URL, redis or rediss (TLS)"""
    # Valkey speaks Redis's protocol, and the redis client is the one that we install.
    spoken = re.sub(r"^valkey(s?)://", r"redis\1://", text)
    return _url(spoken, ("redis", "rediss", "redis+unix"))


def smtp_url(text: str) -> str:
    """URL, smtp or smtps (TLS)"""
    return _url(text, ("smtp", "smtps"))


def rate_limit(text: str) -> str:
    """limits, like `5/minute;20/hour`"""
    try:
        # One by one: parse_many() skips over what it cannot read between two limits that it can.
        for part in text.split(";"):
            if limits.parse(part).amount < 1:
                raise ValueError
    except ValueError:
        raise ValueError("must be limits like 5/minute;20/hour") from None
    return text


def email_from(text: str) -> str:
    """address, with a name or without"""
    try:
        valid = validate_email(text, allow_display_name=True, allow_smtputf8=False, check_deliverability=False)
    except EmailNotValidError:
        raise ValueError("must be an address, like lumen@example.com or Lumen <lumen@example.com>") from None
    # Beyond ASCII a domain could not be sent to every server; the name is encoded in the mail.
    return str(Address(valid.display_name or "", addr_spec=valid.ascii_email or ""))


def cookie_name(text: str) -> str:
    """cookie name"""
    # RFC 6265, section 4.1.1: a cookie's name is an HTTP token.
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", text):
        raise ValueError("must be a cookie name (RFC 6265)")
    return text


def api_key(text: str) -> str:
    """API key"""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be printable ASCII without spaces")
    return text


# --- How a value is shown by `flask check-config`. ---


def masked(_: Any) -> str:
    return "****"


def url_without_credentials(value: str) -> str:
    # The user too: with some mail providers it is the key.
    return re.sub(r"(password=)[^&]+", r"\1****", re.sub(r"://.*@", "://****@", value))


def plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{int(value.total_seconds())}s" if isinstance(value, timedelta) else str(value)


@dataclass(frozen=True)
class Setting:
    """What is known of one variable. `default` is text, read as the environment's would be; None: not set."""

    name: str
    parse: Callable[[str], Any]
    default: str | None
    doc: str
    alias: str | None = None
    show: Callable[[Any], str] = plain

    @property
    def type(self) -> str:
        """What the variable holds, with its unit."""
        return self.parse.__doc__ or ""

    def read(self, env: Mapping[str, str]) -> Any:
        given = (env.get(name, "").strip() for name in (self.name, self.alias) if name)
        value = next((value for value in given if value), self.default)
        return None if value is None else self.parse(value)


def _setting(*args: Any, **kwargs: Any) -> Any:
    setting = Setting(*args, **kwargs)
    return field(repr=setting.show is plain, metadata={"setting": setting})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one process, read once at its start and never changed."""

    app_env: str = _setting(
        "APP_ENV",
        choice("production", "test", "development"),
        "production",
        "What the process is for. A forgotten variable is safe: it means production.",
    )
    port: int = _setting("PORT", integer(1, 65535), "8080", "TCP port to listen on.")
    web_origins: tuple[str, ...] = _setting(
        "WEB_ORIGINS",
        origins,
        "http://localhost:3000",
        "Origins of the web app, comma-separated: only these may call from a browser. `WEB_ORIGIN` works too.",
        alias="WEB_ORIGIN",
    )
    app_url: str | None = _setting(
        "APP_URL",
        web_url,
        None,
        "Where magic links lead (`/login/callback` is added). Default: the first of `WEB_ORIGINS`; "
        "in development this server.",
    )
    database_url: str | None = _setting(
        "DATABASE_URL",
        postgres_url,
        None,
        "PostgreSQL 15 or newer. In development a real PostgreSQL is started under `.lumen/` without it.",
        show=url_without_credentials,
    )
    database_pool_size: int = _setting(
        "DATABASE_POOL_SIZE",
        integer(1, 1000),
        str(WORKER_THREADS),
        "Connections that one worker process opens at most.",
    )
    redis_url: str | None = _setting(
        "REDIS_URL",
        redis_url,
        None,
        "Redis or Valkey, where all workers count requests together. Without it each worker counts in its own memory.",
        show=url_without_credentials,
    )
    auth_token_secrets: tuple[str, ...] = _setting(
        "AUTH_TOKEN_SECRETS",
        secrets,
        DEVELOPMENT_SECRET,
        f"Secrets of at least {MINIMUM_SECRET_LENGTH} characters, comma-separated: the first signs, all verify. "
        "`AUTH_TOKEN_SECRET` works too.",
        alias="AUTH_TOKEN_SECRET",
        show=masked,
    )
    auth_token_ttl: timedelta = _setting("AUTH_TOKEN_TTL", duration, "10m", "How long a magic link works.")
    session_ttl: timedelta = _setting(
        "SESSION_TTL", duration, "12h", "How long a sign-in lasts, counted from its beginning."
    )
    auth_cookie_name: str | None = _setting(
        "AUTH_COOKIE_NAME",
        cookie_name,
        None,
        "Name of the session cookie. Default: `__Host-lumen_session`; in development `lumen_session`.",
    )
    trusted_proxy_hops: int | None = _setting(
        "TRUSTED_PROXY_HOPS",
        integer(0, 10),
        None,
        "Proxies in front: the client's address is the n-th from the right in `X-Forwarded-For`. 0: it is the peer's.",
    )
    rate_limit_link_per_ip: str = _setting(
        "RATE_LIMIT_LINK_PER_IP", rate_limit, "5/minute;20/hour", "Requests for a link, per IP address (IPv6: per /64)."
    )
    rate_limit_link_per_email: str = _setting(
        "RATE_LIMIT_LINK_PER_EMAIL", rate_limit, "5/minute;20/hour", "Requests for a link, per email address."
    )
    rate_limit_verify_per_ip: str = _setting(
        "RATE_LIMIT_VERIFY_PER_IP", rate_limit, "30/minute;200/hour", "Attempts to sign in, per IP address."
    )
    rate_limit_per_user: str = _setting(
        "RATE_LIMIT_PER_USER", rate_limit, "120/minute", "Requests to signed-in routes, per user."
    )
    email_from: str = _setting(
        "EMAIL_FROM",
        email_from,
        "Lumen <lumen@example.com>",
        "Sender of the mails. `RESEND_FROM_EMAIL` works too.",
        alias="RESEND_FROM_EMAIL",
    )
    resend_api_key: str | None = _setting(
        "RESEND_API_KEY", api_key, None, "Sends mail through Resend's HTTP API.", show=masked
    )
    smtp_url: str | None = _setting(
        "SMTP_URL",
        smtp_url,
        None,
        "Sends mail through SMTP: `smtps://user:password@host:465` (TLS) or `smtp://user:password@host:587` (STARTTLS; "
        "a loopback host may do without).",
        show=url_without_credentials,
    )
    log_level: str = _setting("LOG_LEVEL", log_level, "INFO", "Least severe level that is logged.")

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
            raise ConfigError(problems, config.shown())
        return config

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Each field's setting, by the field's name."""
        return {f.name: f.metadata["setting"] for f in fields(cls)}

    def shown(self) -> list[tuple[str, str]]:
        """Every variable with the value in force, secrets masked."""
        effective = {"app_url": self.link_base, "auth_cookie_name": self.session_cookie_name}
        values = {name: effective.get(name, getattr(self, name)) for name in self.settings()}
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
        return frozenset({*self.web_origins, origin_of(self.link_base), *own})

    @property
    def session_cookie_name(self) -> str:
        # The prefix makes browsers refuse the cookie unless it is Secure, host-only and for the whole site
        # (RFC 6265bis, section 4.1.3.2); they would refuse it on plain http too, hence the other name.
        return self.auth_cookie_name or ("lumen_session" if self.development else "__Host-lumen_session")

    @property
    def rate_limits(self) -> dict[str, str]:
        """The limits by the name of their rule."""
        return {
            "link_per_ip": self.rate_limit_link_per_ip,
            "link_per_email": self.rate_limit_link_per_email,
            "verify_per_ip": self.rate_limit_verify_per_ip,
            "per_user": self.rate_limit_per_user,
        }

    @property
    def embedded_postgres(self) -> Path | None:
        """Where a PostgreSQL of our own lives, when none is configured; only ever in development."""
        return Path(__file__).parent / ".lumen" if self.development and not self.database_url else None

    def _problems(self, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        if self.resend_api_key and self.smtp_url:
            yield "SMTP_URL", "is set beside RESEND_API_KEY: choose one mail provider"
        if not self.development:
            yield from self._missing_parts(env)
        if self.app_env in ("production", None):
            yield from self._unsafe_in_production()

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
        yield from _not_https("WEB_ORIGINS", self.web_origins or ())
        if self.app_url:
            yield from _not_https("APP_URL", [self.app_url])
        if self.trusted_proxy_hops is None:
            yield "TRUSTED_PROXY_HOPS", "is not set: say how many proxies are in front (0 for none)"
        if not self.session_cookie_name.startswith("__Host-"):
            yield "AUTH_COOKIE_NAME", "must begin with __Host- in production"


def _not_https(name: str, urls: Iterable[str]) -> Iterator[tuple[str, str]]:
    if any(not url.startswith("https://") for url in urls):
        yield name, "must be https:// in production"


def render(settings: list[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in settings)
    return "\n".join(["the configuration in force:", *(f"  {name:<{width}}  {value}" for name, value in settings)])
