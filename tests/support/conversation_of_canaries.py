"""Calls of the model in which every word is a canary, the caller's as the provider's, and where each word may go.

What is said to the model goes to the provider, and its answer to the caller, in the body alone. Whatever else either of
them sends goes nowhere: members and headers that are not passed on, the provider's headers, its errors, its nonsense.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tests.support import eventually
from tests.support.anthropic import API_KEY
from tests.support.anthropic_answers import (
    COOKIE,
    CUT,
    FOREVER,
    ORGANIZATION,
    RESET,
    Answer,
    Head,
    Raw,
    error,
    html,
    message,
    redirect,
    stream,
)
from tests.support.anthropic_events import MODEL, Data, error_event, event, text, to_json
from tests.support.caller import Caller
from tests.support.canaries import Canaries
from tests.support.service import Answer as Heard

MESSAGES, USAGE = "/v1/llm/messages", "/v1/llm/usage"

Failures = Iterator[tuple[str, Answer]]


class Conversation:
    """Everything that `caller` can say to the model, and the provider to us."""

    def __init__(self, caller: Caller) -> None:
        self.said = Canaries()  # to the provider
        self.answered = Canaries()  # to the caller
        self.dropped = Canaries()  # to nobody
        self.dropped.watch("organisation", ORGANIZATION)
        self.dropped.watch("the provider's cookie", COOKIE)
        self.key = Canaries()
        self.key.watch("LLM_PROVIDER_KEY", API_KEY)
        self._caller = caller
        self._provider = caller.production.provider
        self._heard: list[Heard] = []
        self._cookie = ""

    @property
    def canaries(self) -> Canaries:
        """All that was said, by whomever."""
        return self.said | self.answered | self.dropped | self.key

    def hold(self) -> None:
        """All of it, each part by another user, because of the limits."""
        for part in (self._succeed, self._fail, self._fail_half_way, self._ask_badly, self._leave, self._spend):
            self.sign_in(part.__name__)
            part()
            self.usage()

    def sign_in(self, who: str) -> None:
        """From now on it is this user who asks."""
        self._cookie = self._caller.sign_in(who)

    def strays(self) -> str:
        """What has gone where it should not, to the provider or to the caller; one a line."""
        nobody = self._caller.canaries | self.dropped
        found = []
        for asked in self._provider.finished():
            found += (nobody | self.said | self.answered).find(f"{asked.path} {asked.headers}")
            found += (nobody | self.answered | self.key).find(asked.body)
        for heard in self._heard:
            found += (nobody | self.said | self.answered | self.key).find(str(heard.headers))
            found += (nobody | self.said | self.key).find(heard.body)
        return "\n".join(found)

    def prompt(self, **members: object) -> dict[str, Any]:
        """A request with a canary in every place, and with `members`."""
        said, dropped = self.said.word, self.dropped.word
        block = {"type": "text", "text": said("block"), "cache_control": {dropped("member"): dropped("value")}}
        return {
            "model": MODEL,
            "max_tokens": 100,
            "messages": [
                {"role": "user", "content": f"é {said('text')}\n{said('more text')}", dropped("of a message"): 1},
                {"role": "assistant", "content": [block]},
                {"role": "user", "content": said("last text"), "name": dropped("name")},
            ],
            "system": [{"type": "text", "text": said("system")}],
            "stop_sequences": [said("stop sequence")],
            "metadata": {"user_id": dropped("metadata")},
            dropped("unknown member"): [dropped("value of an unknown member")],
            **members,
        }

    def ask(self, *answers: Answer, body: object = None, timeout: float = 30, **members: object) -> Heard:
        """Ask the model, which answers so. Returns what was heard."""
        if answers:
            self._provider.behave(*answers)
        names = ("x-api-key", "anthropic-beta", "anthropic-version", "anthropic-organization-id", "X-Stainless-Lang")
        heard = self._caller.ask(
            *("POST", MESSAGES, body or self.prompt(**members)),
            cookie=self._cookie,
            headers={name: self.dropped.word(name) for name in names},
            timeout=timeout,
        )
        self._heard.append(heard)
        return heard

    def expect(self, code: str, *answers: Answer, **options: Any) -> None:
        """Ask, and hear this error: as the answer, or at the end of a stream."""
        heard = self.ask(*answers, **options)
        found = re.findall(r'"error":\{"code":"(\w+)"', heard.body.decode(errors="replace"))
        assert found == [code], (heard.status, heard.body[-500:])
        self._caller.codes.add(code)

    def leave(self, answer: Answer, *, after: float = 0.5, **members: object) -> None:
        """Ask for a stream, and hang up when for so many seconds nothing has come."""
        with suppress(TimeoutError):
            self.ask(answer, stream=True, timeout=after, **members)
            raise AssertionError("it should not have ended")

    def usage(self) -> Any:
        """What the user has used."""
        return self._caller.ok("GET", USAGE, cookie=self._cookie).json

    # --- What works. ---

    def _succeed(self) -> None:
        for streamed, answer in ((False, self.whole()), (True, self.stream()), (True, self._odd_stream())):
            heard = self.ask(self._with_headers(answer), stream=streamed)
            assert heard.status == 200, heard.body
            assert self.answered.find(heard.body), heard.body
        assert self._provider.requests[-1].json["system"] == self.prompt()["system"]

    def whole(self) -> Answer:
        """An answer in one piece."""
        word = self.answered.word
        body = {
            "type": "message",
            "id": word("id"),
            "content": [{"type": "text", "text": word("text")}, {"type": word("type"), word("member"): word("value")}],
            "stop_reason": word("stop_reason"),
            "usage": {"input_tokens": 25, "output_tokens": 20, word("member of usage"): word("value of usage")},
        }
        return message().until("head", Data(to_json(body), "message", 25, 20))

    def stream(self) -> Answer:
        """The same, streamed."""
        word = self.answered.word
        return stream(word=f"{word('word')} ", stop_reason=word("stop_reason"), model=word("model of the answer"))

    def _odd_stream(self) -> Answer:
        word = self.answered.word
        canary = word("an unknown event").encode()
        return (
            self.stream()
            .after("head", event(word("unknown event"), {word("its member"): word("its value")}))
            .after("head", Data(b": %b\n\n" % canary), Data(b"event: %b\xff\ndata: {%b\xff\n\n" % (canary, canary)))
            .after("message_start", event("message_delta", {"usage": {"output_tokens": word("no number")}}))
            .after("message_start", text(f"{word('beginning of a long line')}{'x' * 70_000}{word('its end')}"))
            # Half of a character, which JSON can spell and UTF-8 cannot.
            .after(
                "message_start", Data(b'data: {"type":"content_block_delta","delta":{"x":"%b\\ud83d"}}\n\n' % canary)
            )
            .newlines("\r\n")
        )

    def _with_headers(self, answer: Answer) -> Answer:
        word = self.dropped.word
        return answer.with_headers(
            request_id=f"req_{word('request-id')} {word('rest of the request-id')}",
            set_cookie=f"{word('set-cookie name')}={word('set-cookie')}",
            retry_after=word("retry-after"),
            anthropic_organization_id=word("anthropic-organization-id"),
            server=f"{word('server')} \xe9",
            **{f"x-{word('header name')}": word("header")},
        )

    # --- What fails. ---

    def _fail(self) -> None:
        for code, answer in (*self._refusals(), *self._nonsense()):
            for streamed in (False, True):
                self.expect(code, self._with_headers(answer), stream=streamed)

    def _refusals(self) -> Failures:
        word = self.dropped.word
        for status, code in ((400, "rejected"), (413, "rejected"), (403, "error"), (500, "error"), (429, "overloaded")):
            yield f"provider_{code}", error(status, message=word("error.message"))
        said = {"type": "error", "error": {"type": word("error.type"), "message": word("error.message")}}
        yield "provider_error", message().until("head", Data(to_json(said), "error"))
        page = Data(f"<html>{word('page')}</html>".encode(), "html")
        kind = f"text/{word('content type')}; charset={word('charset')}"
        yield "provider_error", replace(html(502), steps=(Head(), page)).with_headers(content_type=kind)
        yield "provider_error", redirect(f"https://{word('Location')}.example.com")
        yield "provider_error", self.whole().with_headers(content_encoding=word("content-encoding"))

    def _nonsense(self) -> Failures:
        canary = self.dropped.word("nonsense").encode()
        for raw in (
            b"%b\r\n\r\n",
            b"HTTP/1.1 200 %b\r\n%b %b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n%b%b",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n%b%b",
            b"HTTP/1.1 500 %b\r\nContent-Length: 99\r\n\r\n%b%b",
            b"\x16\x03\x01%b",
        ):
            yield "provider_error", stream().until("request", Raw(raw.replace(b"%b", canary)), CUT)
        for body in (b'{"%b', b'{"%b\xff"}', b'["%b"]', b'{"type":"error","error":{"type":["%b"]}}'):
            yield "provider_error", message().until("head", Data(body.replace(b"%b", canary), "message"))
        yield "provider_error", stream().until("request", RESET)

    def _fail_half_way(self) -> None:
        word = self.dropped.word
        canary = word("nonsense in a stream").encode()
        failure = error_event(word("error.type"), word("error.message"))
        overload = error_event("overloaded_error", word("error.message"))
        for code, steps in (
            ("provider_error", (failure,)),
            ("provider_overloaded", (overload,)),
            ("provider_error", (Data(b'data: {"type":"error","error":{"type":{"%b":1}}}\n\n' % canary),)),
            ("provider_error", (Raw(b"%b\r\n" % canary), CUT)),
            ("provider_error", (Raw(b"400\r\ndata: %b" % canary), CUT)),
            ("provider_error", (Raw(b"400\r\ndata: %b" % canary), RESET)),
            ("provider_error", ()),
            ("provider_timeout", (Data(b"event: %b" % canary), FOREVER)),
        ):
            for place in ("head", "content_block_delta"):
                self.expect(code, self._with_headers(self.stream().until(place, *steps)), stream=True)
        self.expect("provider_timeout", message().until("request", FOREVER))

    # --- What the caller does wrong. ---

    def _ask_badly(self) -> None:
        word = self.said.word
        asked = len(self._provider.requests)
        for name, value in (
            ("messages", word("no list")),
            ("messages", [word("no object")]),
            ("messages", [{"role": word("role"), "content": word("text")}]),
            ("messages", [{"role": "user", "content": {word("member"): word("value")}}]),
            ("messages", [{"role": "user", "content": [{"type": word("type of a block"), "text": word("text")}]}]),
            ("messages", [{"role": "user", "content": f"{word('text')}\ud800"}]),
            ("max_tokens", word("no number")),
            ("temperature", word("no number")),
            ("system", f"{word('system')}\x00"),
            ("stop_sequences", [word("stop sequence")] * 5),
            ("stop_sequences", {word("stop sequence"): 1}),
            ("stream", word("neither true nor false")),
            ("model", [word("no text")]),
        ):
            self.expect("invalid_request", **{name: value})
        self.expect("model_not_allowed", model=word("model that is not allowed"))
        self.expect("model_not_allowed", model=f"{MODEL} {word('behind the model')}\n")
        self.expect("invalid_json", body=b'{"system": "%b\xff"}' % word("not UTF-8").encode())
        self.expect("payload_too_large", body=b'{"%b' % word("large body").encode() + b"x" * (2 << 20))
        assert len(self._provider.requests) == asked

    def _leave(self) -> None:
        """Before the first byte and in the middle; and twice at once, which leaves no room for a third call."""
        for place in ("request", "head", "content_block_delta"):
            self.leave(self.stream().until(place, FOREVER))
        asked = len(self._provider.finished())
        self.sign_in("somebody impatient")
        with ThreadPoolExecutor(2) as threads:
            slow = self.stream().until("content_block_delta", FOREVER)
            for _ in range(2):
                threads.submit(self.leave, slow, after=3)
            eventually(lambda: len(self._provider.requests) == asked + 2)
            self.expect("too_many_streams", stream=True)
        self._provider.finished()

    def _spend(self) -> None:
        """All that there is for a day; and then one call too many for the minute."""
        self.ask(message(input=1_000_000))
        self.expect("quota_exceeded")
        for _ in range(100):
            if self.ask(body={"model": self.said.word("model")}).json["error"]["code"] == "rate_limited":
                return
        raise AssertionError("nothing has stopped it")
