"""The service in production's configuration with every server it works with, and all that it leaves behind there."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import trustme

from tests.support import ROOT, databases
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.canaries import Canaries, addresses_in
from tests.support.collector import Collector
from tests.support.mailbox import Mailbox
from tests.support.outages import Server
from tests.support.service import Service
from tests.support.valkey import Valkey

SECRET = "Xk3-the-secret-of-a-production-that-lasts-a-few-seconds"
ORIGIN = "https://app.example.com"


@dataclass(repr=False)
class Production:
    """Everything is its own, so that everything in it can be read to the end."""

    service: Service
    server: Server
    valkey: Valkey
    mailbox: Mailbox
    collector: Collector
    provider: AnthropicServer

    def log(self) -> str:
        """What gunicorn has written to stdout and stderr."""
        return self.service.log.read_text()

    def records(self) -> list[dict[str, Any]]:
        """Its lines: all of them are JSON."""
        return [json.loads(line) for line in self.log().splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        """The lines of requests."""
        return [record for record in self.records() if record["event"] == "request"]

    def error_classes(self) -> set[str]:
        """The classes of the errors that were the reason for an answer."""
        return {str(line["error_class"]) for line in self.requests()}

    def everything(self) -> dict[str, str]:
        """All that is left behind. Ends the service first, so that nothing is still on its way."""
        with self.valkey.client() as client:
            counters = "\n".join(_dump(client))
        process = self.service.process
        assert process
        process.terminate()
        process.wait(30)
        return {
            "log": self.log(),
            "collector": "\n".join(self._telemetry()),
            # For what the text would show escaped.
            "collector, raw": "\n".join(
                p.message.SerializeToString().decode("latin-1") for p in self.collector.payloads
            ),
            "PostgreSQL's log": (self.server.folder / "postgres.log").read_text(),
            "PostgreSQL keeper's log": (self.server.folder / "keeper.log").read_text(),
            "counters": counters,
        }

    def tables(self) -> str:
        """Every row of every table, as text."""
        url = self.server.url
        names = databases.query(url, "select table_name from information_schema.tables where table_schema = 'public'")
        return "\n".join(row for (name,) in names for (row,) in databases.query(url, f'select t::text from "{name}" t'))

    def leaks(self, canaries: Canaries, *conversations: Canaries) -> str:
        """Every trace of a person in everything(), one a line, after having seen that there is something to search.

        `conversations`: what was said to the model, and by it. No table may hold it either.
        """
        everything = self.everything()
        assert everything["log"].count('"event":"request"') > 5
        assert self.collector.spans()
        assert self.collector.metrics("http.server.request.duration")
        assert "database system is ready to accept connections" in everything["PostgreSQL's log"]
        for conversation in conversations:
            canaries |= conversation
        found = [f"{place}: {leak}" for place, text in everything.items() for leak in canaries.find(text)]
        found += [f"table: {leak}" for conversation in conversations for leak in conversation.find(self.tables())]
        del everything["collector, raw"]  # in random bytes a "::" is no address
        found += [f"{place}: the address {ip}" for place, text in everything.items() for ip in addresses_in(text)]
        found += [f"log: {line}" for line in everything["log"].splitlines() if "@" in line]
        return "\n".join(found)

    def _telemetry(self) -> Iterator[str]:
        for payload in self.collector.payloads:
            lines = str(payload.message).splitlines()
            yield from (
                line for line in lines if not line.strip().startswith(("trace_id", "span_id", "parent_span_id"))
            )
            # Host is the collector's own.
            yield str({name: value for name, value in payload.headers.items() if name.lower() != "host"})


@contextmanager
def production(
    folder: Path, variables: Mapping[str, str], *, workers: int = 2, project: Path = ROOT
) -> Iterator[Production]:
    """It runs until the end of the block, on loopback. `variables` are added to its environment.

    `project`: the checkout to serve.
    """
    server, valkey = Server(folder / "pg"), Valkey(folder)
    authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    try:
        valkey.start()
        with Mailbox() as mailbox, Collector() as collector, AnthropicServer(tls=tls) as provider:
            env = {
                "APP_ENV": "production",
                "DATABASE_URL": server.url,
                "REDIS_URL": valkey.url,
                "SMTP_URL": mailbox.url,
                "EMAIL_FROM": "Lumen <hello@example.com>",
                "AUTH_TOKEN_SECRETS": SECRET,
                "WEB_ORIGINS": ORIGIN,
                "TRUSTED_PROXY_HOPS": "1",
                "LLM_PROVIDER_KEY": API_KEY,
                "LLM_PROVIDER_URL": provider.url,
                "SSL_CERT_FILE": str(folder / "ca.pem"),
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_TRACES_SAMPLER": "always_on",
                # Milliseconds between exports: a test sees several.
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "OTEL_METRIC_EXPORT_INTERVAL": "500",
            }
            with Service({**env, **variables}, folder, workers=workers, project=project) as service:
                yield Production(service, server, valkey, mailbox, collector, provider)
    finally:
        valkey.kill()
        server.leave()


def _dump(client: redis.Redis) -> Iterator[str]:
    """Every key with its value."""
    read: dict[bytes, Any] = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"hash": client.hgetall,
        b"stream": client.xrange,
    }
    for key in client.scan_iter():
        kind: Any = client.type(key)
        yield f"{key.decode('latin-1')} {read[kind](key)}"
