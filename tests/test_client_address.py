"""Who the client is: the peer, or an address in X-Forwarded-For that a trusted proxy has written."""

from __future__ import annotations

import pytest
from flask import request
from werkzeug.test import TestResponse

from lumen_api import rate_limits
from lumen_api.rate_limits import network_of
from tests.conftest import AppFactory, ServiceFactory
from tests.support.mailbox import Mailbox, text_of

PROXY = "192.0.2.10"
CLIENT = "203.0.113.5"
FORWARDED = "X-Forwarded-For"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.5", "203.0.113.5"),
        (" 203.0.113.5 ", "203.0.113.5"),
        ("203.0.113.5:49152", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("2001:0db8:0001:0002:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::7]", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::7]:443", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("[fe80::1%25eth0]:80", "fe80::/64"),
        ("::1", "::/64"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("::FFFF:CB00:7105", "203.0.113.5"),
        ("[::ffff:203.0.113.5]:443", "203.0.113.5"),
    ],
)
def test_an_address_stands_for_itself_or_for_its_64(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "",
        " ",
        ",",
        "unknown",
        "_hidden",
        "localhost",
        "203.0.113",
        "203.0.113.5.6",
        "203.0.113.256",
        "203.0.113.5/24",
        "0xcb.0.113.5",
        "203.0.113.05",
        "3405803781",
        "２０３.0.113.5",
        "203。0。113。5",
        "٢٠٣.0.113.5",
        "2001:db8::1::2",
        "2001:db8:1:2:3:4:5:6:7",
        "[[2001:db8::1]]",
        "[]",
        "for=203.0.113.5",
        '"203.0.113.5"',
        "203.0.113.5\x00",
        "203.0.113.5\r\nX: y",
        "' or 1=1 --",
        "\udcff",
        "9" * 5000,
        ":" * 5000,
    ],
    ids=lambda garbage: ascii(garbage)[:40],
)
def test_what_is_no_address_is_counted_together(garbage: str | None) -> None:
    assert network_of(garbage) == "unknown"


def client_network(make_app: AppFactory, hops: int, *forwarded: str) -> str:
    """What the service takes the client's address for. Each of `forwarded` is one header."""
    app = make_app(TRUSTED_PROXY_HOPS=str(hops))
    seen: list[str] = []
    app.before_request(lambda: seen.append(rate_limits.current().client_network()))
    headers = [(FORWARDED, value) for value in forwarded]
    app.test_client().get("/v1/health", headers=headers, environ_base={"REMOTE_ADDR": PROXY})
    return seen[0]


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        (0, [], PROXY),
        (0, [CLIENT], PROXY),
        (1, [], PROXY),
        (1, [CLIENT], CLIENT),
        (1, ["198.51.100.1, 198.51.100.2, " + CLIENT], CLIENT),
        (1, ["198.51.100.1,198.51.100.2," + CLIENT], CLIENT),
        (1, ["198.51.100.1", CLIENT], CLIENT),
        (2, [CLIENT + ", 192.0.2.11"], CLIENT),
        (2, ["198.51.100.1, " + CLIENT + ", 192.0.2.11"], CLIENT),
        (2, ["198.51.100.1", CLIENT, "192.0.2.11"], CLIENT),
        (1, ['x", ' + CLIENT], CLIENT),  # a quotation mark makes no string of the list
        (1, ['"' + CLIENT], "unknown"),
        (1, ["198.51.100.1,"], PROXY),
        (2, [CLIENT], PROXY),
        (2, [], PROXY),
        (10, ["198.51.100.1, 198.51.100.2"], PROXY),
    ],
)
def test_the_client_is_the_nth_address_from_the_right(
    make_app: AppFactory, hops: int, forwarded: list[str], address: str
) -> None:
    assert client_network(make_app, hops, *forwarded) == address


def verify(make_app: AppFactory, hops: int, *forwarded: str) -> list[TestResponse]:
    """Attempts to sign in with these headers, of which one per hour and address is allowed."""
    client = make_app(TRUSTED_PROXY_HOPS=str(hops), RATE_LIMIT_VERIFY_PER_IP="1/hour").test_client()
    base = {"REMOTE_ADDR": PROXY}
    return [
        client.post("/v1/auth/verify", json={"token": "nonsense"}, headers={FORWARDED: value}, environ_base=base)
        for value in forwarded
    ]


