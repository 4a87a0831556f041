"""Everything that a caller can do and do wrong, with canaries wherever something can be written."""

from __future__ import annotations

from base64 import urlsafe_b64encode

from tests.support import raw_http
from tests.support.caller import Caller, forged
from tests.support.contract import MAX_BODY
from tests.support.raw_http import RawAnswer
from tests.support.service import Answer

LINK, VERIFY = "/v1/auth/request-link", "/v1/auth/verify"
START, END = "/v1/sessions/start", "/v1/sessions/end"

# Each client reaches them only when it is meant to.
LIMITS = {
    "RATE_LIMIT_LINK_PER_IP": "40/minute",
    "RATE_LIMIT_LINK_PER_EMAIL": "10/minute",
    "RATE_LIMIT_VERIFY_PER_IP": "40/minute",
    "RATE_LIMIT_PER_USER": "80/minute",
    "RATE_LIMIT_LLM_PER_USER": "60/minute",
    "LLM_IDLE_TIMEOUT": "2s",
}

# What only a failing dependency brings, or none: test_privacy_*.py and test_llm_not_configured.py.
CODES_OF_FAULTS = {
    *("internal_error", "email_unavailable", "busy", "database_unavailable", "not_ready"),
    "llm_not_configured",
}
# What nobody hears, because the caller has gone.
CODES_IN_THE_LOG_ALONE = {"client_closed_request"}

# What gunicorn refuses, or half of a request. CANARY becomes one.
WIRE = [
    b"GET /CANARY HTTP/9.9\r\n\r\n",
    b"CANARY\r\n\r\n",
    b"CANARY! /CANARY HTTP/1.1\r\n\r\n",
    b"GET CANARY HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /CANARY\x00 HTTP/1.1\r\nHost: CANARY\r\n\r\n",
    b"GET /CANARY\xff\xfe?CANARY=\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://CANARY:CANARY@CANARY.example.com/v1/CANARY HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /CANARY HTTP/1.1\r\nCANARY CANARY\r\n\r\n",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\nCANARY : CANARY\r\n\r\n",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\nX-CANARY: 1\r\n CANARY\r\n\r\n",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\nX-CANARY: CANARY\x00\r\n\r\n",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\nContent-Length: CANARY\r\n\r\n",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nCANARY",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: CANARY\r\n\r\n",
    b"GET /v1/account HTTP/1.1\r\nHost: x\r\nExpect: CANARY\r\n\r\n",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\n" + b"X-CANARY: CANARY\r\n" * 200 + b"\r\n",
    b"GET /CANARY HTTP/1.1\r\nHost: x\r\nX-CANARY: " + b"CANARY" * 2000 + b"\r\n\r\n",
    b"GET /" + b"CANARY" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PROXY TCP4 203.0.113.7 203.0.113.8 56324 443\r\nGET /CANARY HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nCANARY",
    b"\x16\x03\x01CANARY",
    b"POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nCANARY\r\n\r\n",
    b"POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nCANARY\r\n\r\n",
    b'POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"CANARY',
    b'POST /v1/llm/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n{"system":"CANARY',
]


def succeed(caller: Caller) -> str:
    """Every route with success. Returns the cookie of a user who is still signed in."""
    word = caller.canaries.word
    for path in ("/v1/health", "/v1/health/ready", "/v1/openapi.json"):
        caller.ok("GET", path)
    cookie = caller.sign_in("Ada")
    times = {"started_at": "2023-04-05T06:07:08.910111+00:00", "ended_at": "2023-04-05T17:18:19.202122Z"}
    for name, time in times.items():
        for spelling in (time, time.replace("T", " ")):
            caller.canaries.watch(name, spelling[:26])
    unknown = {word("unknown member"): {word("unknown member, nested"): [word("value of an unknown member")]}}
    for number in ("first", "second"):
        session = {"session_id": word(f"{number} session_id"), **times, **unknown}
        caller.ok("POST", START, session, cookie=cookie)
        caller.ok("POST", END, {**session, "transcript_hash": caller.hash(f"{number} hash")}, cookie=cookie)
    cursor = caller.ok("GET", "/v1/sessions?limit=1", cookie=cookie).json["next_cursor"]
    caller.canaries.watch("cursor", cursor)
    caller.ok("GET", f"/v1/sessions?cursor={cursor}", cookie=cookie)
    caller.ok("GET", "/v1/account", cookie=cookie)

    other = caller.sign_in("Bob")
    caller.ok("POST", VERIFY, {"token": caller.link("Bob"), **unknown}, cookie=other)  # ends the other
    caller.ok("POST", "/v1/auth/logout", cookie=caller.sign_in("Bob"))
    caller.ok("POST", "/v1/auth/logout", cookie=other)
    caller.ok("POST", "/v1/auth/logout-all", cookie=caller.sign_in("Bob"))
    caller.ok("DELETE", "/v1/account", unknown, cookie=caller.sign_in("Eve"))
    return cookie


