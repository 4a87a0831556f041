"""HTTP as it should not be, on real sockets: gunicorn or the application refuses it, and the service goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import ServiceFactory
from tests.support import eventually
from tests.support.contract import JSON_ROUTES, MAX_BODY
from tests.support.mailbox import Mailbox
from tests.support.raw_http import RawAnswer, chunked, request, talk
from tests.support.service import Service, unharmed

LINK = "/v1/auth/request-link"
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
GOOD = json.dumps(JSON_ROUTES[LINK]).encode()


@pytest.fixture
def service(serve: ServiceFactory) -> Iterator[Service]:
    """One worker, which must be the same and well when the test is over."""
    with unharmed(serve(workers=1)) as started:
        yield started


def one(answers: list[RawAnswer]) -> RawAnswer:
    """The only response."""
    (answer,) = answers
    return answer


def post(service: Service, path: str, *headers: str, body: bytes, hang_up: bool = False) -> RawAnswer:
    """The answer to one POST."""
    return one(talk(service.port, request("POST", path, JSON, *headers), body, hang_up=hang_up))


def test_a_chunked_body_is_a_body(service: Service, mailbox: Mailbox) -> None:
    whole = b"%x; name=value\r\n%b\r\n0\r\nX-Checksum: x\r\n\r\n" % (len(GOOD), GOOD)

    for body in (chunked(GOOD), chunked(GOOD, size=1), whole, chunked(GOOD.ljust(MAX_BODY))):
        assert post(service, LINK, CHUNKED, body=body).status == 200
    assert len(mailbox.to("ada@example.com")) == 4


def test_a_chunked_body_of_more_than_64_kib_is_too_large(service: Service, mailbox: Mailbox) -> None:
    # Spaces behind the object: whoever reads to the limit only has something to act on.
    bodies = {size: GOOD.ljust(size) for size in (MAX_BODY + 1, MAX_BODY + 5000, 2 * MAX_BODY, 1_000_000)}

    answers = {size: post(service, LINK, CHUNKED, body=chunked(body)) for size, body in bodies.items()}

    assert {size: (answer.status, answer.code) for size, answer in answers.items()} == dict.fromkeys(
        bodies, (413, "payload_too_large")
    )
    assert mailbox.messages == []


def test_a_chunked_body_is_too_large_for_routes_without_a_body_too(service: Service) -> None:
    body = chunked(b" " * (MAX_BODY + 1))

    for method, path in (("POST", "/v1/auth/logout"), ("DELETE", "/v1/account"), ("GET", "/v1/health")):
        answer = one(talk(service.port, request(method, path, CHUNKED), body))
        assert (answer.status, answer.code) == (413, "payload_too_large"), path


def test_a_chunked_body_for_no_route_is_not_found(service: Service) -> None:
    answer = post(service, "/v1/nothing", CHUNKED, body=chunked(b" " * 1_000_000))

    assert (answer.status, answer.code) == (404, "not_found")


BROKEN_CHUNKS = {
    "no number": b"zz\r\nhello\r\n0\r\n\r\n",
    "a negative number": b"-5\r\nhello\r\n0\r\n\r\n",
    "a number with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a number with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a number with an underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "more than it says": b"3\r\nhello\r\n0\r\n\r\n",
    "no end of line": b"5\r\nhelloXX0\r\n\r\n",
    "line feeds alone": b"5\nhello\n0\n\n",
    "a bad extension": b"5;\x00\r\nhello\r\n0\r\n\r\n",
    "a bad trailer": b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    "a length behind it": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "an endless size": b"1" * 20_000,
}
CUT_CHUNKS = {
    "inside a chunk": b"50\r\nhello",
    "before the last chunk": chunked(GOOD).removesuffix(b"0\r\n\r\n"),
    "inside the last chunk": chunked(GOOD).removesuffix(b"\r\n"),
    "inside a size": b"1",
    "before everything": b"",
    "behind a size above every limit": b"ffffffffffffffffffff\r\nhello",
}


def test_broken_chunks_are_a_bad_request(service: Service, mailbox: Mailbox) -> None:
    answers = {
        name: post(service, LINK, CHUNKED, body=body, hang_up=True)
        for name, body in {**BROKEN_CHUNKS, **CUT_CHUNKS}.items()
    }

    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 400)
    assert {answer.code for answer in answers.values()} <= {"bad_request", "invalid_json"}
    assert mailbox.messages == []


def test_a_body_shorter_than_its_length_is_a_bad_request(service: Service, mailbox: Mailbox) -> None:
    cut = GOOD[:-1]
    for length in (len(GOOD), 1000, MAX_BODY):
        answer = post(service, LINK, f"Content-Length: {length}", body=cut, hang_up=True)
        assert answer.status == 400
    for length in (2 * MAX_BODY, 10**12, 10**30):
        answer = post(service, LINK, f"Content-Length: {length}", body=cut, hang_up=True)
        assert (answer.status, answer.code) == (413, "payload_too_large")
    assert mailbox.messages == []


def test_a_client_that_goes_away_takes_no_thread_with_it(service: Service) -> None:
    # More of them than there are threads.
    for _ in range(20):
        talk(service.port, request("POST", LINK, JSON, "Content-Length: 1000"), GOOD[:5], hang_up=True)
        talk(service.port, request("POST", LINK, JSON)[:30], hang_up=True)

    eventually(lambda: service.call("GET", "/v1/health", timeout=5).status == 200)


DOUBTFUL_LENGTHS = [
    ["Content-Length: abc"],
    ["Content-Length: -1"],
    ["Content-Length: +28"],
    ["Content-Length: 2_8"],
    ["Content-Length: 28", "Content-Length: 5"],
    ["Content-Length: 28, 5"],
    ["Content-Length: 28", CHUNKED],
    [CHUNKED, CHUNKED],
    ["Transfer-Encoding: chunked, identity"],
    ["Transfer-Encoding: xchunked"],
    ["Transfer-Encoding : chunked"],
    ["Content-Length : 28"],
]


def test_a_body_of_doubtful_length_is_refused_and_nothing_behind_it_is_read(service: Service) -> None:
    smuggled = request("GET", "/v1/health")

    for headers in DOUBTFUL_LENGTHS:
        head = request("POST", LINK, JSON, *headers, close=False)
        answers = talk(service.port, head, GOOD, smuggled, hang_up=True)
        assert one(answers).status in (400, 501), headers


def test_a_refused_body_is_never_taken_for_the_next_request(service: Service) -> None:
    smuggled = request("DELETE", "/v1/smuggled")
    sized = f"Content-Length: {len(smuggled)}"
    heads = {
        404: request("POST", "/v1/nothing", JSON, sized, close=False),
        405: request("PUT", LINK, JSON, sized, close=False),
        403: request("POST", LINK, JSON, sized, "Origin: https://evil.example", close=False),
        415: request("POST", LINK, "Content-Type: text/plain", sized, close=False),
        400: request("POST", LINK, JSON, sized, close=False),
    }
    for status, head in heads.items():
        answers = talk(service.port, head, smuggled, request("GET", "/v1/health"))
        assert [answer.status for answer in answers] == [status, 200]
    large = smuggled * (2 * MAX_BODY // len(smuggled))
    answers = talk(service.port, request("POST", LINK, JSON, CHUNKED, close=False), chunked(large), hang_up=True)
    assert [answer.status for answer in answers] == [413]


def test_no_byte_of_an_address_or_a_header_is_an_error_of_ours(service: Service) -> None:
    heads = {
        "NUL in the path": request("GET", "/v1/health\x00"),
        "NUL in the query": request("GET", "/v1/sessions?limit=\x00"),
        "NUL in a header": request("GET", "/v1/health", "X-Request-Id: a\x00b"),
        "NUL in a header's name": request("GET", "/v1/health", "X-\x00: a"),
        "a percent-encoded NUL": request("GET", "/v1/health%00"),
        "no UTF-8 in the path": request("GET", "/v1/\xff\xfe"),
        "no UTF-8 in the query": request("GET", "/v1/sessions?limit=\xff\xfe"),
        "percent-encoded bytes in the path": request("GET", "/v1/%ff%fe%c0%80"),
        "percent-encoded bytes in the query": request("GET", "/v1/sessions?cursor=%ff%fe%c0%80%00"),
        "no UTF-8 in the cookie": request("GET", "/v1/auth/session", "Cookie: __Host-lumen_session=\xff\xfe"),
        "an escaped cookie": request("GET", "/v1/auth/session", r'Cookie: __Host-lumen_session="\377\000\012"'),
        "no UTF-8 in the origin": request("POST", "/v1/auth/logout", "Origin: \xff\xfe"),
        "no UTF-8 in the content type": request("POST", LINK, "Content-Type: \xff\xfe", "Content-Length: 0"),
        "a folded header": request("GET", "/v1/health", "X-Request-Id: a\r\n b"),
        "a bare carriage return": request("GET", "/v1/health", "X-Request-Id: a\rSet-Cookie: b"),
        "a lower-case method": request("get", "/v1/health"),
        "a method with a space": request("GE T", "/v1/health"),
        "a long path": request("GET", "/" + "a" * 4000),
        "a path above every limit": request("GET", "/" + "a" * 100_000),
        "a header above every limit": request("GET", "/v1/health", "X-Long: " + "a" * 100_000),
        "99 headers": request("GET", "/v1/health", *(f"X-{n}: y" for n in range(95))),
        "1,000 headers": request("GET", "/v1/health", *(f"X-{n}: y" for n in range(1000))),
        "a whole URL": request("GET", "http://evil.example/v1/health"),
        "a star": request("OPTIONS", "*"),
        "no path": request("GET", ""),
        "two hosts": request("GET", "/v1/health", "Host: evil.example"),
        "an old version": b"GET /v1/health HTTP/1.0\r\n\r\n",
        "a strange version": b"GET /v1/health HTTP/9.9\r\n\r\n",
        "no version": b"GET /v1/health\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }

    statuses = {
        name: [answer.status for answer in talk(service.port, head, hang_up=True)] for name, head in heads.items()
    }

    assert {
        name: found for name, found in statuses.items() if any(status not in range(200, 500) for status in found)
    } == {}
    assert statuses["99 headers"] == statuses["an old version"] == [200]
    assert statuses["a long path"] == statuses["a percent-encoded NUL"] == [404]
    assert statuses["no UTF-8 in the cookie"] == statuses["an escaped cookie"] == [401]


def test_no_header_of_the_caller_chooses_another_address(service: Service) -> None:
    for header in (
        "SCRIPT_NAME: /v1",
        "SCRIPT_NAME: /elsewhere",
        "SCRIPT-NAME: /v1",
        "PATH_INFO: /v1/health/ready",
        "X-Original-URL: /v1/nothing",
    ):
        answer = one(talk(service.port, request("GET", "/v1/health", header)))
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}\n'), header
