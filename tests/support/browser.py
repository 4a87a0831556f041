"""A real Chromium, and the playground in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.programs import path_of

# In containers there is no sandbox, and nothing is to be asked of the outside world.
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
ADA = "ada@example.com"


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
                self.page.get_by_role("button", name="Add the message").click()
            self.page.get_by_label("Message", exact=True).fill(message)

    def end(self) -> None:
        """End the session."""
        self.page.get_by_role("button", name="End the session").click()
        expect(self.page.get_by_role("button", name="Start a session")).to_be_visible()

    def listed(self) -> list[str]:
        """The ids in the list of sessions."""
        return [row.inner_text() for row in self.page.locator("#session-rows tr td:first-child").all()]
