"""Every answer tells browsers to come back by https alone: OWASP ASVS 5.0.0, 3.4.1."""

from __future__ import annotations

import re

from tests.conftest import AppFactory
from tests.support.answers import asks_for_every_answer
from tests.support.mailbox import Mailbox

HEADER = "Strict-Transport-Security"
YEAR = 365 * 24 * 60 * 60  # seconds


def test_every_answer_asks_for_https_for_a_year_or_more_and_on_every_subdomain(
    make_app: AppFactory, mailbox: Mailbox
) -> None:
    said = {name: ask().headers.getlist(HEADER) for name, ask in asks_for_every_answer(make_app, mailbox).items()}
    with make_app(API_DOCS="1").test_client().get("/docs") as page:
        said["a page"] = page.headers.getlist(HEADER)

    for name, given in said.items():
        (policy,) = given or [""]
        match = re.fullmatch(r"max-age=([0-9]+); includeSubDomains", policy)
        assert match, f"{name}: {policy!r}"
        assert int(match[1]) >= YEAR, name


def test_in_development_plain_http_stays_possible(make_app: AppFactory) -> None:
    answer = make_app(APP_ENV="development").test_client().get("/v1/health")

    assert HEADER not in answer.headers