def fail(caller: Caller, cookie: str) -> None:
    """Every error that is the caller's own fault."""
    _bodies(caller)
    _addresses(caller)
    _credentials(caller, cookie)
    _members(caller, cookie)
    _limits(caller, cookie)


def ask_for_everything(caller: Caller, rules: list[str]) -> list[Answer]:
    """Each route with each method, with nothing that it expects."""
    word = caller.canaries.word
    methods = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", word("method").upper())
    return [
        caller.ask(method, rule, body, cookie=f"__Host-lumen_session={word('made-up cookie')}")
        for rule in rules
        for method in methods
        for body in (None, {word("member of any body"): word("value in any body")})
        if body is None or method in ("POST", "DELETE")
    ]


def garble(caller: Caller) -> list[RawAnswer]:
    """What is no HTTP, or stops in the middle. Returns the answers."""
    port, answers = caller.production.service.port, []
    for number, text in enumerate(WIRE):
        canary = caller.canaries.word(f"garbage {number} on the wire").encode()
        answers += raw_http.talk(port, text.replace(b"CANARY", canary), hang_up=True)
    answers += _never_ending(caller)
    caller.codes.update(answer.code for answer in answers if answer.code)
    return answers


def _never_ending(caller: Caller) -> list[RawAnswer]:
    """What the server itself refuses: a head that is too large, and a request that does not come to its end."""
    port, word = caller.production.service.port, caller.canaries.word
    large = f"GET /{word('path of a large head')} HTTP/1.1\r\nX-Large: {word('large header')}".encode()
    slow = f"GET /{word('path of a slow request')} HTTP/1.1\r\nX-Slow: {word('slow header')}".encode()
    return raw_http.talk(port, large, b"a" * 70_000) + raw_http.talk(port, slow, timeout=20)


