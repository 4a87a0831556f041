"""The pictures in docs/images, taken from the playground in a real browser (`make screenshots`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from lumen_api import migrations
from lumen_api.dev import embedded_postgres
from tests.support import databases
from tests.support.browser import Playground, chromium
from tests.support.service import Service

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WORDS = ("I want to feel calmer today.", "Let's take a breath together. What weighs on you most?")


def main() -> None:
    """Serve on a database of its own, go through the journey, and save a picture at each step."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dsn = embedded_postgres.start(folder / "postgres")
        try:
            migrations.apply(dsn)
            env = {"APP_ENV": "development", "DATABASE_URL": databases.url_of(dsn, "postgres")}
            with Service(env, folder, workers=1) as service, chromium() as browser:
                take(browser, f"http://localhost:{service.port}")
        finally:
            embedded_postgres.leave(folder / "postgres")


def take(browser: Browser, url: str) -> None:
    """All pictures."""
    playground = Playground(browser.new_context(viewport={"width": 1280, "height": 860}), url)
    playground.ask_for_a_link()
    save(playground.page, "sign-in")
    playground.sign_in()
    playground.start()
    playground.say(*WORDS)
    expect(playground.page.locator("#hash")).not_to_be_empty()
    playground.page.set_viewport_size({"width": 1280, "height": 1140})  # down to the hash
    save(playground.page, "conversation")
    playground.page.goto(f"{url}/docs")
    playground.page.wait_for_load_state("networkidle")
    save(playground.page, "api-reference")

    phone = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
    playground = Playground(phone, url)
    playground.sign_in()
    playground.start()
    playground.say(*WORDS)
    save(playground.page, "phone")


def save(page: Page, name: str) -> None:
    """What is visible now."""
    page.wait_for_timeout(300)  # for the mail in its frame to be painted
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
