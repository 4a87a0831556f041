"""How long the deletion of an account takes whose user has 10,000 conversations, spread over the whole table."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.growth.latency import Asked, serving
from bench.growth.load import Loaded
from tests.support import databases


def measured(large: Loaded, env: dict[str, str], folder: Path) -> dict[str, Any]:
    """Each account is deleted right after a checkpoint, when every page that is changed is written to the log whole."""
    took = []
    with serving(env, folder) as port, closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        for who in large.heavies[1:]:
            ((sessions,),) = databases.query(large.url, "select count(*) from sessions where user_id = %s", who.user_id)
            databases.query(large.url, "set statement_timeout = 0; checkpoint")
            took.append(Asked(connection, [who]).time_of(("DELETE", "/v1/account", None), who))
            left = databases.query(large.url, "select from sessions where user_id = %s limit 1", who.user_id)
            assert left == [], "a conversation outlived its user"
    return {"sessions": sessions, "milliseconds": took}
