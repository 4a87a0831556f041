"""The one body reader, and each member's rule. All bad input ends as a 4xx here, before anything is done."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, NoReturn

from email_validator import EmailNotValidError, validate_email
from flask import Flask, request
from werkzeug.exceptions import RequestEntityTooLarge

from lumen_api import rfc3339
from lumen_api.errors import ApiError, BadRequest, InvalidJson, PayloadTooLarge, UnsupportedMediaType

MAX_BODY_BYTES = 64 * 1024
MAX_BYTES_OF_BLUEPRINT = {"llm": 2 * 1024 * 1024}  # whole conversations
_OF_A_BODY = {"CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"}  # as WSGI names them
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRANSCRIPT_HASH = re.compile(r"[0-9a-f]{64}")

Body = dict[str, Any]


class InvalidEmail(ApiError):
    status, code, message = 400, "invalid_email", "Give an email address that can receive mail."


class MissingToken(ApiError):
    status, code, message = 400, "missing_token", "Give the token from the link."


class MissingSessionId(ApiError):
    status, code, message = 400, "missing_session_id", "Give the session_id."


class InvalidSessionId(ApiError):
    status, code, message = 400, "invalid_session_id", "A session_id is 1 to 128 letters, digits or any of . _ : -"


class MissingTranscriptHash(ApiError):
    status, code, message = 400, "missing_transcript_hash", "Give the transcript_hash."


class InvalidTranscriptHash(ApiError):
    status, code, message = 400, "invalid_transcript_hash", "A transcript_hash is 64 lower-case hexadecimal digits."


class InvalidTimestamp(ApiError):
    status, code, message = (
        400,
        "invalid_timestamp",
        "A time is RFC 3339 with an offset, in 2020 or later, like 2026-01-31T08:30:00Z.",
    )


class InvalidLimit(ApiError):
    status, code, message = 400, "invalid_limit", "The limit is a whole number from 1 to 100."


def init_app(app: Flask) -> None:
    """Refuse bodies that are too large before anything is done with a request."""

    @app.before_request
    def refuse_large_bodies() -> None:
        if request.environ.keys().isdisjoint(_OF_A_BODY):
            return  # there is none (RFC 9112, section 6.3)
        # One more, because of a chunked body Werkzeug reads so many bytes and drops the rest in silence.
        request.max_content_length = _max_bytes() + 1
        # A chunked body says its size only by ending, so it is read here, to the limit at most.
        _body_bytes()


def read_json() -> Body:
    """The request's body, a JSON object. Raises UnsupportedMediaType or InvalidJson."""
    sent = _body_bytes()
    plain = request.headers.get("Content-Encoding", "identity") == "identity"
    if sent and not (plain and request.mimetype == "application/json"):
        raise UnsupportedMediaType
    try:
        body = json.loads(sent.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidJson from None
    if not isinstance(body, dict):
        raise InvalidJson
    return body


def read_nothing() -> None:
    """For routes without members: no body is needed, and one that came all the same is read by the same rules."""
    if _body_bytes():
        read_json()


def _body_bytes() -> bytes:
    try:
        body = request.get_data(cache=True)
    except RequestEntityTooLarge:
        raise
    except Exception:
        # A client that went away in the middle, or broken chunks: each WSGI server has errors of its own for that.
        raise BadRequest from None
    if len(body) > _max_bytes():
        raise PayloadTooLarge
    return body


def _max_bytes() -> int:
    return MAX_BYTES_OF_BLUEPRINT.get(request.blueprint or "", MAX_BODY_BYTES)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def email(body: Body) -> str:
    """The canonical form of the address in `email`: the one form that is stored, limited and mailed.

    Mailing what was typed and storing something else is how accounts are taken over.
    """
    value = _string(body.get("email"), InvalidEmail)
    try:
        valid = validate_email(value.strip(), check_deliverability=False, allow_smtputf8=False, strict=True)
    except EmailNotValidError:
        raise InvalidEmail from None
    address = valid.ascii_email
    # At most 254: RFC 5321, erratum 1690. "=?" begins an encoded word (RFC 2047): software on a mail's way reads
    # =?utf-8?q?bob?=@example.com as bob@example.com.
    if address is None or len(address) > 254 or "=?" in address:
        raise InvalidEmail
    return address.lower()


def token(body: Body) -> str:
    """The text in `token`; whether it is a good one is for the signature to say."""
    return _string(body.get("token") or None, MissingToken)


def session_id(body: Body) -> str:
    """The client's id for a conversation."""
    return _matching(body, "session_id", _SESSION_ID, MissingSessionId, InvalidSessionId)


def is_session_id(text: str) -> bool:
    """Whether `text` could be a client's id for a conversation."""
    return _SESSION_ID.fullmatch(text) is not None


def transcript_hash(body: Body) -> str:
    """A SHA-256 in lower-case hexadecimal (docs/transcript-hash.md)."""
    return _matching(body, "transcript_hash", _TRANSCRIPT_HASH, MissingTranscriptHash, InvalidTranscriptHash)


def timestamp(body: Body, name: str) -> datetime | None:
    """The moment in the optional member `name`, or None. Whether it lies ahead is for the database's clock to say."""
    if body.get(name) is None:
        return None
    try:
        moment = rfc3339.parse(_string(body[name], InvalidTimestamp))
    except ValueError:
        raise InvalidTimestamp from None
    if moment < EARLIEST:
        raise InvalidTimestamp
    return moment


def limit(default: int = 20, maximum: int = 100) -> int:
    """The query's `limit`."""
    value = request.args.get("limit")
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= maximum:
        raise InvalidLimit
    return int(value)


def _matching(body: Body, name: str, pattern: re.Pattern[str], missing: type[ApiError], invalid: type[ApiError]) -> str:
    if body.get(name) is None:
        raise missing
    value = _string(body[name], invalid)
    if not pattern.fullmatch(value):
        raise invalid
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _string(value: object, otherwise: type[ApiError]) -> str:
    """`value` if it is text that PostgreSQL and UTF-8 can hold; JSON can spell NUL and unpaired surrogates."""
    if not isinstance(value, str) or "\x00" in value or not _is_utf8(value):
        raise otherwise
    return value
