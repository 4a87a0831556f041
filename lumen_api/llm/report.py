"""What is told about a call: one log line, one span, three metrics. Never a word of what was said."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from time import perf_counter

from flask import g

from lumen_api.errors import ApiError
from lumen_api.llm.provider import Account
from lumen_api.llm.request import Request
from lumen_api.observability import metrics, tracing
from lumen_api.observability.logging import current_ids, log_event


class Report:
    """Of one call. Made in the context of its request, which a stream outlives."""

    def __init__(self, request: Request, provider: str) -> None:
        """The call begins."""
        self._request = request
        self._provider = provider
        self._state = g._get_current_object()
        self._ids = current_ids()
        self._begun = perf_counter()
        self._first: float | None = None
        self._span = tracing.begin(
            f"chat {request.model}",
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": request.model,
                "gen_ai.request.max_tokens": request.max_tokens,
                "gen_ai.request.stream": request.stream,
            },
        )

    def first_bytes(self) -> None:
        """The first bytes of a stream are there."""
        self._first = perf_counter()

    def inside(self) -> AbstractContextManager[object]:
        """What is done in this block is traced as a part of the call."""
        return self._span.active()

    def unexpected(self, error: Exception) -> None:
        """Something that nobody has expected, in the middle of a stream."""
        log_event("unhandled_error", logging.ERROR, exc_info=error, **self._ids)

    def end(self, account: Account, error: ApiError | None, *, charged: int | None) -> None:
        """The call has ended. `charged`: None if it could not be settled."""
        if error is not None:
            self._state.error = error  # for the request's own line, which is written when a stream has ended
        seconds, ttft = perf_counter() - self._begun, self._first and self._first - self._begun
        tokens, model = account.last, self._request.model
        error_class = type(error.__cause__ or error).__name__ if error else None
        status = error.status if error else 200
        log_event(
            "llm_call",
            logging.ERROR if status >= 500 else logging.INFO,
            **self._ids,
            model=model,
            stream=self._request.stream,
            status=status,
            error_class=error_class,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            charged_tokens=charged,
            ttft_ms=None if ttft is None else round(ttft * 1000, 3),
            duration_ms=round(seconds * 1000, 3),
            provider_request_id=account.request_id,
        )
        metrics.MODEL_DURATION.record(seconds, "chat", self._provider, model, error_class)
        if ttft is not None:
            metrics.MODEL_FIRST_CHUNK.record(ttft, "chat", self._provider, model)
        for kind, count in (("input", tokens.input), ("output", tokens.output)):
            if count is not None:
                metrics.MODEL_TOKENS.record(count, "chat", self._provider, model, kind)
        self._span.end(
            {
                "gen_ai.usage.input_tokens": tokens.input,
                "gen_ai.usage.output_tokens": tokens.output,
                "error.type": error_class,
            },
            failed=status >= 500,
        )
