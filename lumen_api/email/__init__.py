"""The mail with the magic link, and the way to a provider: console, smtp or resend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Protocol

import jinja2
from flask import Flask, current_app

from lumen_api.errors import ApiError
from lumen_api.observability import metrics, tracing

# Seconds. A mail that has not been handed over by then has failed. With all else that a request may wait for, it is
# answered within 6 s.
TIMEOUT = 3.5
# Of these, for other mails of the worker to be handed over: each takes a thread from requests that need no mail.
WAIT_FOR_TURN = 0.5


class RecipientRefused(Exception):
    """The provider will never deliver to this address."""

    outcome = "recipient_refused"


class EmailUnavailable(ApiError):
    """The mail could not be handed over."""

    status, code, message = 503, "email_unavailable", "The mail could not be sent. Try again in a moment."
    retry_after = 10
    outcome = "email_unavailable"


@dataclass(frozen=True)
class Mail:
    """One mail to one person. `url` is the link that the texts hold."""

    to: str
    subject: str
    text: str
    html: str
    url: str


class End:
    """The moment from which nobody waits any more for a mail. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Callable[[], object]] | None = []

    def callback(self, call: Callable[[], object]) -> None:
        """Have `call` called then; at once, if it has come."""
        with self._lock:
            if self._calls is not None:
                self._calls.append(call)
                return
        call()

    def close(self) -> None:
        """It has come."""
        with self._lock:
            calls, self._calls = self._calls or [], None
        for call in calls:
            call()


class Provider(Protocol):
    """Hands mails over to the outside world. `name` is the one in traces and metrics."""

    name: str

    def send(self, mail: Mail, at_end: End) -> None:
        """Return when the mail was accepted, raise RecipientRefused if it never will be, and anything else if not.

        What is put into `at_end` happens once nobody waits any more: it can end what still goes on.
        """


class Mailer:
    """Sends the mails of one app, never many at once: a slow provider must not take every thread of a worker."""

    def __init__(self, provider: Provider, *, link_ttl: timedelta, at_once: int) -> None:
        """`at_once`: how many mails may be under way. The next waits for its turn, within its time."""
        self._provider = provider
        self._render = _templates(in_words(link_ttl))
        self._slots = threading.BoundedSemaphore(at_once)
        # A thread of its own, because a socket's timeout is for each read, and a slow answer has many.
        self._executor = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="email")

    def send_link(self, *, to: str, url: str, seconds: float = TIMEOUT) -> None:
        """Mail `url` to `to` within `seconds`. Raises RecipientRefused or EmailUnavailable."""
        outcome = EmailUnavailable.outcome
        try:
            with tracing.span("email.send", {"lumen.email.provider": self._provider.name}, client=True):
                self._hand_over(self._render(to, url), give_up=monotonic() + seconds)
            outcome = "sent"
        except RecipientRefused as error:
            outcome = error.outcome
            raise
        finally:
            metrics.EMAILS.record(1, self._provider.name, outcome)

    def _hand_over(self, mail: Mail, *, give_up: float) -> None:
        if not self._slots.acquire(timeout=max(0, min(WAIT_FOR_TURN, give_up - monotonic()))):
            raise EmailUnavailable
        at_end = End()
        try:
            future = self._executor.submit(self._provider.send, mail, at_end)
        except RuntimeError as error:  # no thread can be started
            self._slots.release()
            raise EmailUnavailable from error
        # When the thread is done, and not when we stop waiting for it.
        future.add_done_callback(lambda _: self._slots.release())
        try:
            future.result(timeout=max(0, give_up - monotonic()))
        except RecipientRefused:
            raise
        except Exception as error:
            # Whatever a provider or the network came up with: the mail has not gone.
            raise EmailUnavailable from error
        finally:
            at_end.close()


def init_app(app: Flask, mailer: Mailer) -> None:
    """Make `mailer` the current app's."""
    app.extensions["lumen.mailer"] = mailer


def mailer() -> Mailer:
    """The current app's."""
    current: Mailer = current_app.extensions["lumen.mailer"]
    return current


def _templates(ttl: str) -> Callable[[str, str], Mail]:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    text, html = environment.get_template("magic_link.txt"), environment.get_template("magic_link.html")

    def render(to: str, url: str) -> Mail:
        return Mail(to, "Sign in to Lumen", text.render(url=url, ttl=ttl), html.render(url=url, ttl=ttl), url)

    return render


def in_words(duration: timedelta) -> str:
    """A duration as a person would say it: "10 minutes", "1 hour and 30 minutes"."""
    seconds = int(duration.total_seconds())
    parts = []
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}{'s' if count > 1 else ''}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
