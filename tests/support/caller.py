"""A caller with a canary in every place that a caller controls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from ipaddress import IPv4Address, IPv6Address
from secrets import randbits, token_hex
from urllib.parse import quote

from lumen_api.auth import TokenSigner
from tests.support import eventually
from tests.support.canaries import Canaries
from tests.support.production import SECRET, Production
from tests.support.service import Answer


class Caller:
    """Asks `production`. What came back is kept: `codes` of errors."""

    def __init__(self, production: Production, canaries: Canaries) -> None:
        self.production = production
        self.canaries = canaries
        self.codes: set[str] = set()
        self._port = production.service.port
        self._sessions = TokenSigner((SECRET,), purpose="session")
        self._links = TokenSigner((SECRET,), purpose="magic link")
        self._v4 = canaries.address("IPv4 of the caller", IPv4Address(f"198.51.100.{100 + randbits(7)}"))
        self._v6 = canaries.address("IPv6 of the caller", IPv6Address(0x20010DB8 << 96 | randbits(96)))
        self._other = canaries.address("another IPv4", IPv4Address(f"203.0.113.{100 + randbits(7)}"))
        self._asked = 0

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        cookie: str = "",
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        """One request with all of it. `body`: bytes, or anything else to be sent as JSON."""
        self._asked += 1
        query = "&".join(f"{self._word(f'query {part} name')}={self._word(f'query {part}')}" for part in "ab")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**dict(self._headers(method, cookie)), **({"Content-Type": "application/json"} if data else {})}
        connection = HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            target = f"{path}{'&' if '?' in path else '?'}{query}"
            connection.request(method, target, data, {**sent, **(headers or {})})
            response = connection.getresponse()
            answer = Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()
        if answer.status >= 400 and answer.body:
            self.codes.add(answer.json["error"]["code"])
        return answer

    def expect(self, code: str, method: str, path: str, body: object = None, **options: str | dict[str, str]) -> None:
        """Ask, and hear this error."""
        answer = self.ask(method, path, body, **options)  # type: ignore[arg-type]
        assert answer.json["error"]["code"] == code, (method, path, answer.body)

    def ok(self, method: str, path: str, body: object = None, **options: str | dict[str, str]) -> Answer:
        """Ask, and hear success."""
        answer = self.ask(method, path, body, **options)  # type: ignore[arg-type]
        assert answer.status == 200, (method, path, answer.body)
        return answer

    def link(self, who: str) -> str:
        """Ask for a link to a canary's address. Its token."""
        email = self.canaries.email(who)
        self.ok("POST", "/v1/auth/request-link", {"email": f" {email}\t"})
        eventually(lambda: self.production.mailbox.to(email.lower()))
        token = self.production.mailbox.token_for(email.lower())
        self.canaries.token(f"magic link of {who}", token)
        self._watch_digest(f"token_hash of {who}", self._links, token)
        return token

    def sign_in(self, who: str) -> str:
        """The cookie of a new sign-in."""
        answer = self.ok("POST", "/v1/auth/verify", {"token": self.link(who)})
        value = answer.cookie.partition("=")[2]
        self.canaries.token(f"session cookie of {who}", value)
        self._watch_digest(f"id_hash of {who}", self._sessions, value)
        self.canaries.uuid(
            f"user_id of {who}", self.ok("GET", "/v1/auth/session", cookie=answer.cookie).json["user_id"]
        )
        return answer.cookie

    def hash(self, what: str) -> str:
        """A transcript's."""
        value = token_hex(32)
        self.canaries.watch(what, value)
        return value

    def _word(self, what: str) -> str:
        return self.canaries.word(what)

    def _watch_digest(self, what: str, signer: TokenSigner, text: str) -> None:
        digest = signer.digest(text)
        assert digest is not None
        self.canaries.digest(what, digest)

    def _headers(self, method: str, cookie: str) -> Iterator[tuple[str, str]]:
        word, odd = self._word, self._asked % 2
        client = self._v4 if odd else self._v6
        yield "Host", f"{word('Host')}.example.com"
        yield "X-Forwarded-For", f"{self._other}, {word('X-Forwarded-For')}, {client}"
        yield "Forwarded", f'for="[{self._v6}]:8080";by={self._v4};host={word("Forwarded")}'
        for name in ("X-Real-IP", "True-Client-IP", "CF-Connecting-IP"):
            yield name, self._v4
        for name in ("X-Forwarded-Host", "X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Forwarded-Email", "From", "Via"):
            yield name, word(name)
        yield "User-Agent", f"Mozilla/5.0 ({word('User-Agent')}) Gecko"
        yield "Referer", f"https://{word('Referer host')}.example.com/{word('Referer path')}?{word('Referer query')}"
        for name in ("Accept", "Accept-Language", "If-None-Match", "If-Modified-Since", "Range", "Priority"):
            yield name, word(name)
        yield "Authorization", f"{'Bearer' if odd else 'Basic'} {word('Authorization')}"
        yield "Proxy-Authorization", f"Basic {word('Proxy-Authorization')}"
        yield "X-HTTP-Method-Override", word("X-HTTP-Method-Override")
        yield "X-Request-Id", f"{word('X-Request-Id')} of a wrong form"
        # One trace that is kept, with what must not come with it, and one of a wrong form.
        yield "traceparent", f"00-{token_hex(16)}-{token_hex(8)}-01" if odd else f"00-{word('traceparent')}-01"
        yield "tracestate", f"{word('tracestate name').lower()}={word('tracestate')}"
        yield "baggage", f"{word('baggage name')}={word('baggage')};{word('baggage property')}=1"
        for name in ("b3", "X-B3-TraceId", "uber-trace-id", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context"):
            yield name, word(name)
        yield f"X-{word('header name')}", word("header")
        yield f"x_{word('header name with underscore')}", "1"
        yield f"X-{quote(word('header name, encoded'))}%40", f"{word('header, in Latin-1')} \xe9"
        yield (
            "Cookie",
            "; ".join(
                [
                    *([cookie] if cookie else []),
                    f"{word('cookie name')}={word('cookie')}",
                    f'q="{word("quoted cookie")}"',
                ]
            ),
        )
        if method in ("GET", "HEAD", "OPTIONS"):
            yield "Origin", f"https://{word('Origin')}.example.com"
            yield "Sec-Fetch-Site", word("Sec-Fetch-Site")
            yield "Access-Control-Request-Method", word("Access-Control-Request-Method")
            yield "Access-Control-Request-Headers", word("Access-Control-Request-Headers")


def forged(token: str) -> str:
    """The same token with another signature."""
    return token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
