"""The composition root: the one place that knows every part of the service. `flask run` finds create_app().

What is imported inside a function is not always there or not always wanted: the parts for development, of which
production has not even the dependencies, and OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
from flask import Flask
from flask.json.provider import DefaultJSONProvider

from config import WORKER_THREADS, Config, ConfigError, render
from lumen_api import auth, cli, db, errors, headers, hooks, migrations, origins, rate_limits, validation
from lumen_api import email as mail
from lumen_api.blueprints import account, docs, health, llm, openapi, sessions
from lumen_api.blueprints import auth as auth_routes
from lumen_api.email.console import Console
from lumen_api.email.resend import Resend
from lumen_api.email.smtp import Smtp
from lumen_api.llm import calls
from lumen_api.llm.policy import Limits
from lumen_api.llm.provider import Provider
from lumen_api.observability import logging


class Lumen(Flask):
    """The application."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """See Flask, which looks before each call of a view or hook whether it is a coroutine: none is."""
        return func


class Json(DefaultJSONProvider):
    """The same bytes in every mode, in the order that the code gives them."""

    mimetype = "application/json; charset=utf-8"
    sort_keys = False
    compact = True


def create_app(config: Config | None = None) -> Flask:
    """The service, as a WSGI application. Without `config` the environment's is read, and the process is ours alone.

    Raises ConfigError when the environment cannot be served from.
    """
    if config is None:
        config = _config()
        logging.take_over()
    logging.configure(config.log_level, env=config.app_env, readable=config.development)
    app = Lumen("lumen_api", static_folder=None)
    app.json = Json(app)
    app.url_map.merge_slashes = False  # an address is right or it is unknown: no redirects

    # In the order in which a request meets them.
    _start_telemetry(app, config)
    headers.init_app(app, https=not config.development)
    hooks.init_app(app)
    errors.init_app(app)
    origins.init_app(app, config.allowed_origins)
    validation.init_app(app)
    rate_limits.init_app(
        app,
        config.rate_limits,
        storage_url=config.redis_url,
        proxy_hops=config.trusted_proxy_hops or 0,
        key=auth.derive_key(config.auth_token_secrets[0], "rate limits"),
    )
    _init_auth(app, config)
    provider = _email_provider(config)
    mail.init_app(app, mail.Mailer(provider, link_ttl=config.auth_token_ttl, at_once=WORKER_THREADS // 2))
    database = db.Database(_database_url(config), size=config.database_pool_size)
    db.init_app(app, database)
    calls.init_app(app, _model_calls(config))
    for blueprint in (health.bp, auth_routes.bp, sessions.bp, account.bp, llm.bp, openapi.bp):
        app.register_blueprint(blueprint)
    if config.docs_shown:
        app.register_blueprint(docs.bp)
    cli.init_app(app, database, configuration=f"{render(config.shown())}\n\n{config.telemetry_shown}")
    if config.development:
        from lumen_api.dev import playground, welcome

        playground.init_app(app, provider.mails if isinstance(provider, Console) else ())
        welcome.greet_flask_run(config.port)
    return app


def _config() -> Config:
    """The environment's; the port of `flask run --port` wins, because links and origins name it."""
    config = Config.from_env()
    context = click.get_current_context(silent=True)
    if context and context.info_name == "run":
        return replace(config, port=context.params["port"])
    return config


def _start_telemetry(app: Flask, config: Config) -> None:
    if not config.telemetry:
        return
    from lumen_api.observability import telemetry

    assert config.otel_endpoint is not None  # that is where it goes
    try:
        telemetry.start(
            app,
            telemetry.Collector(config.otel_endpoint, config.otel_headers or {}, config.telemetry),
            resource=config.telemetry_resource,
            sampler=(config.otel_traces_sampler, config.otel_traces_sampler_arg),
        )
    except (ValueError, RuntimeError) as error:
        # It reads many more variables by itself, and does not name the one that it refuses.
        problems = [("OTEL_*", f"is refused by OpenTelemetry: {error}")]
        logging.log_problems(problems)  # of an exception gunicorn shows the class alone
        raise ConfigError(problems, config) from error


def _init_auth(app: Flask, config: Config) -> None:
    links = auth.MagicLinks(
        tokens=auth.TokenSigner(config.auth_token_secrets, purpose="magic link"),
        base_url=config.link_base,
        ttl=config.auth_token_ttl,
        shown=config.development,
    )
    cookie = auth.SessionCookie(
        ids=auth.TokenSigner(config.auth_token_secrets, purpose="session"),
        name=config.session_cookie_name,
        secure=not config.development,
        ttl=config.session_ttl,
    )
    auth.init_app(app, links=links, cookie=cookie)


def _email_provider(config: Config) -> mail.Provider:
    if config.resend_api_key:
        return Resend(config.resend_api_key, sender=config.email_from)
    if config.smtp_url:
        return Smtp(config.smtp_url, sender=config.email_from)
    return Console()


def _model_calls(config: Config) -> calls.Calls:
    limits = Limits(
        models=config.llm_models,
        max_output_tokens=config.llm_max_output_tokens,
        daily_tokens=config.llm_daily_tokens,
        total_daily_tokens=config.llm_total_daily_tokens,
    )
    return calls.Calls(
        _model_provider(config), limits, at_once=config.llm_calls_per_worker, timeout=config.llm_total_timeout
    )


def _model_provider(config: Config) -> Provider | None:
    if config.llm_provider_key:
        from lumen_api.llm.anthropic import Anthropic

        return Anthropic(config.llm_provider_key, url=config.llm_provider_url, idle_timeout=config.llm_idle_timeout)
    if config.development:
        from lumen_api.llm.echo import Echo

        return Echo()
    return None


def _database_url(config: Config) -> str:
    if config.embedded_postgres is None:
        assert config.database_url is not None  # Config has seen to it
        return config.database_url
    from lumen_api.dev import embedded_postgres

    url = embedded_postgres.start(config.embedded_postgres)
    migrations.apply(url)
    return url
