"""The playground in a real browser: the journey of a user, and what happens to it on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal
from urllib.request import urlopen

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, expect

from lumen_api.transcript_hash import transcript_hash, transcript_payload
from tests.conftest import ServiceFactory
from tests.support import ROOT, databases
from tests.support.browser import ADA, Playground, chromium
from tests.support.service import Service

pytestmark = pytest.mark.full

WORDS = ("I want to feel\n\n calmer today.", "Let's take a breath together. \U0001f33f")
MESSAGES = [{"role": role, "content": words} for role, words in zip(("user", "assistant"), WORDS, strict=True)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def service(serve: ServiceFactory) -> Service:
    """As on a developer's machine, where mails are shown and not sent."""
    return serve(workers=1, APP_ENV="development", SMTP_URL="")


@pytest.fixture
def url(service: Service) -> str:
    return f"http://localhost:{service.port}"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A person's browser, with its own cookies and storage."""
    context = browser.new_context()
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def playground(context: BrowserContext, url: str) -> Iterator[Playground]:
    """The page. At the end nothing may have been complained about."""
    playground = Playground(context, url)
    yield playground
    assert playground.complaints == []


def test_the_whole_journey(playground: Playground, database: str) -> None:
    page = playground.page
    playground.sign_in()
    assert page.url == f"{playground.url}/"  # no token stays in the address

    session_id = playground.start()
    playground.say(*WORDS)
    expect(page.locator("#payload")).to_have_text(transcript_payload(MESSAGES), use_inner_text=False)
    expect(page.locator("#hash")).to_have_text(transcript_hash(MESSAGES))
    playground.end()

    expect(page.locator("#session-rows tr")).to_have_count(1)
    assert playground.listed() == [session_id]
    assert databases.query(database, "select transcript_hash from sessions") == [(transcript_hash(MESSAGES),)]

    page.get_by_role("button", name="Show what is stored").click()
    expect(page.locator("#exported")).to_contain_text(session_id)

    page.get_by_role("button", name="Delete the account").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator("#status")).to_have_text("The account is deleted.")
    assert databases.query(database, "select count(*) from users") == [(0,)]


def test_every_step_shows_its_request_and_answer_with_the_id(playground: Playground, service: Service) -> None:
    playground.sign_in()
    playground.start()
    expect(playground.page.locator("#session-rows tr")).to_have_count(1)

    shown = playground.page.locator("#exchanges li")
    texts = [item.text_content() or "" for item in shown.all()]
    asked = [re.match(r"(\w+ /v1/[\w/-]+)\S* (\d+)", text) for text in texts]
    steps = {(match[1], match[2]) for match in asked if match}
    assert steps >= {
        ("POST /v1/auth/verify", "200"),
        ("GET /v1/auth/session", "200"),
        ("POST /v1/sessions/start", "200"),
        ("GET /v1/sessions", "200"),
    }
    logged = service.log.read_text()
    ids = [match[1] for text in texts if (match := re.search(r" ms ([0-9a-f]{32})", text))]
    assert len(ids) == len(texts)
    assert all(request_id in logged for request_id in ids)


def test_a_scanner_that_opens_the_link_uses_nothing_up(playground: Playground) -> None:
    link = playground.ask_for_a_link()
    for _ in range(3):
        with urlopen(link) as answer:
            assert answer.status == 200

    playground.page.goto(link)

    expect(playground.page.locator("#who")).to_have_text(ADA)


def test_a_link_works_once(playground: Playground, context: BrowserContext, url: str) -> None:
    link = playground.ask_for_a_link()
    playground.page.goto(link)
    expect(playground.page.locator("#who")).to_have_text(ADA)
    playground.page.get_by_role("button", name="Log out", exact=True).click()

    again = Playground(context, link)

    expect(again.page.locator("#status")).to_have_text("This link does not work any more. Ask for a new one.")
    expect(again.page.get_by_role("button", name="Mail me a link")).to_be_visible()
    assert again.page.url == f"{url}/"


def test_an_expired_link_says_so(playground: Playground, database: str) -> None:
    link = playground.ask_for_a_link()
    databases.query(
        database, "update auth_tokens set created_at = now() - interval '2 h', expires_at = now() - interval '1 h'"
    )

    playground.page.goto(link)

    expect(playground.page.locator("#status")).to_have_text("This link does not work any more. Ask for a new one.")


def test_a_second_tab_is_signed_in_too_and_out_too(playground: Playground, context: BrowserContext, url: str) -> None:
    playground.sign_in()
    session_id = playground.start()
    expect(playground.page.locator("#session-rows tr")).to_have_count(1)

    second = Playground(context, url)
    expect(second.page.locator("#who")).to_have_text(ADA)
    expect(second.page.locator("#session-rows tr")).to_have_count(1)
    assert second.listed() == [session_id]

    second.page.get_by_role("button", name="Log out everywhere").click()
    expect(second.page.locator("#status")).to_have_text("Logged out everywhere: 1 sign-in ended.")
    expect(playground.page.get_by_role("button", name="Mail me a link")).to_be_visible()


