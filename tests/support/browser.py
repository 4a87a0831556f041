"""A real Chromium, and the playground in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.programs import path_of

# In containers there is no sandbox, and nothing is to be asked of the outside world.
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
ADA = "ada@example.com"

# In the page: the answer to a model call is what the test gives to `send`, and `usage` that of the day.
MODEL = """
const usage = { status: "ok", used: 1234, reserved: 0, limit: 200000, resets_at: "2026-11-24T00:00:00Z" };
window.model = { requests: [], usage, refusal: null };
const { fetch } = window;
window.fetch = async (url, init) => {
  if (url === "/v1/llm/usage") return Response.json(model.usage);
  if (url !== "/v1/llm/messages") return fetch(url, init);
  model.requests.push(JSON.parse(init.body));
  if (model.refusal) return new Response(...model.refusal);
  const body = new ReadableStream({ start: (controller) => (model.body = controller) });
  init.signal.addEventListener("abort", () => model.body.error(init.signal.reason));
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
};
model.send = (event, members) => {
  const data = JSON.stringify({ type: event, ...members });
  model.body.enqueue(new TextEncoder().encode(`event: ${event}\\ndata: ${data}\\n\\n`));
};
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path_of("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


class Playground:
    """The page at `url`, in a tab of `context`. What the console and the policy complain about is in `complaints`."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        """Opens the page."""
        self.context = context
        self.url = url
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def _note(self, message: Any) -> None:
        # A 401 before anybody has signed in is what the page asks for.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def ask_for_a_link(self, email: str = ADA) -> str:
        """Ask for a link, and return its address from the mail that is shown."""
        self.page.get_by_label("Email address").fill(email)
        self.page.get_by_role("button", name="Mail me a link").click()
        link = self.page.frame_locator("#mail-body").get_by_role("link", name="Sign in", exact=True)
        address: str | None = link.get_attribute("href")
        assert address
        return address

    def sign_in(self, email: str = ADA) -> None:
        """Ask for a link, and click it in the mail."""
        self.page.bring_to_front()  # a frame in a tab behind is not painted, and a click on it is lost
        self.ask_for_a_link(email)
        self.page.frame_locator("#mail-body").get_by_role("link", name="Sign in", exact=True).click()
        expect(self.page.locator("#who")).to_have_text(email)

    def start(self) -> str:
        """Start a session, and return its id."""
        self.page.get_by_role("button", name="Start a session").click()
        expect(self.page.locator("#conversation")).to_be_visible()
        session_id: str = self.page.locator("#session-id").inner_text()
        return session_id

    def say(self, *messages: str) -> None:
        """Type messages, and leave the last one in the field."""
        for number, message in enumerate(messages):
            if number:
                self.page.get_by_role("button", name="Add without sending").click()
            self.page.get_by_label("Message", exact=True).fill(message)

    def ask(self, message: str) -> None:
        """Send a message to the model."""
        self.page.get_by_label("Message", exact=True).fill(message)
        self.page.get_by_role("button", name="Send", exact=True).click()

    def said(self) -> list[str]:
        """The messages in the list, as "role: content"."""
        texts = "items => items.map((item) => [...item.childNodes].map((node) => node.textContent).join(': '))"
        said: list[str] = self.page.locator("#messages li").evaluate_all(texts)
        return said

    def end(self) -> None:
        """End the session."""
        self.page.get_by_role("button", name="End the session").click()
        expect(self.page.get_by_role("button", name="Start a session")).to_be_visible()

    def listed(self) -> list[str]:
        """The ids in the list of sessions."""
        return [row.inner_text() for row in self.page.locator("#session-rows tr td:first-child").all()]


class Model:
    """What answers to the page's model calls."""

    def __init__(self, page: Page) -> None:
        """The page has loaded MODEL."""
        self.page = page

    def asked(self, number: int = 1) -> dict[str, Any]:
        """The page's request of that number, once it is there."""
        self.page.wait_for_function("number => model.requests.length === number", arg=number)
        request: dict[str, Any] = self.page.evaluate("model.requests.at(-1)")
        return request

    def says(self, *pieces: str) -> None:
        """Send a part of the answer."""
        for piece in pieces:
            self.send("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}})

    def ends(self) -> None:
        """Send the answer's end."""
        self.send("message_stop", {})
        self.page.evaluate("model.body.close()")

    def send(self, event: str, members: dict[str, Any]) -> None:
        """Send an event."""
        self.page.evaluate("([event, members]) => model.send(event, members)", [event, members])

    def answers(self, *pieces: str, number: int = 1) -> None:
        """The whole answer to the request of that number."""
        self.asked(number)
        self.says(*pieces)
        self.ends()

    def refuses(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """Answer so from now on."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        body = json.dumps({"error": {"code": code, "message": message, "request_id": "r-1"}})
        self.page.evaluate("refusal => (model.refusal = refusal)", [body, {"status": status, "headers": headers}])