def _bodies(caller: Caller) -> None:
    word = caller.canaries.word
    canary = word("unreadable body").encode()
    for body in (
        b'{"%b": ' % canary,
        b'{"email": "%b\xff"}' % canary,
        b'["%b"]' % canary,
        b'"%b"' % canary,
        b'{"email": NaN, "%b": 1}' % canary,
        b'{"%b":' % canary + b"[" * 20_000,
    ):
        caller.expect("invalid_json", "POST", LINK, body)
    for name, text in (
        ("Content-Type", f"text/{word('content type')}; charset={word('charset')}"),
        ("Content-Type", word("odd content type")),
        ("Content-Encoding", word("content encoding")),
    ):
        caller.expect("unsupported_media_type", "POST", LINK, {"email": "x"}, headers={name: text})
    large = word("large body").encode() * (MAX_BODY // 10)
    caller.expect("payload_too_large", "POST", LINK, large)
    for name, text in (("Origin", f"https://{word('Origin')}.example.com"), ("Sec-Fetch-Site", word("Sec-Fetch-Site"))):
        caller.expect("origin_not_allowed", "POST", LINK, {"email": "x"}, headers={name: text})


def _addresses(caller: Caller) -> None:
    canary = caller.canaries.word("path")
    throughout = "".join(f"%{byte:02X}" for byte in canary.encode())
    for path in (
        "/CANARY",
        "//CANARY",
        "/v1/CANARY",
        "/v1/sessions/CANARY",
        "/v1/%0A%22CANARY%00",
        "/v1/account/CANARY/",
    ):
        caller.expect("not_found", "GET", path.replace("CANARY", canary))
        caller.expect("not_found", "POST", path.replace("CANARY", throughout), {"a": 1})
    caller.expect("method_not_allowed", caller.canaries.word("method").upper(), "/v1/account")


def _credentials(caller: Caller, cookie: str) -> None:
    word = caller.canaries.word
    used = caller.link("Mallory")
    caller.ok("POST", VERIFY, {"token": used})
    for token in (used, forged(used), word("token"), f"{word('token')}.{word('signature')}"):
        caller.expect("invalid_token", "POST", VERIFY, {"token": token})
    for body in ({}, {"token": None}, {"token": {word("token's type"): 1}}, {"token": f"{word('token')}\ud800"}):
        caller.expect("missing_token", "POST", VERIFY, body)
    for wrong in (f"__Host-lumen_session={word('cookie')}", forged(cookie)):
        for path in ("/v1/auth/session", "/v1/sessions", "/v1/account"):
            caller.expect("unauthorized", "GET", path, cookie=wrong)
    for email in (
        f"{word('email')}@",
        f"{word('email')}@@{word('email')}.example.com",
        f"{word('email')}\x00@example.com",
        f"{word('email')} <{word('email')}@example.com>",
        f"é{word('email')}@example.com",
        {word("email's type"): word("email")},
    ):
        caller.expect("invalid_email", "POST", LINK, {"email": email})


def _members(caller: Caller, cookie: str) -> None:
    word = caller.canaries.word
    good = {"session_id": word("first session_id"), "transcript_hash": caller.hash("another hash")}
    start, end = {"session_id": word("session_id")}, {**good, "session_id": word("session_id")}
    for code, path, body in (
        ("missing_session_id", START, {word("session_id"): 1}),
        ("invalid_session_id", START, {"session_id": f"{word('session_id')} with spaces"}),
        ("invalid_session_id", START, {"session_id": [word("session_id")]}),
        ("invalid_timestamp", START, {**start, "started_at": word("timestamp")}),
        ("invalid_timestamp", START, {**start, "started_at": f"1999-01-01T00:00:00Z {word('timestamp')}"}),
        ("missing_session_id", END, {**good, "session_id": None, word("session_id"): 1}),
        ("invalid_session_id", END, {**good, "session_id": f"{word('session_id')}\x00"}),
        ("missing_transcript_hash", END, start),
        ("invalid_transcript_hash", END, {**start, "transcript_hash": word("transcript_hash")}),
        ("invalid_transcript_hash", END, {**start, "transcript_hash": caller.hash("upper case hash").upper()}),
        ("invalid_timestamp", END, {**end, "ended_at": word("timestamp")}),
        ("session_already_ended", END, good),
    ):
        caller.expect(code, "POST", path, body, cookie=cookie)
    in_base64 = urlsafe_b64encode(f"2024-01-01T00:00:00.000000Z {word('cursor')}!".encode()).decode()
    for code, query in (
        ("invalid_cursor", f"cursor={word('cursor')}"),
        ("invalid_cursor", f"cursor={in_base64}"),
        ("invalid_limit", f"limit={word('limit')}"),
    ):
        caller.expect(code, "GET", f"/v1/sessions?{query}", cookie=cookie)


def _limits(caller: Caller, cookie: str) -> None:
    """One caller too many, for each rule. Two, because every second request comes from another address."""
    email = caller.canaries.email("Ada")
    _until_refused(caller, "POST", LINK, {"email": email}, cookie)
    _until_refused(caller, "POST", LINK, {"email": caller.canaries.word("email")}, cookie)
    _until_refused(caller, "POST", VERIFY, {"token": caller.canaries.word("token")}, cookie)
    _until_refused(caller, "GET", "/v1/account", None, cookie)


def _until_refused(caller: Caller, method: str, path: str, body: object, cookie: str) -> None:
    answers = (caller.ask(method, path, body, cookie=cookie).status for _ in range(100))
    assert 429 in answers
