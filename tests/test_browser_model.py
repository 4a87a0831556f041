"""The model in the playground: its answer as it comes in, the stop button, and errors in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, expect

from lumen_api.transcript_hash import transcript_hash
from tests.conftest import ServiceFactory
from tests.support import databases
from tests.support.browser import MODEL, Model, Playground, chromium

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def url(serve: ServiceFactory) -> str:
    return f"http://localhost:{serve(workers=1, APP_ENV='development', SMTP_URL='').port}"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.add_init_script(MODEL)
    yield context
    context.close()


@pytest.fixture
def playground(context: BrowserContext, url: str) -> Iterator[Playground]:
    """The page, with a session begun."""
    playground = Playground(context, url)
    begin(playground)
    yield playground
    assert playground.complaints == []


def begin(playground: Playground) -> None:
    playground.sign_in()
    playground.start()
    expect(playground.page.locator("#session-rows tr")).to_have_count(1)  # nothing else is on its way


@pytest.fixture
def model(playground: Playground) -> Model:
    return Model(playground.page)


def shown(playground: Playground) -> Any:
    """What expect() is asked about: the newest message."""
    return expect(playground.page.locator("#messages li").last)


def status(playground: Playground) -> Any:
    return expect(playground.page.locator("#status"))


# --- An answer. ---


def test_an_answer_streams_in_piece_by_piece(playground: Playground, model: Model) -> None:
    playground.ask("Good morning.")
    messages = [{"role": "user", "content": "Good morning."}]
    assert model.asked() == {"model": "claude-haiku-5-5", "max_tokens": 1024, "messages": messages, "stream": True}
    assert playground.said() == ["user: Good morning."]

    so_far = "assistant"
    for piece in ("Good", " mor\n\n", "<b>ning</b>", " \U0001f33f"):
        model.says(piece)
        so_far += piece
        shown(playground).to_have_text(so_far)
    model.ends()

    expect(playground.page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    status(playground).to_have_text("")


def test_with_nothing_configured_the_echo_answers_and_its_tokens_are_counted(browser: Browser, url: str) -> None:
    """No model of the test's: the page's real fetch, and the service itself."""
    context = browser.new_context()
    playground = Playground(context, url)
    begin(playground)

    playground.ask("Good morning.")

    shown(playground).to_have_text("assistantYou said: Good morning.")
    expect(playground.page.locator("#usage")).to_contain_text("200,000")
    assert playground.complaints == []
    context.close()


def test_what_was_said_and_answered_is_what_is_hashed(playground: Playground, model: Model, database: str) -> None:
    playground.page.get_by_label("Who speaks").select_option("system")
    playground.say("Be brief.", "Good morning.")
    playground.page.get_by_role("button", name="Send", exact=True).click()
    model.answers("Mor", "ning.")
    playground.ask("How are you?")
    request = model.asked(2)
    model.answers("Fine.", number=2)
    shown(playground).to_have_text("assistantFine.")
    playground.end()

    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Good morning."},
        {"role": "assistant", "content": "Morning."},
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine."},
    ]
    assert (request["system"], request["messages"]) == ("Be brief.", said[1:4])
    expect(playground.page.locator("#outbox")).to_have_text("The outbox is empty: everything is delivered.")
    assert databases.query(database, "select transcript_hash from sessions") == [(transcript_hash(said),)]


def test_after_an_answer_the_page_says_what_is_used_of_the_day(playground: Playground, model: Model) -> None:
    usage = expect(playground.page.locator("#usage"))
    playground.ask("One.")
    model.answers("1")
    usage.to_contain_text("1,234 of 200,000 tokens are used. At ")

    playground.page.evaluate("model.usage.reserved = 1050")
    playground.ask("Two.")
    model.answers("2", number=2)
    usage.to_contain_text("1,234 of 200,000 tokens are used, 1,050 are set aside. At ")


def test_a_screen_reader_hears_an_answer_once_when_it_is_complete(playground: Playground, model: Model) -> None:
    answer = playground.page.locator("#answer")
    playground.page.evaluate(
        """window.heard = [];
        const listen = (mutations) => heard.push(...mutations.map(({ target }) => target.textContent));
        for (const live of document.querySelectorAll("[role=status], [role=log], [role=alert], [aria-live]")) {
          new MutationObserver(listen).observe(live, { childList: true, characterData: true, subtree: true });
        }"""
    )
    playground.ask("Good morning.")
    model.answers("Good", " mor", "ning.")
    expect(answer).to_have_text("Good morning.")

    heard = playground.page.evaluate("heard")
    assert [text for text in heard if text] == ["The model is answering …", "Good morning."]


def test_the_keyboard_alone_will_do_and_the_focus_stays_where_one_types(playground: Playground, model: Model) -> None:
    page = playground.page
    field = page.get_by_label("Message", exact=True)
    expect(field).to_be_focused()
    page.keyboard.type("Two")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("lines.")
    page.keyboard.press("Enter")
    assert model.asked()["messages"] == [{"role": "user", "content": "Two\nlines."}]
    expect(field).to_be_focused()

    page.keyboard.type("Next")
    model.says("So be")
    page.keyboard.press("Enter")  # too early: what is typed stays
    page.keyboard.type(" one.")
    model.says(" it.")
    shown(playground).to_have_text("assistantSo be it.")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    page.keyboard.press("Enter")

    expect(field).to_be_focused()
    expect(field).to_have_value("Next one.")
    assert playground.said() == ["user: Two\nlines.", "assistant: So be it."]


def test_the_list_of_requests_has_the_call_without_the_conversation(playground: Playground, model: Model) -> None:
    playground.ask("A secret.")
    model.answers("Another secret.")
    calls = playground.page.locator("#exchanges li", has_text="POST /v1/llm/messages 200")
    expect(calls).to_have_count(1)

    listed = playground.page.locator("#exchanges").text_content() or ""
    assert "claude-haiku-5-5" in listed
    assert "secret" not in listed


# --- Its end before the end. ---


def test_stop_ends_the_request_and_the_text_so_far_stays(playground: Playground, model: Model) -> None:
    playground.ask("Count.")
    model.asked()
    model.says("One, two")
    shown(playground).to_have_text("assistantOne, two")
    playground.page.get_by_role("button", name="Stop").click()

    status(playground).to_have_text("Stopped. What has come stays.")
    assert playground.page.evaluate("model.body.desiredSize") is None  # the request is over
    assert playground.said() == ["user: Count.", "assistant: One, two"]
    expected = transcript_hash([{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two"}])
    expect(playground.page.locator("#hash")).to_have_text(expected)
    playground.ask("Go on.")
    assert [message["content"] for message in model.asked(2)["messages"]] == ["Count.", "One, two", "Go on."]


def test_stop_before_the_first_word_leaves_no_answer(playground: Playground, model: Model) -> None:
    playground.ask("Count.")
    model.asked()
    playground.page.get_by_role("button", name="Stop").click()

    status(playground).to_have_text("Stopped. What has come stays.")
    assert playground.said() == ["user: Count."]


@pytest.mark.parametrize(
    ("button", "said"), [("End the session", "The session has ended."), ("Log out", "Logged out.")]
)
def test_the_end_of_the_conversation_ends_its_answer_and_leaves_no_word(
    playground: Playground, model: Model, button: str, said: str
) -> None:
    playground.ask("A secret.")
    model.answers("A second secret.")
    playground.ask("A third secret.")
    model.asked(2)
    model.says("A fourth secret")
    playground.page.get_by_role("button", name=button, exact=True).click()
    expect(playground.page.locator("#conversation")).to_be_hidden()

    playground.page.wait_for_function("model.body.desiredSize === null")
    status(playground).to_contain_text(said)
    assert "secret" not in (playground.page.locator("body").text_content() or "")


# --- Errors. ---


@pytest.mark.parametrize(
    ("status_code", "code", "retry_after", "words"),
    [
        (503, "llm_not_configured", None, "No."),
        (429, "too_many_streams", 1, "No. Try again in 1 second."),
        (429, "rate_limited", 100, "No. Try again in 100 seconds."),
        (503, "busy", 150, "No. Try again in 3 minutes."),
        (429, "quota_exceeded", 40000, "No. Try again in 12 hours."),
    ],
)
def test_a_refusal_is_said_in_words_and_the_conversation_goes_on(
    playground: Playground, model: Model, status_code: int, code: str, retry_after: int | None, words: str
) -> None:
    model.refuses(status_code, code, "No.", retry_after)
    playground.ask("Hello?")
    status(playground).to_have_text(words)
    assert playground.said() == ["user: Hello?"]

    playground.page.evaluate("model.refusal = null")
    playground.page.get_by_role("button", name="Send", exact=True).click()  # nothing is typed: once more
    assert model.asked(2)["messages"] == [{"role": "user", "content": "Hello?"}]
    model.answers("Yes?", number=2)

    shown(playground).to_have_text("assistantYes?")
    status(playground).to_have_text("")


def test_an_error_half_way_is_said_in_words_and_the_text_so_far_stays(playground: Playground, model: Model) -> None:
    playground.ask("Hello?")
    model.asked()
    model.says("I am")
    error = {"code": "provider_timeout", "message": "The model took too long.", "request_id": "r-1"}
    model.send("error", {"error": error})
    status(playground).to_have_text("The model took too long.")
    playground.ask("Go on.")
    model.asked(2)
    model.says(" here")
    playground.page.evaluate("model.body.close()")

    status(playground).to_have_text("The answer was cut off.")
    assert playground.said() == ["user: Hello?", "assistant: I am", "user: Go on.", "assistant:  here"]


def test_there_is_nothing_to_send_before_something_is_typed(playground: Playground) -> None:
    playground.page.get_by_role("button", name="Send", exact=True).click()

    status(playground).to_have_text("Type a message first.")
    assert playground.page.evaluate("model.requests") == []


# --- On a phone. ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chat_fits_a_phone_and_keeps_nobody_out(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> None:
    """axe-core finds no violation of WCAG 2.2 AA, while an answer comes in and after it."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})
    context.add_init_script(MODEL)
    playground = Playground(context, url)
    begin(playground)
    model = Model(playground.page)
    playground.ask("A long word, please.")
    model.asked()
    model.says("x" * 200)
    shown(playground).to_contain_text("xxx")
    found = [Axe().run(playground.page).response["violations"]]
    model.ends()
    expect(playground.page.locator("#usage")).to_contain_text("1,234")
    found.append(Axe().run(playground.page).response["violations"])
    width = playground.page.evaluate("document.documentElement.scrollWidth")
    context.close()

    assert (found, width) == ([[], []], 360)
