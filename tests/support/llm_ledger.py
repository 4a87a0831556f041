"""What a call costs by the rules in the documentation, worked out from what the provider has served."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.support import databases
from tests.support.anthropic import Request
from tests.support.anthropic_answers import Head
from tests.support.anthropic_events import Data
from tests.support.llm import ASKED

WORD = 5  # bytes, the space included


def reservation(**members: object) -> int:
    """The tokens that are set aside for a call."""
    asked = {**ASKED, **members}
    size = len(json.dumps(asked, separators=(",", ":")))
    return -(-size // 3) + int(str(asked["max_tokens"]))


def served(tries: Sequence[Request]) -> int:
    """The tokens of a call that the provider has sent."""
    return sum(request.served_input + request.served_output for request in tries)


def costs(tries: Sequence[Request]) -> set[int]:
    """What a call may cost that the provider has seen so often, unless its worker was killed.

    Mostly that is one number. But where the caller has left, the proxy alone knows what it had read by then.
    """
    if not tries:
        return {0}
    *earlier, last = tries
    # Another try comes only after one that was refused, or that an overload ended before its first word.
    before = sum(0 if _is_refused(request) else max(_of_a_stream(request)) for request in earlier)
    return {before + cost for cost in (_of_a_stream(last) if last.json.get("stream") else _of_a_whole(last))}


def _of_a_whole(request: Request) -> set[int]:
    whole = _input(request) + int(request.json["max_tokens"])
    if _is_refused(request):
        return {0, whole}
    return {whole, served([request])} if _places(request) == ["message"] and request.served_input else {whole}


def _of_a_stream(request: Request) -> set[int]:
    if _is_refused(request):
        return {0, _input(request)}
    text = -(-request.served_output * WORD // 3)
    estimate = request.served_input + max(1, text) if request.served_input else _input(request)
    if "message_stop" not in _places(request):
        return {estimate}
    # With the last word come the count and the end, unless the proxy has left just then.
    all_words = request.served_output == sum(step.output for step in _events(request))
    return {served([request]), *([estimate] if request.end == "client_gone" else [])} if all_words else {estimate}


def _is_refused(request: Request) -> bool:
    """Whether the provider says that it has done nothing: by a status, an error as the first event, or a reset."""
    assert request.answer
    return request.answer.status != 200 or Head() not in request.answer.steps or _places(request)[:1] == ["error"]


def _input(request: Request) -> int:
    """The estimate of the tokens of a request."""
    return -(-len(request.body) // 3)


def _events(request: Request) -> list[Data]:
    """What the provider meant to say, but for comments and pings."""
    assert request.answer
    return [step for step in request.answer.steps if isinstance(step, Data) and step.name not in ("comment", "ping")]


def _places(request: Request) -> list[str]:
    return [step.name for step in _events(request)] or [""]


def charged(database: str) -> dict[str, int]:
    """The tokens that each user is charged with, by e-mail address."""
    return _by_email(database, "llm_usage")


def charged_in_total(database: str) -> int:
    """The tokens that all together are charged with."""
    ((tokens,),) = databases.query(database, "select coalesce(sum(tokens), 0)::int from llm_totals")
    return int(tokens)


def still_reserved(database: str) -> dict[str, int]:
    """The tokens in reservations that nobody has settled, by e-mail address."""
    return _by_email(database, "llm_reservations")


def _by_email(database: str, table: str) -> dict[str, int]:
    rows = databases.query(
        database, f"select email, sum(tokens)::int from {table} join users using (user_id) group by 1"
    )
    return dict(rows)