@pytest.mark.parametrize(
    ("hops", "forwarded"),
    [
        (0, ["198.51.100.1", "198.51.100.2"]),
        (1, ["198.51.100.1, " + CLIENT, "198.51.100.2, " + CLIENT]),
        (1, [CLIENT, "198.51.100.1, 198.51.100.2, " + CLIENT]),
        (1, [CLIENT, "x" * 2000 + ", " + CLIENT]),
        (1, [CLIENT, CLIENT + ":5000"]),
        (1, [CLIENT, "::ffff:" + CLIENT]),
        (1, ["2001:db8:1:2::1", "2001:db8:1:2:ffff::2"]),
        (2, ["198.51.100.1, " + CLIENT + ", 192.0.2.11", "198.51.100.2, " + CLIENT + ", 192.0.2.12"]),
        (2, ["198.51.100.1", "198.51.100.2"]),
        (1, ["one", "two"]),
        (1, ["", ","]),
    ],
)
def test_nobody_escapes_the_limit_by_what_he_writes_into_the_header(
    make_app: AppFactory, hops: int, forwarded: list[str]
) -> None:
    first, second = verify(make_app, hops, *forwarded)

    assert (first.status_code, second.status_code) == (401, 429)


@pytest.mark.parametrize(
    ("hops", "forwarded"),
    [
        (1, ["203.0.113.5", "203.0.113.6"]),
        (1, ["2001:db8:1:2::1", "2001:db8:1:3::1"]),
        (2, ["203.0.113.5, 192.0.2.11", "203.0.113.6, 192.0.2.11"]),
    ],
)
def test_clients_behind_one_proxy_do_not_limit_each_other(
    make_app: AppFactory, hops: int, forwarded: list[str]
) -> None:
    first, second = verify(make_app, hops, *forwarded)

    assert (first.status_code, second.status_code) == (401, 401)


def test_clients_without_an_address_share_one_limit_and_get_answers(make_app: AppFactory) -> None:
    answers = verify(make_app, 1, "nonsense", "\x80\xff", "a, b, c")

    assert [answer.status_code for answer in answers] == [401, 429, 429]


@pytest.mark.parametrize("hops", ["0", "1", "2"])
def test_no_other_forwarded_header_changes_a_link_or_an_answer(
    make_app: AppFactory, mailbox: Mailbox, hops: str
) -> None:
    app = make_app(TRUSTED_PROXY_HOPS=hops)
    seen: list[str] = []
    app.before_request(lambda: seen.append(request.url))
    headers = {
        "X-Forwarded-Host": "forwarded.evil.example, forwarded.evil.example",
        "X-Forwarded-Proto": "gopher, gopher",
        "X-Forwarded-Port": "81, 81",
        "X-Forwarded-Prefix": "/evil, /evil",
        "X-Forwarded-Server": "evil.example",
        "Forwarded": "for=192.0.2.1;host=evil.example;proto=gopher",
        "X-Original-URL": "/evil",
        "Host": "evil.example",
    }
    with app.test_client() as client:
        answer = client.post("/v1/auth/request-link", json={"email": "ada@example.com"}, headers=headers)

    assert answer.status_code == 200
    (mail,) = mailbox.to("ada@example.com")
    assert "https://app.example.com/login/callback?token=" in text_of(mail)
    assert "evil" not in mail.as_string() + answer.text + str(answer.headers)
    assert seen == ["https://evil.example/v1/auth/request-link"]  # from Host alone; no answer is made of it


@pytest.mark.parametrize("path", ["/v1/health/", "//v1/health", "/v1//health", "/v1"])
def test_no_address_is_redirected_so_no_host_gets_into_a_redirect(make_app: AppFactory, path: str) -> None:
    client = make_app(TRUSTED_PROXY_HOPS="1").test_client()

    answer = client.get(path, headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})

    assert (answer.status_code, answer.headers.get("Location")) == (404, None)


def test_a_header_cannot_move_the_service_to_another_address(serve: ServiceFactory) -> None:
    service = serve(workers=1, TRUSTED_PROXY_HOPS="1")
    headers = [
        {"SCRIPT_NAME": "/v1"},
        {"SCRIPT_NAME": "/evil"},
        {"PATH_INFO": "/v1/health/ready"},
        {"X-Script-Name": "/evil"},
        {"X-Forwarded-Prefix": "/evil"},
        {"X-Forwarded-Proto": "gopher"},
        {"X-Forwarded-Proto": "http", "X-Forwarded-Ssl": "on"},
        {"X-Forwarded-Protocol": "ssl", "X-Forwarded-Proto": "http"},
    ]

    answers = [(header, service.call("GET", "/v1/health", headers=header)) for header in headers]

    assert [(header, answer.status, answer.body) for header, answer in answers] == [
        (header, 200, b'{"status":"ok"}\n') for header in headers
    ]
