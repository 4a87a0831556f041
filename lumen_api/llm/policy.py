"""May a call run, and how large is it? Pure: no clock, no I/O, no Flask, no provider, the standard library alone.

The reservation in repositories/llm_usage.py decides by the same rules, in SQL, because only the database can decide
for all processes at once; here a refusal gets its name. A test holds the two to each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Characters of English are about four to a token (Anthropic's glossary); other languages need more tokens.
BYTES_PER_TOKEN = 3


class Rule(StrEnum):
    """What a call may not pass."""

    MODEL = "model"
    CALLS_AT_ONCE = "calls_at_once"
    DAILY_TOKENS = "daily_tokens"
    TOTAL_DAILY_TOKENS = "total_daily_tokens"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a call, one user and the whole service may use; tokens in a UTC day."""

    models: tuple[str, ...]
    max_output_tokens: int
    daily_tokens: int
    total_daily_tokens: int
    calls_at_once: int = 2


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What has been used today, reservations included: by the user, by all; and the user's calls under way."""

    tokens: int
    total_tokens: int
    calls: int


NOTHING = Usage(tokens=0, total_tokens=0, calls=0)


def estimate(input_bytes: int, max_tokens: int) -> int:
    """Tokens to reserve for a call: its input as counted by tokens_in(), and all that the model may answer."""
    return tokens_in(input_bytes) + max_tokens


def tokens_in(text_bytes: int) -> int:
    """About how many tokens a text of so many bytes has; rather too many than too few."""
    return -(-text_bytes // BYTES_PER_TOKEN)


def refusal(model: str, tokens: int, usage: Usage, limits: Limits) -> Rule | None:
    """The rule that stands against a call of so many `tokens`, or None: it may run."""
    if model not in limits.models:
        return Rule.MODEL
    if usage.calls >= limits.calls_at_once:
        return Rule.CALLS_AT_ONCE
    if usage.tokens + tokens > limits.daily_tokens:
        return Rule.DAILY_TOKENS
    if usage.total_tokens + tokens > limits.total_daily_tokens:
        return Rule.TOTAL_DAILY_TOKENS
    return None
