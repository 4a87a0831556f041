"""Timestamps as the API reads and writes them: RFC 3339, and always with an offset."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]{1,32})?([Zz]|[+-][0-9]{2}:[0-5][0-9])"
)
_LATEST = datetime.max.replace(tzinfo=UTC)


def parse(text: str) -> datetime:
    """The moment that `text` names, in UTC, cut to microseconds. Raises ValueError if it is not RFC 3339."""
    # datetime.fromisoformat() alone reads more than the RFC allows: week dates, no offset, a comma.
    if not _DATE_TIME.fullmatch(text):
        raise ValueError("not an RFC 3339 date-time")
    moment = datetime.fromisoformat(text.upper())
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        # Years 1 and 9999 at a far offset. The first is long before anything, the second long after.
        return _LATEST if moment.year > 1 else datetime.min.replace(tzinfo=UTC)


def format(moment: datetime) -> str:
    """`moment` in UTC with microseconds and `Z`, like 2026-01-31T08:30:00.000000Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
