"""Health, as bare Flask."""

from __future__ import annotations

from flask import Flask

from bench.floor import EXTENSIONS


def create_app() -> Flask:
    """An app with one route. It writes JSON as the service does."""
    app = Flask("floor", static_folder=None)
    app.json.compact, app.json.sort_keys = True, False  # type: ignore[attr-defined]  # Flask's default provider
    app.extensions.update(EXTENSIONS)

    @app.get("/v1/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app
