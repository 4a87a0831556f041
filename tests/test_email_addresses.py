"""One address, one account, one mailbox: what is stored is what is mailed, however it was typed."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support import databases
from tests.support.contract import error_of
from tests.support.mailbox import Mailbox, text_of, token_in

INVALID_EMAIL = (400, "invalid_email")
LABEL = "b" * 60

CANONICAL = {
    "ada@example.com": "ada@example.com",
    "ADA@EXAMPLE.COM": "ada@example.com",
    "  ada@example.com  ": "ada@example.com",
    "\t\r\n ada@example.com\r\n": "ada@example.com",
    "\u00a0ada@example.com\u2003\u2028": "ada@example.com",
    "Ada+Lumen@Example.com": "ada+lumen@example.com",
    "a.d.a@example.com": "a.d.a@example.com",
    "a@b.co": "a@b.co",
    "o'hara@example.com": "o'hara@example.com",
    "PostMaster@example.com": "postmaster@example.com",
    "!#$%&'*+-/?=^_`{|}~@example.com": "!#$%&'*+-/?=^_`{|}~@example.com",
    "ada%40evil.example@example.com": "ada%40evil.example@example.com",
    "-ada-@a-b.example.com": "-ada-@a-b.example.com",
    "ada@1.example.com": "ada@1.example.com",
    "ada@münchen.de": "ada@xn--mnchen-3ya.de",
    "ADA@MÜNCHEN.DE": "ada@xn--mnchen-3ya.de",
    "ada@mu\u0308nchen.de": "ada@xn--mnchen-3ya.de",
    "ada@XN--MNCHEN-3YA.de": "ada@xn--mnchen-3ya.de",
    "ada@例え.jp": "ada@xn--r8jz45g.jp",
    "ada@faß.de": "ada@xn--fa-hia.de",
    f"{'a' * 64}@example.com": f"{'a' * 64}@example.com",
    # 254 characters, as many as SMTP carries (RFC 5321, erratum 1690).
    f"{'A' * 64}@{LABEL}.{LABEL}.{LABEL}.bb.com": f"{'a' * 64}@{LABEL}.{LABEL}.{LABEL}.bb.com",
}

# The same address for a browser's eyes: the domain's letters have another form.
SAME_DOMAIN = {
    "full-width letters": "ada@ｅｘａｍｐｌｅ.ｃｏｍ",
    "full-width capitals": "ADA@ＥＸＡＭＰＬＥ.ＣＯＭ",
    "circled letters": "ada@ⓔⓧⓐⓜⓟⓛⓔ.com",
    "mathematical letters": "ada@𝐞𝐱𝐚𝐦𝐩𝐥𝐞.com",
    "an ideographic full stop": "ada@example。com",
    "a full-width full stop": "ada@example．com",
    "a half-width full stop": "ada@example｡com",
    "a soft hyphen": "ada@exam\u00adple.com",
    "a zero-width space": "ada@exam\u200bple.com",
    "a zero-width joiner": "ada@exam\u200dple.com",
    "a variation selector": "ada@example\ufe0f.com",
    "a byte order mark": "ada@\ufeffexample.com",
    "a modifier letter": "ada@ᵉxample.com",
}

# An account of its own, and a mailbox of its own.
OTHER_DOMAIN = {
    "a Cyrillic a": ("ada@ex\u0430mple.com", "ada@xn--exmple-4nf.com"),
    "an accent": ("ada@exámple.com", "ada@xn--exmple-qta.com"),
    "a dotless i": ("ada@fıne.com", "ada@xn--fne-jua.com"),
}

REFUSED = {
    "nothing": "",
    "spaces": "   ",
    "no at sign": "ada.example.com",
    "two at signs": "ada@bob@example.com",
    "no local part": "@example.com",
    "no domain": "ada@",
    "an at sign alone": "@",
    "a dot in front": ".ada@example.com",
    "a dot before the at sign": "ada.@example.com",
    "two dots": "a..da@example.com",
    "a dot behind the at sign": "ada@.example.com",
    "a dot at the end": "ada@example.com.",
    "two dots in the domain": "ada@example..com",
    "a hyphen before a label": "ada@-example.com",
    "a hyphen behind a label": "ada@example-.com",
    "an underscore in the domain": "ada@exa_mple.com",
    "a domain without a dot": "ada@localhost",
    "a top-level domain": "ada@com",
    "a domain for tests": "ada@example.test",
    "a domain that is never there": "ada@example.invalid",
    "a domain of the local network": "ada@printer.local",
    "a port": "ada@example.com:25",
    "a path": "ada@example.com/x",
    "an IPv4 address": "ada@127.0.0.1",
    "an IPv4 address in brackets": "ada@[127.0.0.1]",
    "an IPv6 address in brackets": "ada@[IPv6:::1]",
    "a comment": "ada(hello)@example.com",
    "a comment behind it": "ada@example.com (hello)",
    "a comment in the domain": "ada@(hello)example.com",
    "quotes": '"ada"@example.com',
    "quotes around a space": '"a da"@example.com',
    "quotes around an at sign": '"bob@evil.example"@example.com',
    "quotes in the middle": 'a"d"a@example.com',
    "a backslash": "a\\da@example.com",
    "a name": "Ada <ada@example.com>",
    "angle brackets": "<ada@example.com>",
    "mailto": "mailto:ada@example.com",
    "a source route": "@bob.example,@eve.example:ada@example.com",
    "a comma": "ada@example.com,bob@example.com",
    "a comma and a space": "ada@example.com, bob@example.com",
    "a semicolon": "ada@example.com;bob@example.com",
    "a space between": "ada@example.com bob@example.com",
    "a newline between": "ada@example.com\nbob@example.com",
    "a space in the local part": "a da@example.com",
    "a space before the at sign": "ada @example.com",
    "a tab": "a\tda@example.com",
    "a header behind it": "ada@example.com\r\nBcc: bob@example.com",
    "a header before it": "x\r\nBcc: bob@example.com\r\n\r\nada@example.com",
    "CR LF in the local part": "ada\r\n@example.com",
    "CR LF in the domain": "ada@exam\r\nple.com",
    "a folded line": "ada\r\n @example.com",
    "LF": "a\nda@example.com",
    "CR": "a\rda@example.com",
    "a line separator": "a\u2028da@example.com",
    "an SMTP command": "ada@example.com>\r\nRCPT TO:<bob@example.com",
    "a control character": "a\x1bda@example.com",
    "DEL": "a\x7fda@example.com",
    "a full-width at sign": "ada＠example.com",
    "a small at sign": "ada﹫example.com",
    "a full-width letter": "ｖictim@example.com",
    "a ligature": "ﬁona@example.com",
    "a full-width plus": "a＋b@example.com",
    "a Cyrillic letter": "\u0430da@example.com",
    "an accent": "adá@example.com",
    "a combining accent": "ada\u0301@example.com",
    "a dotless i": "adıl@example.com",
    "the Kelvin sign": "\u212aay@example.com",
    "a long s": "ſam@example.com",
    "an emoji": "🙂@example.com",
    "a zero-width space": "ada\u200b@example.com",
    "a soft hyphen": "a\u00adda@example.com",
    "a right-to-left override": "ada\u202e@example.com",
    "a no-break space": "a\u00a0da@example.com",
    "a byte order mark": "\ufeffada@example.com",
    "a tag letter": "ada\U000e0061@example.com",
    "a fraction in the domain": "ada@exam⁄ple.com",
    "a bracketed number in the domain": "ada@⑴.com",
    "broken Punycode": "ada@xn--a.com",
    "a label of 64 characters": f"ada@{'a' * 64}.com",
    "a local part of 65 characters": f"{'a' * 65}@example.com",
    "255 characters": f"{'a' * 64}@{LABEL}.{LABEL}.{LABEL}.bbb.com",
    "254 characters that are more in ASCII": f"{'a' * 64}@{'ü' * 30}.{'ü' * 40}.{'ü' * 40}.{'ü' * 40}.{'ü' * 30}.com",
    "60,000 dots": "." * 60_000,
    "60,000 at signs": "@" * 60_000,
    "a long domain": "ada@" + "a." * 20_000 + "com",
    "a list of quotes": '"' * 30_000 + "@example.com",
}


Known = dict[str, object]


def account_and_mailbox(client: FlaskClient, mailbox: Mailbox, database: str, typed: str) -> Known:
    """Sign in with an address as it was `typed`, and say under which names it is known to whom."""
    databases.empty(database)
    recipients: list[str] = []
    mailbox.clear()
    mailbox.answer_rcpt = recipients.append
    answer = client.post("/v1/auth/request-link", json={"email": typed})
    if answer.status_code != 200:
        return {"refused": error_of(answer), "mails": len(mailbox.messages)}
    (message,) = mailbox.messages
    assert client.post("/v1/auth/verify", json={"token": token_in(text_of(message))}).status_code == 200
    return {
        "envelope": recipients,
        "To": message.get_all("To"),
        "session": client.get("/v1/auth/session").get_json()["email"],
        "users": [email for (email,) in databases.query(database, "select email from users")],
    }


def known_as(address: str) -> Known:
    """The account and mailbox of `address`, when there is no other."""
    return {"envelope": [address], "To": [address], "session": address, "users": [address]}


def test_an_address_is_mailed_and_stored_in_its_canonical_form(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    found = {typed: account_and_mailbox(client, mailbox, database, typed) for typed in CANONICAL}

    assert found == {typed: known_as(canonical) for typed, canonical in CANONICAL.items()}


def test_a_look_alike_of_a_domain_is_refused_or_the_same_account_and_mailbox(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    right = (known_as("ada@example.com"), {"refused": INVALID_EMAIL, "mails": 0})

    found = {name: account_and_mailbox(client, mailbox, database, typed) for name, typed in SAME_DOMAIN.items()}

    assert {name: known for name, known in found.items() if known not in right} == {}
    # Some are the same: the test would say nothing if all of them were refused.
    assert found["full-width letters"] == known_as("ada@example.com")


def test_a_domain_of_other_letters_is_another_account_and_mailbox(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    found = {typed: account_and_mailbox(client, mailbox, database, typed) for typed, _ in OTHER_DOMAIN.values()}

    assert found == {typed: known_as(ascii_form) for typed, ascii_form in OTHER_DOMAIN.values()}


def test_what_is_no_address_is_refused_and_nothing_is_mailed_or_stored(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    answers = {
        name: error_of(client.post("/v1/auth/request-link", json={"email": typed})) for name, typed in REFUSED.items()
    }

    assert answers == dict.fromkeys(REFUSED, INVALID_EMAIL)
    assert mailbox.messages == []
    assert databases.query(database, "select from auth_tokens") == []


# RFC 2047 spells other characters in ASCII: a header that decodes them names somebody else.
ENCODED_WORDS = [
    "=?utf-8?q?bob?=@example.com",
    "=?utf-8?Q?bob=40evil.example=2c?=@example.com",
    "=?utf-8?q?bob=40evil.example=3e=0d=0abcc=3a?=@example.com",
    "=?utf-8?b?b0hi?=@example.com",
    "=?x?q?=40=22?=@example.com",
    "=?utf-8*en?q?bob?=@example.com",
    "a=?utf-8?q?bob?=@example.com",
]


def test_an_encoded_word_in_an_address_is_refused_or_never_decoded(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    found = {typed: account_and_mailbox(client, mailbox, database, typed) for typed in ENCODED_WORDS}

    refused: Known = {"refused": INVALID_EMAIL, "mails": 0}
    assert {typed: known for typed, known in found.items() if known not in (refused, known_as(typed))} == {}


def test_an_address_is_limited_in_its_canonical_form(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app(RATE_LIMIT_LINK_PER_EMAIL="1/hour").test_client()
    assert client.post("/v1/auth/request-link", json={"email": "ada@münchen.de"}).status_code == 200

    for typed in ("ADA@MÜNCHEN.DE", " ada@xn--mnchen-3ya.de\n", "ada@ｍünchen.de"):
        answer = client.post("/v1/auth/request-link", json={"email": typed})
        assert error_of(answer) == (429, "rate_limited"), typed
    assert len(mailbox.messages) == 1
