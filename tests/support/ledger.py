"""What travellers were promised, in a ledger that is compared with the database at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from lumen_api.auth import TokenSigner
from tests.support import databases

Conversation = dict[str, str | None]  # started_at, ended_at and transcript_hash, as an answer gave them


@dataclass
class Link:
    """A magic link out of a mail, and what became of it."""

    token: str
    cookies: list[str] = field(default_factory=list)  # of the sign-ins that callers heard of
    doubts: int = 0  # attempts without an answer, or with a 503: they may have signed in
    refusals: int = 0
    void: bool = False  # another link of the address was used, or the account deleted

    @property
    def unheard(self) -> bool:
        """Whether it made a sign-in whose caller never got the cookie: an attempt in doubt, and then a refusal."""
        return bool(self.refusals and self.doubts and not self.cookies)

    @property
    def spent(self) -> bool:
        """Whether it is known to have made a sign-in, or that it cannot any more."""
        return bool(self.cookies or self.refusals or self.void)


@dataclass
class Account:
    """One address. Its traveller does one thing after another, so at the end nothing about it is in doubt."""

    email: str
    registered: bool = False
    user_id: str | None = None  # once it was asked for
    links: list[Link] = field(default_factory=list)
    live: set[str] = field(default_factory=set)  # cookies
    ended: set[str] = field(default_factory=set)
    unheard: int = 0  # live sign-ins without a known cookie
    conversations: dict[str, Conversation] = field(default_factory=dict)

    @property
    def sign_ins(self) -> int:
        """How many of them are good."""
        return len(self.live) + self.unheard

    def begin(self, *cookies: str) -> None:
        """A link was used: all others are void. No cookies: the caller was not answered."""
        self.registered = True
        self.live.update(cookies)
        self.unheard += not cookies
        self._void_links()

    def end(self, *cookies: str) -> None:
        """These are signed out."""
        self.live.difference_update(cookies)
        self.ended.update(cookies)

    def end_all(self) -> None:
        """All are signed out."""
        self.end(*self.live)
        self.unheard = 0

    def delete(self) -> None:
        """It is as if it had never been there."""
        self.end_all()
        self.registered, self.user_id = False, None
        self.conversations.clear()
        self._void_links()

    def _void_links(self) -> None:
        for link in self.links:
            link.void = True


class Ledger:
    """Everything that was answered, by all travellers. `problems` are broken promises, by the promise's name."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []
        self.problems: defaultdict[str, list[str]] = defaultdict(list)
        self.requests = 0
        self.acknowledged = Counter[str]()  # writes, by route
        self.unanswered: list[tuple[float, str]] = []  # when (monotonic seconds), and how
        self.slowest = 0.0
        self.calm_since = float("inf")  # monotonic seconds: when the last fault was over
        self.calm_requests = 0
        self.patience_ends = float("inf")  # monotonic seconds: during the faults travellers try as long as they last
        self._lock = Lock()

    def account(self, email: str) -> Account:
        """A new one."""
        account = Account(email)
        with self._lock:
            self.accounts.append(account)
        return account

    def problem(self, promise: str, text: str) -> None:
        """Note down a promise that was broken."""
        with self._lock:
            self.problems[promise].append(text)

    def request(self, sent: float, seconds: float) -> None:
        """Count a request that was sent at `sent` (monotonic) and was over after so many seconds."""
        with self._lock:
            self.requests += 1
            self.calm_requests += sent > self.calm_since
            self.slowest = max(self.slowest, seconds)

    def write(self, route: str) -> None:
        """Count a write that was acknowledged."""
        with self._lock:
            self.acknowledged[route] += 1

    def silence(self, when: float, how: str) -> None:
        """Count a connection that ended without an answer."""
        with self._lock:
            self.unanswered.append((when, how))

    def promise(self, account: Account, body: dict[str, Any]) -> None:
        """A conversation was acknowledged: what an earlier answer said of it stands."""
        told: Conversation = {
            name: body[name] for name in ("started_at", "ended_at", "transcript_hash") if name in body
        }
        before = account.conversations.get(body["session_id"], {})
        for name, value in before.items():
            if value is not None and told.get(name, value) != value:
                self.problem("kept", f"{account.email}: {name} of {body['session_id']} was {value}, is {told[name]}")
        account.conversations[body["session_id"]] = before | told

    def compare(self, url: str, secret: str) -> None:
        """Find the broken promises in the database."""
        found = Found.read(url)
        sessions, links = TokenSigner((secret,), purpose="session"), TokenSigner((secret,), purpose="magic link")
        for account in self.accounts:
            self._note("kept", account, found.lost(account, sessions, links))
            self._note("once", account, signed_in_twice(account))
            self._note("whole", account, found.half(account, sessions))
        for email in found.users.keys() - {account.email for account in self.accounts}:
            self.problem("whole", f"{email}: a user whom nobody knows")

    def _note(self, promise: str, account: Account, problems: Iterator[str]) -> None:
        for text in problems:
            self.problem(promise, f"{account.email}: {text}")


