"""The service with a collector, a database and a mailbox of its own: for a journey that many tests look at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumen_api import migrations
from tests.support.collector import Collector
from tests.support.mailbox import Mailbox
from tests.support.migrating import empty_database
from tests.support.service import Answer, Service

SECRET = "a-secret-of-the-tests-long-enough-for-production"


@dataclass
class Observed:
    """All of it, running."""

    service: Service
    collector: Collector
    mailbox: Mailbox

    def call(self, step: str, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request. `step` is its request id, by which it is found in the log. Header names are written with _."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.service.call(method, path, body, headers={"X-Request-Id": step, **named})

    def sign_in(self, email: str) -> str:
        """Sign in, in the steps "request-link" and "verify". Returns the cookie."""
        self.call("request-link", "POST", "/v1/auth/request-link", {"email": email})
        return self.call("verify", "POST", "/v1/auth/verify", {"token": self.mailbox.token_for(email)}).cookie

    def lines(self, step: str) -> list[dict[str, Any]]:
        """What was logged in a step."""
        logged = map(json.loads, self.service.log.read_text().splitlines())
        return [line for line in logged if line.get("request_id") == step]

    def trace(self, step: str) -> str:
        """The trace id of a step."""
        (found,) = {line["trace_id"] for line in self.lines(step)}
        return str(found)


@contextmanager
def observed(server_dsn: str, folder: Path, **variables: str) -> Iterator[Observed]:
    """Serves with one worker, on a new database of the server. `variables` are the configuration's."""
    with Collector() as collector, Mailbox() as mailbox, empty_database(server_dsn) as database:
        migrations.apply(database)
        env = {
            "APP_ENV": "test",
            "DATABASE_URL": database,
            "SMTP_URL": mailbox.url,
            "EMAIL_FROM": "Lumen <hello@example.com>",
            "AUTH_TOKEN_SECRETS": SECRET,
            "WEB_ORIGINS": "https://app.example.com",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            **variables,
        }
        with Service(env, folder, workers=1) as service:
            yield Observed(service, collector, mailbox)
