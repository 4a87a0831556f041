"""The model proxy's variables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from lumen_api import settings as kind
from lumen_api.settings import variable

_TOKENS = kind.integer(1, 999_999_999)


@dataclass(frozen=True, kw_only=True)
class LlmSettings:
    """Who answers calls of the model, and what they may cost: the part of Config that nothing but the proxy reads."""

    llm_provider_key: str | None = variable(
        "LLM_PROVIDER_KEY",
        kind.api_key,
        None,
        "Anthropic's API key. Without it a built-in echo answers in development, and nobody elsewhere.",
        show=kind.masked,
    )
    llm_provider_url: str = variable(
        "LLM_PROVIDER_URL", kind.web_url, "https://api.anthropic.com", "Where the provider's API is."
    )
    llm_models: tuple[str, ...] = variable(
        "LLM_MODELS", kind.models, "claude-sonnet-5-5,claude-haiku-5-5", "Models that may be asked for."
    )
    llm_max_output_tokens: int = variable(
        "LLM_MAX_OUTPUT_TOKENS", kind.integer(1, 1_000_000), "4096", "Largest `max_tokens` of a call."
    )
    llm_daily_tokens: int = variable(
        "LLM_DAILY_TOKENS", _TOKENS, "200000", "Tokens that one user may spend in a day (UTC), input and output."
    )
    llm_total_daily_tokens: int = variable(
        "LLM_TOTAL_DAILY_TOKENS", _TOKENS, "10000000", "Tokens that all users together may spend in a day (UTC)."
    )
    llm_idle_timeout: timedelta = variable(
        "LLM_IDLE_TIMEOUT", kind.duration, "60s", "How long the provider may be silent."
    )
    llm_total_timeout: timedelta = variable("LLM_TOTAL_TIMEOUT", kind.duration, "10m", "How long a call may take.")
    llm_calls_per_worker: int = variable(
        "LLM_CALLS_PER_WORKER",
        kind.integer(1, 1000),
        "256",
        "Calls that one worker process has under way at most. Each holds a thread.",
    )

    def _llm_problems(self) -> Iterator[tuple[str, str]]:
        # What could not be read is None, and has been complained of.
        largest = self.llm_max_output_tokens or 0
        budgets = {"LLM_DAILY_TOKENS": self.llm_daily_tokens, "LLM_TOTAL_DAILY_TOKENS": self.llm_total_daily_tokens}
        for name, tokens in budgets.items():
            if tokens and tokens <= largest:
                yield name, "must be more than LLM_MAX_OUTPUT_TOKENS, or a call of that size could never be made"