def signed_in_twice(account: Account) -> Iterator[str]:
    """The links that more than one caller got a cookie for."""
    return (f"one link signed in {len(link.cookies)} times" for link in account.links if len(link.cookies) > 1)


@dataclass(frozen=True)
class Found:
    """What is in the database, by address."""

    users: dict[str, str]
    sign_ins: dict[str, set[bytes]]
    links: dict[str, set[bytes]]
    conversations: dict[str, dict[str, Conversation]]

    @classmethod
    def read(cls, url: str) -> Found:
        sign_ins = "select email, id_hash from auth_sessions join users using (user_id)"
        time = """to_char({} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
        conversations = f"""
            select email, session_id, {time.format("started_at")}, {time.format("ended_at")}, transcript_hash
              from sessions join users using (user_id)
        """
        by_email: dict[str, dict[str, Conversation]] = defaultdict(dict)
        for email, session_id, started_at, ended_at, transcript_hash in databases.query(url, conversations):
            told = {"started_at": started_at, "ended_at": ended_at, "transcript_hash": transcript_hash}
            by_email[email][session_id] = told
        return cls(
            dict(databases.query(url, "select email, user_id::text from users")),
            digests(url, sign_ins),
            digests(url, "select email, token_hash from auth_tokens"),
            by_email,
        )

    def lost(self, account: Account, sessions: TokenSigner, links: TokenSigner) -> Iterator[str]:
        """Acknowledged and not there, or ended and still there."""
        email = account.email
        if account.user_id and self.users.get(email) != account.user_id:
            yield f"its user is {self.users.get(email)} and not {account.user_id}"
        if email in self.users and not account.registered:
            yield "its user is there, but was deleted, or never signed in"
        rows = self.sign_ins.get(email, set())
        yield from ("a sign-in is lost" for cookie in account.live if digest(sessions, cookie) not in rows)
        yield from ("an ended sign-in is there" for cookie in account.ended if digest(sessions, cookie) in rows)
        good = self.links.get(email, set())
        for link in account.links:
            if link.spent == (links.digest(link.token) in good):
                yield "a used link is there" if link.spent else "an unused link is lost"
        there = self.conversations.get(email, {})
        for session_id in account.conversations.keys() | there.keys():
            promised, stored = account.conversations.get(session_id), there.get(session_id)
            if stored is None or promised is None or stored != stored | promised:
                yield f"conversation {session_id} is {stored}, promised was {promised}"

    def half(self, account: Account, sessions: TokenSigner) -> Iterator[str]:
        """Sign-ins of which a part has happened: each link that was used up has made one, with its user."""
        rows = len(self.sign_ins.get(account.email, set()))
        if rows != account.sign_ins:
            yield f"{rows} sign-ins, but {account.sign_ins} links were used for one ({account.unheard} unheard)"
        if account.registered and account.email not in self.users:
            yield "a link was used, and there is no user"


def digest(signer: TokenSigner, cookie: str) -> bytes | None:
    """What the database knows a cookie ("name=value") by."""
    return signer.digest(cookie.partition("=")[2])


def digests(url: str, statement: str) -> dict[str, set[bytes]]:
    """The second column's values by the first's."""
    found = defaultdict(set)
    for email, value in databases.query(url, statement):
        found[email].add(bytes(value))
    return found
