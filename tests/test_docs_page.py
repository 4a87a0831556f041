"""`/docs` shows the document: only where it is wanted, with the files that are here and nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from config import Config
from tests.conftest import AppFactory
from tests.support import ROOT
from tests.support.contract import error_of

FOLDER = ROOT / "lumen_api" / "docs_viewer"
FILES = sorted(file for file in FOLDER.rglob("*") if file.is_file())
OURS = [file for file in FILES if file.parent == FOLDER]

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "font-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def address(file: Path) -> str:
    """Where a file is served."""
    return f"/docs/{file.relative_to(FOLDER)}"


@pytest.fixture
def reader(make_app: AppFactory) -> FlaskClient:
    """A caller of a service with API_DOCS=1."""
    return make_app(API_DOCS="1").test_client()


def get(client: FlaskClient, path: str, **headers: str) -> tuple[TestResponse, bytes]:
    """An answer and its body, with the file closed."""
    answer = client.get(path, headers=headers)
    body = answer.data
    answer.close()
    return answer, body


# --- Where it is. ---


def test_the_page_is_there_in_development_or_if_it_is_asked_for() -> None:
    base = {"DATABASE_URL": "postgresql:///none", "SMTP_URL": "smtp://127.0.0.1:1", "EMAIL_FROM": "a@example.com"}
    shown = {
        (env, value): Config.from_env({**base, "APP_ENV": env, "API_DOCS": value}).docs_shown
        for env in ("test", "development")
        for value in ("", "1", "true", "0", "false")
    }

    assert {case for case, there in shown.items() if there} == {
        ("development", ""),
        ("development", "1"),
        ("development", "true"),
        ("test", "1"),
        ("test", "true"),
    }
    assert replace(Config.from_env({"APP_ENV": "development"}), app_env="production").docs_shown is False


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_elsewhere_it_and_its_files_are_unknown(make_app: AppFactory, value: str) -> None:
    client = make_app(API_DOCS=value).test_client()

    for path in ("/docs", "/docs/", *map(address, FILES)):
        assert error_of(client.get(path)) == (404, "not_found"), path


def test_what_is_no_file_of_the_viewer_is_not_found(reader: FlaskClient) -> None:
    for path in (
        "/docs/",
        "/docs/nothing",
        "/docs/swagger-ui",
        "/docs/../docs.py",
        "/docs/%2e%2e/docs.py",
        "/docs//etc/passwd",
    ):
        answer, _ = get(reader, path)
        assert error_of(answer) == (404, "not_found"), path
        assert answer.headers["Cache-Control"] == "no-store"


# --- What it is. ---


def test_every_file_has_its_type_and_its_bytes(reader: FlaskClient) -> None:
    assert len(FILES) >= 6
    for file in FILES:
        answer, body = get(reader, address(file))
        assert (answer.status_code, body) == (200, file.read_bytes()), file
        assert answer.headers["Content-Type"] == f"{TYPES.get(file.suffix, 'text/plain')}; charset=utf-8", file
    assert get(reader, "/docs")[1] == (FOLDER / "index.html").read_bytes()


def test_the_page_and_its_files_allow_nothing_inline_and_nothing_from_elsewhere(reader: FlaskClient) -> None:
    for path in ("/docs", *map(address, FILES)):
        answer, _ = get(reader, path)
        (policy,) = answer.headers.getlist("Content-Security-Policy")
        assert dict(part.split(" ", 1) for part in policy.split("; ")) == POLICY, path
        assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers["X-Request-Id"]


def test_a_browser_keeps_the_files_and_asks_whether_they_are_the_same(reader: FlaskClient) -> None:
    for path in ("/docs", *map(address, FILES)):
        first, _ = get(reader, path)
        again, body = get(reader, path, **{"If-None-Match": first.headers["ETag"]})
        assert first.headers.getlist("Cache-Control") == ["no-cache"], path
        assert (again.status_code, body) == (304, b""), path


def test_head_is_a_get_of_the_page_without_its_body(reader: FlaskClient) -> None:
    head = reader.head("/docs")
    head.close()

    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == str((FOLDER / "index.html").stat().st_size)


def test_the_page_loads_nothing_but_its_files_and_the_document(reader: FlaskClient) -> None:
    page = (FOLDER / "index.html").read_text()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert set(loaded) - {"data:,"} == {
        "docs/swagger-ui/swagger-ui.css",
        "docs/viewer.css",
        "docs/swagger-ui/swagger-ui-bundle.js",
        "docs/viewer.js",
        "v1/openapi.json",
    }
    for name in loaded:
        assert name == "data:," or get(reader, f"/{name}")[0].status_code == 200, name
    assert not re.search(r"<script(?![^>]*src)|<style|\son\w+=|\sstyle=", page)


def test_no_file_of_ours_names_another_server_and_no_style_loads_from_one() -> None:
    for file in OURS:
        assert "//" not in re.sub(r"(?m)^\s*//.*$|\s// .*$", "", file.read_text()), file
    for file in FILES:
        if file.suffix == ".css":
            urls = re.findall(r"url\(\s*[\"']?([^\"')]{1,20})", file.read_text())
            assert [url for url in urls if not url.startswith("data:")] == [], file
            assert "@import" not in file.read_text()
    assert "validatorUrl: null" in (FOLDER / "viewer.js").read_text()  # the one that Swagger UI would ask


# --- Where it comes from. ---


def test_the_viewer_is_the_pinned_version_and_has_its_licence() -> None:
    script = (ROOT / "scripts" / "vendor_docs_viewer.sh").read_text()
    (version,) = re.findall(r"(?m)^version=(.+)$", script)

    assert (FOLDER / "swagger-ui" / "VERSION").read_text() == f"swagger-ui-dist {version}\n"
    assert re.search(r"(?m)^sha512=[0-9a-f]{128}$", script)
    assert "Apache License" in (FOLDER / "swagger-ui" / "LICENSE").read_text()
    listed = set(re.findall(r"[\w.-]+", re.findall(r"for name in (.+); do", script)[0]))
    assert {file.name for file in (FOLDER / "swagger-ui").iterdir()} == {*listed, "VERSION"}
