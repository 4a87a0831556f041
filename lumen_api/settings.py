"""Kinds of settings: how a variable's text becomes a value, and how a value is shown.

A kind is a function from text to value. Its docstring names the type and unit for the README's table, and its
ValueError goes on from the variable's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.headerregistry import Address
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import limits
import psycopg2
from email_validator import EmailNotValidError, validate_email
from psycopg2.extensions import parse_dsn


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


def boolean(text: str) -> bool:
    """true or false (1 or 0)"""
    return choice("true", "false", "1", "0")(text.lower()) in ("true", "1")


def ratio(text: str) -> float:
    """number, 0 to 1"""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return value


def sampler(text: str) -> str:
    """sampler, as OpenTelemetry names it"""
    decisions = ("always_on", "always_off", "traceidratio")
    return choice(*decisions, *(f"parentbased_{decision}" for decision in decisions))(text)


def name(text: str) -> str:
    """name"""
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise ValueError("must be printable ASCII without spaces")
    return text


def pairs(text: str) -> dict[str, str]:
    """key=value, comma-separated"""
    # As OpenTelemetry has it: a value is percent-encoded where it holds a comma, a space or an equals sign. A key must
    # be fit for a header's name and a decoded value for a header's value (RFC 9110, sections 5.1 and 5.5).
    matches = [re.fullmatch(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)=([!-~]*)", part) for part in _listed(text)]
    found = {match[1]: unquote(match[2]) for match in matches if match}
    if not all(matches) or not all(re.fullmatch(r"[ -~]*", value) for value in found.values()):
        raise ValueError("must be pairs like key=value, with commas between them")
    return found


def duration(text: str) -> timedelta:
    """duration: `90s`, `15m`, `24h` or seconds"""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0
    if not 1 <= seconds <= 366 * 86400:
        raise ValueError("must be a duration of at least a second and at most a year, like 90s, 15m, 24h or 900")
    return timedelta(seconds=seconds)


_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:.]+")


def web_url(text: str) -> str:
    """URL, http or https"""
    # In the form in which a browser sends an origin: lower case, no default port, no slash at the end.
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise ValueError("must be an http:// or https:// URL")
    if not re.fullmatch(r"[!-~]*", text) or re.search(r'[\\"<>`*;,]', text):
        raise ValueError("holds a character that no URL has")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ValueError("must not hold a user, a query or a fragment")
    host = f"[{host}]" if ":" in host else host
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
    if not text.isprintable():
        raise ValueError("holds a character that cannot be printed")
    return tuple(_listed(text))


def _listed(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError("has an empty entry between its commas")
    return parts


def models(text: str) -> tuple[str, ...]:
    """names, comma-separated"""
    names = tuple(_listed(text))
    if not all(re.fullmatch(r"[A-Za-z0-9._:@/-]{1,128}", name) for name in names):
        raise ValueError("must be names of models: letters, digits and ._:@/- and nothing else")
    return names


def postgres_url(text: str) -> str:
    """URL, postgresql"""
    # libpq reads it, and not _url(): it may name several hosts.
    try:
        if not text.startswith(("postgresql://", "postgres://")):
            raise ValueError
        parts = parse_dsn(text)
        ports = parts.get("port", "").split(",")
        if len(ports) not in (1, len(parts.get("hostaddr", parts.get("host", "")).split(","))):
            raise ValueError
        for port in filter(None, ports):
            integer(1, 65535)(port)
    except (ValueError, psycopg2.Error):
        raise ValueError("must be a URL like postgresql://user:password@host:5432/database") from None
    return text


def _url(text: str, schemes: tuple[str, ...]) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if port == 0 or url.scheme not in schemes or not (url.hostname or url.scheme.endswith("unix")):
        raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return text


def redis_url(text: str) -> str:
    """URL, redis or rediss (TLS)"""
    # Valkey speaks Redis's protocol, and the redis client is the one that we install.
    spoken = re.sub(r"^valkey(s?)://", r"redis\1://", text)
    url = urlsplit(_url(spoken, ("redis", "rediss", "redis+unix")))
    # redis-py takes what it cannot read for database 0, and options in the URL win over our timeouts.
    if url.scheme != "redis+unix" and not re.fullmatch(r"(/[0-9]{0,5})?", url.path):
        raise ValueError("must end with the number of a database, like redis://host:6379/0")
    if re.search("timeout|retry", url.query):
        raise ValueError("must not set timeouts or retries: they are part of how limits fall back to memory")
    return spoken


def smtp_url(text: str) -> str:
    """URL, smtp or smtps (TLS)"""
    url = urlsplit(_url(text, ("smtp", "smtps")))
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError("must not go on after the port")
    return text


def rate_limit(text: str) -> str:
    """limits, like `5/minute;20/hour`"""
    try:
        # One by one: parse_many() skips over what it cannot read between two limits that it can, and over zeros.
        for part in re.split("[;,|]", text):
            if limits.parse(part).amount < 1 or re.search(r"\b0+\b", part):
                raise ValueError
    except ValueError:
        raise ValueError("must be limits like 5/minute;20/hour") from None
    return text


def email_from(text: str) -> str:
    """address, with a name or without"""
    try:
        valid = validate_email(text, allow_display_name=True, check_deliverability=False)
    except EmailNotValidError:
        valid = None
    if valid is None or valid.ascii_email is None:
        raise ValueError("must be an address, like lumen@example.com or Lumen <lumen@example.com>")
    # The mail's headers encode the name; the address must be ASCII, or not every server would take it.
    return str(Address(valid.display_name or "", addr_spec=valid.ascii_email))


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


def masked(_: Any) -> str:
    return "****"


def url_without_credentials(value: str) -> str:
    # The user too: with some mail providers it is the key.
    return re.sub(r"(password=)[^&]+", r"\1****", re.sub(r"://.*@", "://****@", value))


def plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, dict):
        return ",".join(f"{key}={value}" for key, value in value.items())
    if isinstance(value, bool):
        return str(value).lower()
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


def variable(*args: Any, **kwargs: Any) -> Any:
    """A dataclass field that is read as Setting(*args, **kwargs) says."""
    known = Setting(*args, **kwargs)
    return field(repr=known.show is plain, metadata={"setting": known})
