"""The mail with the link: what is in it, what is not, and what the terminal shows of it in development."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser

import pytest

from lumen_api.email import in_words
from tests.conftest import AppFactory
from tests.support.journeys import request_link
from tests.support.mailbox import Mailbox, text_of, token_in

ADA = "ada@example.com"


class Page(HTMLParser):
    """The HTML part, taken apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, *names: str) -> list[str | None]:
        """The values of these attributes, wherever they are."""
        return [value for _, attrs in self.tags for name, value in attrs.items() if name in names]


def mail_of(make_app: AppFactory, mailbox: Mailbox, **variables: str) -> EmailMessage:
    request_link(make_app(**variables).test_client(), mailbox)
    return mailbox.to(ADA)[-1]


def html_of(message: EmailMessage) -> str:
    part = message.get_body(("html",))
    assert part is not None
    return str(part.get_content())


@pytest.fixture
def mail(make_app: AppFactory, mailbox: Mailbox) -> EmailMessage:
    return mail_of(make_app, mailbox)


@pytest.fixture
def html(mail: EmailMessage) -> str:
    return html_of(mail)


def link_in(message: EmailMessage) -> str:
    """The link in the plain-text part."""
    (link,) = re.findall(r"https?://\S+", text_of(message))
    return str(link)


def test_both_parts_hold_the_same_link(mail: EmailMessage, html: str) -> None:
    link = link_in(mail)

    assert link.startswith("https://app.example.com/login/callback?token=")
    assert set(Page(html).attributes("href")) == {link}
    assert link in Page(html).text  # for a mail program that shows no buttons


def test_the_link_leads_to_app_url(make_app: AppFactory, mailbox: Mailbox) -> None:
    message = mail_of(make_app, mailbox, APP_URL="https://lumen.example.org/app/")

    assert link_in(message).startswith("https://lumen.example.org/app/login/callback?token=")


def test_an_address_with_html_in_it_is_shown_and_not_run(make_app: AppFactory, mailbox: Mailbox) -> None:
    base = "https://app.example.com/a'onclick='x'&ltb&amp"
    message = mail_of(make_app, mailbox, APP_URL=base)
    page = Page(html_of(message))

    assert not page.attributes("onclick")
    assert set(page.attributes("href")) == {link_in(message)}
    assert link_in(message).startswith(base)


def test_the_html_asks_nobody_for_anything(html: str) -> None:
    page = Page(html)

    tags = {tag for tag, _ in page.tags}
    assert tags <= {"html", "head", "meta", "title", "style", "body", "div", "h1", "p", "a", "br"}
    assert {name for _, attrs in page.tags for name in attrs} <= {
        *("lang", "charset", "name", "content", "class", "style", "href")
    }
    assert not re.findall(r"url\(|@import|@font-face|image", html)
    assert html.count("http") == 3  # the link alone: on the button, under the text, as text


def test_the_html_is_whole_in_dark_mode_too(html: str) -> None:
    metas = {attrs.get("name"): attrs.get("content") for tag, attrs in Page(html).tags if tag == "meta"}

    assert metas["color-scheme"] == "light dark"
    assert "@media (prefers-color-scheme: dark)" in html


def luminance(color: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", ["text", "quiet", "link", "button"])
def test_text_stands_out_from_its_background(html: str, name: str, mode: str) -> None:
    inline = {str(attrs["class"]): str(attrs["style"]) for _, attrs in Page(html).tags if "class" in attrs}
    dark = dict(re.findall(r"\.(\w+) \{ (.*?) \}", html))
    styles = inline if mode == "light" else dark

    def color(of: str, what: str) -> str:
        found = re.search(rf"(?<![-\w]){what}: ?(#[0-9a-f]{{6}})", styles[of])
        assert found, f"{of} has no {what} in {mode} mode"
        return found[1]

    background = color("button" if name == "button" else "page", "background-color")

    assert contrast(color(name, "color"), background) >= 4.5  # WCAG 2.2, 1.4.3


def test_the_plain_text_is_plain(mail: EmailMessage) -> None:
    text = text_of(mail)

    assert not re.search(r"[<>]|&\w+;|\{|\}", text)
    assert link_in(mail) in text.splitlines()  # alone on its line, so that mail programs do not cut it
    assert all(len(line) <= 120 for line in text.splitlines() if line != link_in(mail))


@pytest.mark.parametrize(
    ("ttl", "words"),
    [("10m", "10 minutes"), ("90m", "1 hour and 30 minutes"), ("45", "45 seconds"), ("1d", "1 day")],
)
def test_both_parts_say_how_long_the_link_lives(make_app: AppFactory, mailbox: Mailbox, ttl: str, words: str) -> None:
    message = mail_of(make_app, mailbox, AUTH_TOKEN_TTL=ttl)

    assert f"for the next {words}." in text_of(message)
    assert f"for the next {words}." in Page(html_of(message)).text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (61, "1 minute and 1 second"),
        (90, "1 minute and 30 seconds"),
        (600, "10 minutes"),
        (3600, "1 hour"),
        (3601, "1 hour and 1 second"),
        (5400, "1 hour and 30 minutes"),
        (7325, "2 hours, 2 minutes and 5 seconds"),
        (86400, "1 day"),
        (2 * 86400 + 60, "2 days and 1 minute"),
        (90061, "1 day, 1 hour, 1 minute and 1 second"),
    ],
)
def test_a_duration_reads_as_a_person_would_say_it(seconds: int, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


def test_the_header_says_what_a_mail_program_needs(mail: EmailMessage) -> None:
    assert mail["From"] == "Lumen <hello@example.com>"
    assert mail["To"] == ADA
    assert mail["Subject"] == "Sign in to Lumen"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert abs(parsedate_to_datetime(mail["Date"]).replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert re.fullmatch(r"<\S+@example\.com>", mail["Message-ID"])
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


def test_the_header_holds_nothing_to_track_by(mail: EmailMessage) -> None:
    assert {name.lower() for name in mail} <= {
        *("from", "to", "subject", "date", "message-id", "auto-submitted", "mime-version", "content-type"),
        *("x-peer", "x-mailfrom", "x-rcptto"),  # the test's own SMTP server adds these
    }
    token = token_in(text_of(mail))
    assert not any(token in value for value in mail.values())


def test_no_two_mails_share_a_message_id(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app().test_client()
    for _ in range(3):
        request_link(client, mailbox)

    assert len({message["Message-ID"] for message in mailbox.to(ADA)}) == 3


@pytest.mark.parametrize(
    ("sender", "name", "address"),
    [
        ("hello@example.com", "", "hello@example.com"),
        ('"Lumen, Inc." <hello@example.com>', "Lumen, Inc.", "hello@example.com"),
        ("Lumen <hello@bücher.example>", "Lumen", "hello@xn--bcher-kva.example"),
    ],
    ids=["address alone", "comma in the name", "domain beyond ASCII"],
)
def test_every_sender_that_is_accepted_can_send(
    make_app: AppFactory, mailbox: Mailbox, sender: str, name: str, address: str
) -> None:
    message = mail_of(make_app, mailbox, EMAIL_FROM=sender)

    (sent_from,) = message["From"].addresses
    assert (sent_from.display_name, sent_from.addr_spec) == (name, address)


def test_the_console_prints_the_link_and_not_the_address(
    make_app: AppFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_app(APP_ENV="development", SMTP_URL="").test_client()

    answer = client.post("/v1/auth/request-link", json={"email": "canary@example.com"})

    printed = "".join(capfd.readouterr())
    assert answer.get_json()["magic_link"] in printed
    assert "canary" not in printed
