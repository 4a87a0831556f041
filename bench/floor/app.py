"""The floor: Flask with the statements, the Redis commands and the mail of the service, and nothing else.

No checks, no limits, no log, no headers. Each request takes one connection of the pool, and sends all its Redis
commands in one go: nobody who does the same work can do with less.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import smtplib
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, jsonify, request
from redis import Redis

from bench.floor import bare
from config import Config
from lumen_api import db, rfc3339
from lumen_api.auth import derive_key
from lumen_api.blueprints.sessions import public, write_cursor
from lumen_api.db import Connection, Database
from lumen_api.repositories import auth_sessions, auth_tokens, sessions
from lumen_api.repositories.auth_sessions import SignIn

# How many Redis commands the service sends for each route, as JSON: the benchmark has counted them.
REDIS_COMMANDS = "BENCH_REDIS_COMMANDS"
SENDER = "hello@example.com"
PAGE = 20


class Floor:
    """What the routes share."""

    def __init__(self, config: Config, redis_commands: dict[str, int]) -> None:
        assert config.database_url
        assert config.redis_url
        assert config.smtp_url
        self.database = Database(config.database_url, size=config.database_pool_size)
        self.redis_commands = redis_commands
        self.redis = Redis.from_url(config.redis_url)
        mail = urlsplit(config.smtp_url)
        self.mail_server = (mail.hostname or "", mail.port or 0)
        self.link = f"{config.link_base}/login/callback?token="
        self.cookie, self.session_ttl, self.link_ttl = (
            config.session_cookie_name,
            config.session_ttl,
            config.auth_token_ttl,
        )
        secret = config.auth_token_secrets[0]
        self.session_key = derive_key(secret, "session digest")
        self.link_key = derive_key(secret, "magic link digest")

    def count(self, route: str) -> None:
        """As many Redis commands as the service sends."""
        commands = self.redis_commands.get(route, 0)
        if commands == 1:
            self.redis.incr("floor")
        elif commands:
            with self.redis.pipeline(transaction=False) as pipeline:
                for _ in range(commands):
                    pipeline.incr("floor")
                pipeline.execute()

    def sign_in(self, conn: Connection) -> SignIn:
        """The caller's."""
        sign_in = auth_sessions.find(conn, id_hash=digest(self.session_key, request.cookies[self.cookie]))
        assert sign_in
        return sign_in

    def mail(self, to: str, url: str) -> None:
        """Hand a mail over, in a conversation like the service's."""
        text = f"From: {SENDER}\r\nTo: {to}\r\nSubject: Sign in\r\n\r\n{url}\r\n"
        server = smtplib.SMTP(*self.mail_server, local_hostname="example.com")
        server.sendmail(SENDER, [to], text)
        server.close()


def create_app() -> Flask:
    """The app, from the environment."""
    config = Config.from_env()
    floor = Floor(config, json.loads(os.environ.get(REDIS_COMMANDS, "{}")))
    app = bare.create_app()
    db.init_app(app, floor.database)
    _auth_routes(app, floor)
    _session_routes(app, floor)
    return app


def _auth_routes(app: Flask, floor: Floor) -> None:
    @app.post("/v1/auth/request-link")
    def request_link() -> dict[str, Any]:
        floor.count("request-link")
        email, token = request.get_json()["email"], new_token()
        with floor.database.connection() as conn:
            auth_tokens.create(conn, token_hash=digest(floor.link_key, token), email=email, ttl=floor.link_ttl)
        floor.mail(email, floor.link + token)
        return {"status": "ok"}

    @app.post("/v1/auth/verify")
    def verify() -> Response:
        floor.count("verify")
        session = new_token()
        with floor.database.connection() as conn:
            assert auth_tokens.redeem(
                conn,
                token_hash=digest(floor.link_key, request.get_json()["token"]),
                session_hash=digest(floor.session_key, session),
                ttl=floor.session_ttl,
                old_session_hash=None,
            )
        response = jsonify(status="ok")
        response.set_cookie(
            floor.cookie, session, max_age=floor.session_ttl, path="/", secure=True, httponly=True, samesite="Lax"
        )
        return response

    @app.get("/v1/auth/session")
    def session() -> dict[str, Any]:
        with floor.database.connection() as conn:
            sign_in = floor.sign_in(conn)
        floor.count("session")
        return {
            "status": "ok",
            "user_id": sign_in.user_id,
            "email": sign_in.email,
            "expires_at": rfc3339.format(sign_in.expires_at),
        }


def _session_routes(app: Flask, floor: Floor) -> None:
    @app.post("/v1/sessions/start")
    def start() -> dict[str, Any]:
        with floor.database.connection() as conn:
            user_id = floor.sign_in(conn).user_id
            body = request.get_json()
            session = sessions.start(conn, user_id=user_id, session_id=body["session_id"], started_at=None)
        floor.count("start")
        assert session.started_at
        return {"status": "ok", "session_id": session.session_id, "started_at": rfc3339.format(session.started_at)}

    @app.post("/v1/sessions/end")
    def end() -> dict[str, Any]:
        with floor.database.connection() as conn:
            user_id, body = floor.sign_in(conn).user_id, request.get_json()
            session = sessions.end(
                conn,
                user_id=user_id,
                session_id=body["session_id"],
                transcript_hash=body["transcript_hash"],
                ended_at=None,
            )
        floor.count("end")
        return {"status": "ok", **public(session)}

    @app.get("/v1/sessions")
    def newest() -> dict[str, Any]:
        with floor.database.connection() as conn:
            user_id = floor.sign_in(conn).user_id
            found = sessions.newest(conn, user_id=user_id, after=None, limit=PAGE + 1)
        floor.count("list")
        page = found[:PAGE]
        cursor = write_cursor(page[-1].position) if len(found) > PAGE else None
        return {"status": "ok", "sessions": [public(session) for session in page], "next_cursor": cursor}


def new_token() -> str:
    """32 random bytes; nobody signs them."""
    return secrets.token_urlsafe(32)


def digest(key: bytes, token: str) -> bytes:
    """What the database knows a token by. Its signature is not looked at."""
    return hmac.digest(key, token.partition(".")[0].encode(), "sha256")
