"""The service's log, read back: every line is JSON, and as docs/observability.md says."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonschema import Draft202012Validator

from tests.support import ROOT


@functools.cache
def schema() -> Draft202012Validator:
    """The schema in the documentation."""
    (text,) = re.findall(r"```json schema\n(.*?)```", (ROOT / "docs/observability.md").read_text(), re.DOTALL)
    document = json.loads(text)
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def read(text: str) -> list[dict[str, Any]]:
    """The events in `text`. Fails on a line that is no event of the schema."""
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        problems = [error.message for error in schema().iter_errors(event)]
        assert problems == [], f"{event}: {problems}"
    return events


@contextmanager
def recorded() -> Iterator[list[dict[str, Any]]]:
    """The events of ours that this process logs in the block, as they are written."""
    events: list[dict[str, Any]] = []
    handler = logging.Handler()
    handler.emit = lambda record: events.append({"event": record.msg, **vars(record)["fields"]})  # type: ignore[method-assign]
    logger = logging.getLogger("lumen")
    logger.addHandler(handler)
    try:
        yield events
    finally:
        logger.removeHandler(handler)
