"""How the targets of tests/test_fuzz_*.py run: the same few examples in `make test`, many new ones in `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from time import process_time

from hypothesis import settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

fuzz = settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    deadline=None,
    print_blob=True,
    # Examples of other runs are no part of the same few.
    database=None,
)

# As large as a body may be (64 KiB): what takes quadratic time takes minutes.
LARGE = 64 * 1024
SECONDS = 2.0


def seconds_for(parse: Callable[[], object], *expected: type[Exception]) -> float:
    """What a call costs this thread's processor. It may raise what is `expected`, and nothing else."""
    began = process_time()
    with suppress(*expected):
        parse()
    return process_time() - began


def ending_otherwise(good: st.SearchStrategy[str], *endings: str) -> st.SearchStrategy[str]:
    """Good text with an `ending` behind it, or with another last character: other spellings of the same bytes."""
    last = good.map(lambda text: text[:-1] + chr(ord(text[-1]) + 1))
    return last | st.builds("{}{}".format, good, st.sampled_from(endings))


@st.composite
def mangled(draw: st.DrawFn, good: st.SearchStrategy[str], alphabet: str) -> str:
    """Good text with some characters changed, taken out, doubled or put in: nearer to the edges than random text."""
    text = draw(good)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 3))
        new = draw(st.text(alphabet, max_size=3) | st.text(max_size=2) | st.just(text[at : at + length] * 2))
        text = text[:at] + new + text[at + length :]
    return text
