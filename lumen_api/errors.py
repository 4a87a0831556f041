"""Errors as answers: a class is three facts, and there is one envelope for all of them.

    {"error": {"code": "...", "message": "...", "request_id": "..."}}

`code` is stable, `message` one sentence for a person. Nothing of the request or of the cause is in it.
"""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from lumen_api.observability.logging import log_event


class ApiError(Exception):
    """An answer that is not a success. Subclasses set the facts; `retry_after` is in seconds."""

    status: int
    code: str
    message: str
    retry_after: int | None = None

    def __init__(self) -> None:
        super().__init__(self.code)


class BadRequest(ApiError):
    status, code, message = 400, "bad_request", "The request could not be understood."


class InvalidJson(ApiError):
    status, code, message = 400, "invalid_json", "The body must be a JSON object in UTF-8."


class Unauthorized(ApiError):
    status, code, message = 401, "unauthorized", "Sign in first."


class OriginNotAllowed(ApiError):
    status, code, message = 403, "origin_not_allowed", "This web page may not do that."


class NotFound(ApiError):
    status, code, message = 404, "not_found", "There is nothing at this address."


class WrongMethod(ApiError):
    status, code, message = 405, "method_not_allowed", "This address does not answer to that method."


class PayloadTooLarge(ApiError):
    status, code, message = 413, "payload_too_large", "The body is too large."


class UnsupportedMediaType(ApiError):
    status, code, message = 415, "unsupported_media_type", "The body must be sent as application/json."


class RateLimited(ApiError):
    status, code, message = 429, "rate_limited", "Too many requests. Try again later."


class InternalError(ApiError):
    status, code, message = 500, "internal_error", "Something went wrong on our side."


class Busy(ApiError):
    status, code, message = 503, "busy", "The service is busy. Try again in a moment."
    retry_after = 1


class DatabaseUnavailable(ApiError):
    status, code, message = 503, "database_unavailable", "The service cannot reach its database. Try again in a moment."
    retry_after = 2


# What Flask and Werkzeug raise by themselves, in our words. Anything else of theirs is a BadRequest.
_OF_STATUS: dict[int | None, type[ApiError]] = {
    error.status: error for error in (NotFound, WrongMethod, PayloadTooLarge, UnsupportedMediaType, RateLimited)
}


def envelope(error: ApiError, **beside: Any) -> Response:
    """The error as a response, with `beside` next to its envelope."""
    g.error = error
    response = jsonify(**body_of(error, g.request_id), **beside)
    response.status_code = error.status
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def body_of(error: ApiError, request_id: str) -> dict[str, Any]:
    """The envelope, as JSON has it."""
    return {"error": {"code": error.code, "message": error.message, "request_id": request_id}}


def init_app(app: Flask) -> None:
    """Answer every error of `app` with the envelope."""
    app.register_error_handler(ApiError, envelope)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(Exception, _unexpected)


def _http_exception(error: HTTPException) -> Response:
    if error.code is not None and error.code >= 500:
        return _unexpected(error)
    response = envelope(_OF_STATUS.get(error.code, BadRequest)())
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _unexpected(error: Exception) -> Response:
    log_event("unhandled_error", logging.ERROR, exc_info=error)
    answer = InternalError()
    answer.__cause__ = error
    return envelope(answer)
