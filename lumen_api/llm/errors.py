"""What can go wrong with a model call, as answers."""

from __future__ import annotations

from lumen_api.errors import ApiError, Busy


class LlmNotConfigured(ApiError):
    status, code, message = 503, "llm_not_configured", "This service has no model to talk to."
    retry_after = 3600


class ModelNotAllowed(ApiError):
    status, code, message = 400, "model_not_allowed", "This model is not offered here."


class TooManyStreams(ApiError):
    status, code, message = 429, "too_many_streams", "Another answer is still under way. Wait for it, or stop it."
    retry_after = 5


class QuotaExceeded(ApiError):
    """`retry_after` is until the day ends, when the budget is whole again."""

    status, code, message = 429, "quota_exceeded", "Today's budget for the model is used up."

    def __init__(self, retry_after: int) -> None:
        """Seconds."""
        super().__init__()
        self.retry_after = retry_after


class Restarting(Busy):
    """This process ends. Another one will answer."""

    message = "The service is being restarted. Try again in a moment."


class ProviderError(ApiError):
    """The provider failed, or what it said cannot be read. `again`: the same request may be sent once more."""

    status, code, message = 502, "provider_error", "The model could not answer. Try again in a moment."
    again = False


class KeyRefused(ProviderError):
    """The provider refuses our key: for the operator to mend, not for the caller."""


class Unanswered(ProviderError):
    """The connection was refused, or reset before a byte of the answer."""

    again = True


class ProviderRejected(ProviderError):
    status, code, message = 400, "provider_rejected", "The model cannot answer this request."


class ProviderTimeout(ProviderError):
    status, code, message = 504, "provider_timeout", "The model took too long. Try again in a moment."


class ProviderOverloaded(ProviderError):
    status, code, message = 503, "provider_overloaded", "The model is busy. Try again later."

    def __init__(self, retry_after: int | None = None, *, again: bool = False) -> None:
        """`retry_after`: the provider's, in seconds."""
        super().__init__()
        self.retry_after = 30 if retry_after is None else max(1, retry_after)
        self.again = again


class ClientGone(ApiError):
    """Nobody hears this. The status is nginx's."""

    status, code, message = 499, "client_closed_request", "The connection was closed before the answer was complete."