def test_a_tab_never_shows_another_persons_data_under_the_old_name(
    playground: Playground, context: BrowserContext, url: str
) -> None:
    playground.sign_in()
    second = Playground(context, url)
    second.page.get_by_role("button", name="Log out", exact=True).click()
    expect(playground.page.get_by_role("button", name="Mail me a link")).to_be_visible()

    second.sign_in("bob@example.com")

    expect(playground.page.locator("#who")).to_have_text("bob@example.com")


def test_a_dead_link_signs_nobody_out(playground: Playground, url: str) -> None:
    playground.sign_in()

    playground.page.goto(f"{url}/login/callback?token=dead")

    expect(playground.page.locator("#status")).to_have_text("This link does not work any more. Ask for a new one.")
    expect(playground.page.locator("#who")).to_have_text(ADA)


def test_long_words_do_not_make_a_phone_scroll_sideways(browser: Browser, url: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    playground = Playground(context, url)
    playground.sign_in("mary.long.address.that.does.not.fit.on.a.phone@example.com")
    playground.start()
    playground.say("https://example.com/" + 60 * "x", "Yes.")

    width = playground.page.evaluate("document.documentElement.scrollWidth")
    context.close()

    assert width == 360


def test_what_happens_offline_is_delivered_when_the_network_is_back(
    playground: Playground, context: BrowserContext, database: str
) -> None:
    playground.sign_in()
    context.set_offline(True)
    session_id = playground.start()
    playground.say("Nobody hears this yet.")
    playground.end()
    expect(playground.page.locator("#outbox")).to_have_text("2 calls wait in the outbox for delivery.")
    assert databases.query(database, "select count(*) from sessions") == [(0,)]

    context.set_offline(False)

    expect(playground.page.locator("#outbox")).to_have_text("The outbox is empty: everything is delivered.")
    rows = databases.query(database, "select session_id, started_at is not null, ended_at is not null from sessions")
    assert rows == [(session_id, True, True)]


def test_the_outbox_survives_a_reload(playground: Playground, context: BrowserContext, database: str) -> None:
    playground.sign_in()
    context.route("**/v1/sessions/*", lambda route: route.abort())
    session_id = playground.start()
    expect(playground.page.locator("#outbox")).to_have_text("1 call waits in the outbox for delivery.")
    context.unroute("**/v1/sessions/*")

    playground.page.reload()

    expect(playground.page.locator("#outbox")).to_have_text("The outbox is empty: everything is delivered.")
    assert databases.query(database, "select session_id from sessions") == [(session_id,)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> None:
    """axe-core finds no violation of WCAG 2.2 AA, on a phone, at any step."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
    playground = Playground(context, url)
    expect(playground.page.get_by_label("Email address")).to_be_visible()
    found = [violations(playground)]
    playground.ask_for_a_link()
    found.append(violations(playground))
    playground.sign_in()
    playground.start()
    playground.say(*WORDS)
    found.append(violations(playground))
    playground.end()
    expect(playground.page.locator("#session-rows tr")).to_have_count(1)
    playground.page.locator("#exchanges summary").first.click()
    playground.page.get_by_role("button", name="Show what is stored").click()
    found.append(violations(playground))
    playground.page.get_by_role("button", name="Delete the account").click()
    found.append(violations(playground))
    context.close()

    assert found == [[]] * 5


def violations(playground: Playground) -> list[str]:
    results = Axe().run(playground.page)
    return [f"{item['id']}: {[node['target'] for node in item['nodes']]}" for item in results.response["violations"]]


def test_the_browser_hashes_every_vector_as_python_and_node_do(playground: Playground) -> None:
    vectors = json.loads((ROOT / "tests/vectors/transcript_hash.json").read_text())
    hashed = """async (text) => {
        const { transcriptHash } = await import("/playground/transcript-hash.mjs");
        const hashes = JSON.parse(text).map((messages) => transcriptHash(messages).catch(() => "error"));
        return Promise.all(hashes);
    }"""

    # As text, because a lone surrogate would not survive the way into the page.
    found = playground.page.evaluate(hashed, json.dumps([vector["messages"] for vector in vectors]))

    assert found == ["error" if vector.get("error") else vector["hash"] for vector in vectors]


def test_the_api_reference_shows_every_operation_under_its_policy(context: BrowserContext, url: str) -> None:
    reference = Playground(context, f"{url}/docs")

    expect(reference.page.get_by_text("/v1/sessions/start").first).to_be_visible()
    for path in ("/v1/health", "/v1/auth/request-link", "/v1/auth/verify", "/v1/account"):
        expect(reference.page.get_by_text(path).first).to_be_visible()
    assert reference.complaints == []


def test_the_journey_needs_no_mouse(playground: Playground) -> None:
    page = playground.page
    page.get_by_label("Email address").focus()
    page.keyboard.press("Enter")
    link = page.frame_locator("#mail-body").get_by_role("link", name="Sign in", exact=True)
    link.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#who")).to_have_text(ADA)

    page.get_by_role("button", name="Start a session").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("By hand.")
    for _ in ("Send", "Add without sending", "End the session"):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="End the session")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.get_by_role("button", name="Start a session")).to_be_focused()
    expect(page.locator("#session-rows tr")).to_have_count(1)
