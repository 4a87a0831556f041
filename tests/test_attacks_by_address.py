"""Attacks by addresses and hosts, against gunicorn on real sockets: other spellings, other methods, forged headers."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support.attackers import JSON, LINK, post
from tests.support.credentials import new_cookie
from tests.support.mailbox import Mailbox, text_of
from tests.support.raw_http import RawAnswer, request, talk
from tests.support.service import Service

VERIFY, SESSION = "/v1/auth/verify", "/v1/auth/session"


@pytest.fixture
def service(serve: ServiceFactory) -> Service:
    """One worker."""
    return serve(workers=1)


def only(answers: list[RawAnswer]) -> int:
    """The status of the one answer."""
    (answer,) = answers
    return answer.status


# --- Hosts. ---


def mailed(service: Service, mailbox: Mailbox, target: str, *hosts: str) -> list[str]:
    """The statuses of a request for a link with these lines for a host, and the origins of the links in the mails."""
    mailbox.clear()
    body = b'{"email":"ada@example.com"}'
    lines = [f"POST {target} HTTP/1.1", *hosts, JSON, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    answers = talk(service.port, "\r\n".join(lines).encode("latin-1") + body)
    links = [text_of(message).partition("/login/callback")[0].split()[-1] for message in mailbox.messages]
    assert not any("evil" in message.as_string() for message in mailbox.messages)
    assert not any("evil" in str(answer.headers) for answer in answers)
    return [str(answer.status) for answer in answers] + links


SPOOFS = [
    (LINK, "Host: evil.example"),
    (LINK, "Host: app.example.com@evil.example"),
    (LINK, "Host: app.example.com.evil.example:80"),
    (LINK, "Host: evil.example/v1?"),
    (LINK, "Host: evil.example#"),
    (LINK, "Host: "),
    (LINK,),
    (LINK, "Host: app.example.com", "Host: evil.example"),
    (LINK, "Host: evil.example", "X-Forwarded-Host: evil.example", "X-Host: evil.example"),
    (LINK, "Host: lumen", "X_Forwarded_Host: evil.example", "Forwarded: host=evil.example;proto=http"),
    (LINK, "Host: lumen", "X-Original-URL: http://evil.example/", "X-Rewrite-URL: http://evil.example/"),
    (f"http://evil.example{LINK}", "Host: app.example.com"),
    (f"http://evil.example{LINK}", "Host: evil.example"),
    (f"https://app.example.com@evil.example:99{LINK}", "Host: app.example.com"),
    (f"//evil.example/..{LINK}", "Host: lumen"),
    (f"/{LINK}", "Host: evil.example"),
]


def test_a_link_leads_to_the_app_whatever_host_the_request_names(service: Service, mailbox: Mailbox) -> None:
    found = {spoof: mailed(service, mailbox, *spoof) for spoof in SPOOFS}

    right = (["200", "https://app.example.com"], ["400"], ["404"])
    assert {spoof: result for spoof, result in found.items() if result not in right} == {}
    assert found[(LINK, "Host: evil.example")] == right[0]


# --- Other spellings of an address. ---

SPELLINGS = [
    "//{}",
    "///{}",
    "/./{}",
    "/x/../{}",
    "/%2e%2e/{}",
    "/..%2f{}",
    "/..;/{}",
    "/%2f{}",
    "/{}/",
    "/{}//",
    "/{}/.",
    "/{}.",
    "/{}%20",
    "/{}%00",
    "/{}%0a",
    "/{};x=y",
    "/{}%3fx=y",
    "/{}#x",
    "/{}.json",
    "\\{}",
    "/%5c{}",
    "http://evil.example/{}",
    "http://evil.example//{}",
    "http://lumen@evil.example:99/{}",
]


def spellings(path: str) -> list[str]:
    """Other ways to write an address, which one part of a server may take for it and another not."""
    name = path.removeprefix("/")
    other = [name.replace("/", "//"), name.replace("/", "%2f"), name.replace("/", "%252f"), name.replace("/", "\\")]
    other += [name.replace("a", "%61"), name.replace("a", "%2561"), name.upper(), name.title(), "%76" + name[1:]]
    return [template.format(name) for template in SPELLINGS] + [f"/{one}" for one in other]


def test_no_other_spelling_of_an_address_is_open_to_strangers_or_foreign_pages(service: Service, app: Flask) -> None:
    cookie = f"Cookie: {new_cookie(app)['Cookie']}"
    foreign = "Origin: https://evil.example"

    strangers = {path: only(talk(service.port, request("GET", path))) for path in spellings("/v1/account")}
    pages = {path: only(talk(service.port, request("DELETE", path, cookie, foreign))) for path in strangers}
    owners = {path: only(talk(service.port, request("GET", path, cookie))) for path in strangers}

    assert {path: status for path, status in strangers.items() if status not in (400, 401, 404)} == {}
    assert {path: status for path, status in pages.items() if status not in (400, 403, 404)} == {}
    # What is the address for its owner was so for the others, too: the checks are those of the route.
    found = {path for path, status in owners.items() if status == 200}
    assert found == {path for path, status in strangers.items() if status == 401}
    assert found == {path for path, status in pages.items() if status == 403}
    assert found


def test_no_other_spelling_of_an_address_has_a_limit_of_its_own(serve: ServiceFactory) -> None:
    service = serve(workers=1, RATE_LIMIT_VERIFY_PER_IP="1/hour")
    assert only(talk(service.port, post(VERIFY, {"token": "guess"}))) == 401

    answers = {path: only(talk(service.port, post(path, {"token": "guess"}))) for path in spellings(VERIFY)}

    assert {path: status for path, status in answers.items() if status not in (400, 404, 429)} == {}
    assert 429 in answers.values()


def test_no_header_makes_another_method_of_a_request(service: Service, app: Flask) -> None:
    cookie = f"Cookie: {new_cookie(app)['Cookie']}"
    overrides = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method", "X-Original-Method")

    for header in overrides:
        answer = talk(service.port, request("GET", "/v1/account?_method=DELETE", cookie, f"{header}: DELETE"))
        assert only(answer) == 200, header
    assert only(talk(service.port, request("GET", SESSION, cookie))) == 200


def test_no_method_shows_a_page_the_cookie_that_it_sends(service: Service, app: Flask) -> None:
    cookie = new_cookie(app)["Cookie"]

    for method in ("TRACE", "TRACK", "DEBUG", "CONNECT", "PROPFIND"):
        (answer,) = talk(service.port, request(method, SESSION, f"Cookie: {cookie}"))
        assert answer.status == 405, method
        assert cookie.partition("=")[2] not in str(answer), method


# --- The caller's own address. ---


def test_no_other_spelling_of_the_forwarded_address_is_believed(serve: ServiceFactory) -> None:
    service = serve(workers=1, TRUSTED_PROXY_HOPS="1", RATE_LIMIT_VERIFY_PER_IP="1/hour")
    names = ["X_Forwarded_For", "X-Forwarded_For", "X-Real-IP", "Client-IP", "True-Client-IP", "X-Cluster-Client-IP"]

    def attempt(proxy_saw: str, name: str, forged: str) -> int:
        headers = [f"X-Forwarded-For: {proxy_saw}", f"{name}: {forged}"]
        return only(talk(service.port, post(VERIFY, {"token": "guess"}, *headers)))

    statuses = {
        name: [attempt(f"203.0.113.{number}", name, f"198.51.100.{number}{again}") for again in range(3)]
        for number, name in enumerate(names)
    }

    assert statuses == {name: [401, 429, 429] for name in names}
