"""The playground: in development alone, under a strict policy, and as careful with mails as with links."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from config import Config
from tests.conftest import AppFactory
from tests.support import ROOT

PAGES = ["/", "/login/callback", "/login/callback?token=x"]
FILES = {
    "playground.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml; charset=utf-8",
    **{
        path.name: "text/javascript; charset=utf-8"
        for folder in ("lumen_api/dev/playground", "clients/js")
        for path in sorted((ROOT / folder).glob("*.mjs"))
    },
}
ADA = "ada@example.com"


@pytest.fixture
def development(database: str) -> Flask:
    """The service as on a developer's machine."""
    return create_app(Config.from_env({"APP_ENV": "development", "DATABASE_URL": database}))


@pytest.fixture
def developer(development: Flask) -> FlaskClient:
    """A browser on that machine."""
    client = development.test_client()
    client.environ_base["HTTP_HOST"] = "localhost:8080"
    return client


# --- Only in development. ---


@pytest.mark.parametrize("path", [*PAGES, *(f"/playground/{name}" for name in FILES), "/playground/mail"])
def test_elsewhere_there_is_no_playground(make_app: AppFactory, path: str) -> None:
    assert make_app().test_client().get(path).status_code == 404


# --- What is served. ---


@pytest.mark.parametrize("path", PAGES)
def test_the_page_is_served_at_its_address_and_at_the_links(developer: FlaskClient, path: str) -> None:
    answer = developer.get(path)

    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    assert answer.text == (ROOT / "lumen_api/dev/playground/index.html").read_text()


@pytest.mark.parametrize("path", PAGES)
def test_the_page_may_load_from_here_alone_and_run_no_script_of_its_own(developer: FlaskClient, path: str) -> None:
    headers = developer.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))

    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert headers["Referrer-Policy"] == "no-referrer"  # the address of the callback holds a token


class Inline(HTMLParser):
    """Collects what the policy would refuse, and where the page loads from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.found += [f"{tag} {name}" for name in names if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    parser = Inline()
    parser.feed((ROOT / "lumen_api/dev/playground/index.html").read_text())

    assert parser.found == []
    assert [url for url in parser.loaded if not re.match(r"/|#|data:,$", url)] == []


@pytest.mark.parametrize(("name", "content_type"), FILES.items())
def test_a_file_is_served_as_what_it_is(developer: FlaskClient, name: str, content_type: str) -> None:
    answer = developer.get(f"/playground/{name}")

    assert (answer.status_code, answer.content_type) == (200, content_type)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    ["index.html", "__init__.py", "package.json", "..%2f__init__.py", "%2e%2e/playground.css", "nothing.css", ".mjs"],
)
def test_nothing_else_in_its_folders_is_served(developer: FlaskClient, name: str) -> None:
    assert developer.get(f"/playground/{name}").status_code == 404


# --- Mails. ---


def test_a_mail_is_shown_as_it_arrives(developer: FlaskClient) -> None:
    link = developer.post("/v1/auth/request-link", json={"email": ADA}).get_json()["magic_link"]

    said = developer.get("/playground/mail", query_string={"to": f" {ADA.upper()} "}).get_json()
    body = developer.get("/playground/mail.html", query_string={"to": ADA})

    assert said["subject"] == "Sign in to Lumen"
    assert link in said["text"]
    assert link in body.text
    assert "script" not in body.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in body.headers["Content-Security-Policy"]


def test_the_newest_mail_to_the_address_is_the_one(developer: FlaskClient) -> None:
    for email in (ADA, "bob@example.com", ADA):
        newest = developer.post("/v1/auth/request-link", json={"email": email}).get_json()["magic_link"]

    assert newest in developer.get("/playground/mail", query_string={"to": ADA}).get_json()["text"]


@pytest.mark.parametrize("to", ["", "eve@example.com", "ada@example.com, bob@example.com", "ada"])
def test_an_address_without_a_mail_has_none(developer: FlaskClient, to: str) -> None:
    developer.post("/v1/auth/request-link", json={"email": ADA})

    assert developer.get("/playground/mail", query_string={"to": to}).status_code == 404


@pytest.mark.parametrize(
    ("headers", "environ"),
    [
        ({"X-Forwarded-For": "127.0.0.1"}, {}),
        ({"Forwarded": "for=127.0.0.1"}, {}),
        ({"Host": "rebound.example.com:8080"}, {}),
        ({}, {"REMOTE_ADDR": "192.168.0.7"}),
    ],
    ids=["through a tunnel", "through a standard tunnel", "a name rebound to this machine", "from another machine"],
)
@pytest.mark.parametrize("path", ["/playground/mail", "/playground/mail.html"])
def test_nobody_but_the_developer_sees_a_mail(
    developer: FlaskClient, headers: dict[str, str], environ: dict[str, str], path: str
) -> None:
    developer.post("/v1/auth/request-link", json={"email": ADA})

    answer = developer.get(path, query_string={"to": ADA}, headers=headers, environ_overrides=environ)

    assert answer.status_code == 404


def test_the_page_asks_for_a_model_that_is_allowed_by_default() -> None:
    (model,) = re.findall(r'const MODEL = "(.+?)"', (ROOT / "lumen_api/dev/playground/model.mjs").read_text())

    assert model in Config.from_env({"APP_ENV": "development"}).llm_models
