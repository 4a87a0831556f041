"""Flask's own debug mode changes nothing for callers: OWASP ASVS 5.0.0, 13.4.2."""

from __future__ import annotations

import pytest

from tests.conftest import AppFactory
from tests.support.answers import CANARY, break_
from tests.support.contract import error_of, says


def test_flask_debug_in_the_environment_tells_the_caller_nothing(
    make_app: AppFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    app = make_app()
    break_(app)
    client = app.test_client()

    broken = client.get("/v1/broken")
    others = [client.get(path) for path in ("/console", "/?__debugger__=yes&cmd=resource&f=style.css")]

    assert app.debug  # it was switched on
    assert error_of(broken) == (500, "internal_error")
    assert not [word for word in (CANARY, "Broken", "Traceback", ".py") if says(broken, word)]
    assert {error_of(answer) for answer in others} == {(404, "not_found")}
