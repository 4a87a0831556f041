"""Clients that go through whole journeys on real sockets, send again as the contract says, and keep a ledger."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from random import Random
from secrets import token_hex
from threading import Event
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.support.chaos import Postbox
from tests.support.ledger import Account, Ledger, Link
from tests.support.service import Answer
from tests.support.wire import Wire

LINK, VERIFY, SESSION = "/v1/auth/request-link", "/v1/auth/verify", "/v1/auth/session"
LOGOUT, LOGOUT_ALL, ACCOUNT = "/v1/auth/logout", "/v1/auth/logout-all", "/v1/account"
START, END, LIST = "/v1/sessions/start", "/v1/sessions/end", "/v1/sessions"


class Stranded(Exception):
    """A promise was broken, and is noted down: this journey ends here."""


class Settled(NamedTuple):
    """An answer that leaves nothing open, and how many attempts before it did."""

    answer: Answer
    doubts: int


class Traveller:
    """A client that makes one journey after the other, each as a person with a new address."""

    def __init__(self, number: int, port: int, postbox: Postbox, ledger: Ledger, seed: int) -> None:
        self._name = f"traveller{number}"
        self._postbox = postbox
        self._ledger = ledger
        self._random = Random(f"{seed} {number}")
        self._wire = Wire(port, ledger, self._name)
        self._rival = Wire(port, ledger, f"{self._name}-rival")

    def travel(self, home: Event) -> None:
        """Make journeys until it is time to go home, and the last one to its end."""
        journeys = 0
        while not home.is_set():
            journeys += 1
            with suppress(Stranded):
                self._journey(self._ledger.account(f"{self._name}.{journeys}@example.com"))
        self._wire.close()
        self._rival.close()

    # --- Journeys. ---

    def _journey(self, account: Account) -> None:
        cookie = self._sign_in(account, race=self._random.random() < 0.5)
        for number in range(self._random.randrange(1, 6)):
            self._converse(account, cookie, f"conversation-{number}")
        self._list(account, cookie)
        if self._random.random() < 0.5:  # in the browser where she is signed in, or in another one
            along = self._random.choice(["", cookie])
            cookie = self._sign_in(account, along=along)
        end = self._random.choice([self._stay, self._leave, self._leave, self._leave_everywhere, self._delete])
        end(account, cookie)
        if self._random.random() < 0.2:
            self._leave_a_link(account)

    def _stay(self, account: Account, cookie: str) -> None:
        self._export(account, cookie)

    def _leave(self, account: Account, cookie: str) -> None:
        self._settle("POST", LOGOUT, cookie=cookie)
        account.end(cookie)
        self._settle("GET", SESSION, cookie=cookie, right=[401])

    def _leave_everywhere(self, account: Account, cookie: str) -> None:
        answer, doubts = self._settle("POST", LOGOUT_ALL, cookie=cookie, after_doubt=[401])
        if answer.status == 200 and answer.json["revoked"] != account.sign_ins:
            revoked = answer.json["revoked"]
            raise self._broken("kept", f"{account.email}: revoked {revoked} of {account.sign_ins}, {doubts=}")
        account.end_all()
        self._settle("GET", SESSION, cookie=cookie, right=[401])

    def _delete(self, account: Account, cookie: str) -> None:
        self._export(account, cookie)
        if self._random.random() < 0.3:
            self._leave_a_link(account)
        self._settle("DELETE", ACCOUNT, cookie=cookie, after_doubt=[401])
        account.delete()
        self._settle("GET", SESSION, cookie=cookie, right=[401])
        if self._random.random() < 0.3:
            self._list(account, self._sign_in(account))

    # --- Signing in. ---

    def _sign_in(self, account: Account, *, along: str = "", race: bool = False) -> str:
        """The cookie of a new sign-in. `along`: the cookie that the browser has already."""
        while time.monotonic() < self._ledger.patience_ends:
            for link in self._ask_for_link(account):
                account.links.append(link)
                racers = [self._wire, self._rival] if race else [self._wire]
                self._redeem(link, along, racers)
                if link.cookies or link.unheard:
                    account.begin(*link.cookies)
                    account.end(*filter(None, [along]))
                    break
            else:
                raise self._broken("kept", f"{account.email}: no link that was mailed works")
            if link.cookies:
                self._see_who_is_signed_in(account, link.cookies[0])
                return link.cookies[0]
        raise self._broken("kept", f"{account.email}: never got in")

    def _ask_for_link(self, account: Account) -> list[Link]:
        """The links that have arrived, newest first. An attempt that failed may have sent one, good or void."""
        before = len(self._postbox.tokens_for(account.email))
        self._settle("POST", LINK, {"email": account.email})
        tokens = self._postbox.tokens_for(account.email)[before:]
        if not tokens:
            raise self._broken("kept", f"{account.email}: no mail")
        return [Link(token) for token in reversed(tokens)]

    def _leave_a_link(self, account: Account) -> None:
        """Ask for a link, and never use it."""
        links = self._ask_for_link(account)
        if len(links) == 1:  # else it is not known which one is good
            account.links += links

    def _redeem(self, link: Link, along: str, racers: list[Wire]) -> None:
        verify = partial(self._settle, "POST", VERIFY, {"token": link.token}, cookie=along, right=[200, 401])
        with ThreadPoolExecutor(len(racers)) as threads:
            results = list(threads.map(lambda wire: verify(wire=wire), racers))
        for answer, doubts in results:
            link.doubts += doubts
            if answer.status == 200:
                link.cookies.append(answer.cookie)
            else:
                link.refusals += 1

    def _see_who_is_signed_in(self, account: Account, cookie: str) -> None:
        body = self._settle("GET", SESSION, cookie=cookie).answer.json
        account.user_id = account.user_id or body["user_id"]
        if (body["email"], body["user_id"]) != (account.email, account.user_id):
            raise self._broken("kept", f"{account.email} is signed in as {body}")

    # --- Being signed in. ---

    def _converse(self, account: Account, cookie: str, session_id: str) -> None:
        """Start and end, in this order or not, once or twice, with the client's own times or without."""
        start = {"session_id": session_id, **self._maybe({"started_at": "2026-01-02T03:04:05.678901Z"})}
        transcript_hash = token_hex(32)
        end = {"session_id": session_id, "transcript_hash": transcript_hash}
        end |= self._maybe({"ended_at": "2026-01-02T04:05:06.000007Z"})
        steps = self._random.choice(
            [[START], [START, END], [START, END], [END, START], [START, START, END, END], [END]]
        )
        for path in steps:
            answer = self._settle("POST", path, start if path == START else end, cookie=cookie).answer
            self._ledger.promise(account, answer.json)
            if path == END and answer.json["transcript_hash"] != transcript_hash:
                raise self._broken("kept", f"{account.email}: {end} was answered with {answer.json}")
        if END in steps and self._random.random() < 0.2:
            other = {"session_id": session_id, "transcript_hash": token_hex(32)}
            self._settle("POST", END, other, cookie=cookie, right=[409])

    def _maybe(self, members: dict[str, str]) -> dict[str, str]:
        return self._random.choice([members, {}])

    def _list(self, account: Account, cookie: str) -> None:
        """All pages."""
        seen: list[dict[str, Any]] = []
        path = f"{LIST}?limit=2"
        while path:
            body = self._settle("GET", path, cookie=cookie).answer.json
            seen += body["sessions"]
            path = f"{LIST}?limit=2&cursor={quote(body['next_cursor'])}" if body["next_cursor"] else ""
        self._hold_against(account, seen)

    def _export(self, account: Account, cookie: str) -> None:
        body = self._settle("GET", ACCOUNT, cookie=cookie).answer.json
        self._hold_against(account, body["sessions"])
        if len(body["sign_ins"]) != account.sign_ins:
            raise self._broken("whole", f"{account.email}: {len(body['sign_ins'])} sign-ins of {account.sign_ins}")

    def _hold_against(self, account: Account, sessions: list[dict[str, Any]]) -> None:
        if {session["session_id"] for session in sessions} != account.conversations.keys():
            raise self._broken("kept", f"{account.email}: {sessions}, promised {account.conversations}")
        for session in sessions:
            self._ledger.promise(account, session)

    # --- Asking, until there is an answer. ---

    def _settle(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        cookie: str = "",
        right: Collection[int] = (200,),
        after_doubt: Collection[int] = (),
        wire: Wire | None = None,
    ) -> Settled:
        """Send it again until an answer leaves nothing open. `after_doubt`: also right if an attempt was in doubt."""
        doubts = 0
        while time.monotonic() < self._ledger.patience_ends:
            answer = (wire or self._wire).ask(method, path, body, cookie=cookie)
            if answer is None or answer.status == 503:
                doubts += 1
                # A part of what the service asks for: a run has no time for patience.
                seconds = int(answer.headers.get("Retry-After", 1)) if answer else 1
                Event().wait(seconds * self._random.uniform(0.05, 0.3))
            elif answer.status in right or (doubts and answer.status in after_doubt):
                if answer.status == 200 and method != "GET":
                    self._ledger.write(f"{method} {path}")
                return Settled(answer, doubts)
            else:
                raise self._broken(
                    "kept", f"{method} {path} ({cookie=}): {answer.status} {answer.body!r} after {doubts=}"
                )
        raise self._broken("kept", f"{method} {path}: no answer that settles it")

    def _broken(self, promise: str, text: str) -> Stranded:
        self._ledger.problem(promise, text)
        return Stranded(text)
