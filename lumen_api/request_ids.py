"""The id of a request: it is in the answer, and in every line that the request writes."""

from __future__ import annotations

import re
from random import getrandbits

# What a caller may choose: it reaches the logs, so nothing else may pass.
_CHOSEN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def chosen_or_new(given: str) -> str:
    """`given`, if a caller may choose that, or 32 new hexadecimal digits."""
    # Not uuid4(): it is no secret, and to ask the system for randomness is to give up Python's lock.
    return given if _CHOSEN.fullmatch(given) else f"{getrandbits(128):032x}"
