"""What schemathesis needs to know beside `openapi.yaml`: its hooks, for tests/test_openapi_fuzz.py.

The document says in words how the token gets out of a link, and that a browser sends the cookie along. Here is both
for a machine. A sign-in is used until a request ends it.
"""

# ruff: noqa: ARG001 -- schemathesis calls hooks with these names

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis
import urllib3
from hypothesis import strategies as st
from schemathesis.core.failures import Failure

Case = schemathesis.Case[Any]

COOKIE = "lumen_session"  # its name in development
_ENDS = ("logout", "logoutAll", "deleteAccount")
# What no schema can say: which cursors the list has given out, and that 1.0 is no whole number here.
_BEYOND_SCHEMAS = (b'"invalid_cursor"', b'"max_tokens must be a whole number')
_sign_in: list[str] = []


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Development has the link in the answer, and another name for the cookie. The models are those of this server."""
    raw_schema["components"]["securitySchemes"]["cookie"]["name"] = COOKIE
    links = raw_schema["paths"]["/v1/auth/request-link"]["post"]["responses"]["200"]["links"]
    links["verify"]["requestBody"] = {"token": "{$response.body#/magic_link#regex:token=(.+)}"}
    message = raw_schema["paths"]["/v1/llm/messages"]["post"]
    members = message["requestBody"]["content"]["application/json"]["schema"]["properties"]
    members["model"]["enum"] = ["claude-sonnet-5-5", "claude-haiku-5-5"]
    # OpenAPI 3.1 describes the stream as one text, schemathesis each event of it.
    events = message["responses"]["200"]["content"]["text/event-stream"]
    events["schema"] = {"type": "object", "required": ["event", "data"]}


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: Case, response: schemathesis.Response) -> None:
    """Keep the cookie, as a browser does."""
    operation = case.operation.definition.raw["operationId"]
    if response.status_code == 200 and case.method in ("POST", "DELETE"):
        if operation == "verify":
            _sign_in[:] = [_value(response.headers["set-cookie"][0])]
        elif operation in _ENDS:
            _sign_in.clear()


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Failure, case: Case, response: schemathesis.Response
) -> bool:
    """Keep every failure but a refusal that no schema can foresee."""
    return not (failure.code == "ST202" and any(text in response.content for text in _BEYOND_SCHEMAS))


@schemathesis.auth(refresh_interval=None)
class SignIn:
    """The cookie of the last sign-in, or of a new one."""

    def get(self, case: Case, context: schemathesis.AuthContext) -> str:
        """Its value."""
        if not _sign_in:
            base = (case.operation.base_url or "").rstrip("/")
            link = urllib3.request("POST", f"{base}/v1/auth/request-link", json={"email": "ada@example.com"}).json()
            token = link["magic_link"].partition("token=")[2]
            answer = urllib3.request("POST", f"{base}/v1/auth/verify", json={"token": token})
            _sign_in.append(_value(answer.headers["Set-Cookie"]))
        return _sign_in[0]

    def set(self, case: Case, data: str, context: schemathesis.AuthContext) -> None:
        """Send it along."""
        case.cookies[COOKIE] = data


def _value(set_cookie: str) -> str:
    return set_cookie.partition("=")[2].partition(";")[0]


# Times in 2020 or later, and addresses that can exist: JSON Schema's formats let others through, like those at .test.
_FIRST, _DAYS = datetime(2020, 1, 1, tzinfo=UTC), 2_900_000  # to the year 9959
schemathesis.openapi.format(
    "date-time",
    st.timedeltas(timedelta(), timedelta(days=_DAYS)).map(lambda after: (_FIRST + after).isoformat()),
)
schemathesis.openapi.format("email", st.from_regex(r"\A[A-Za-z0-9+_-]{1,20}@[a-z0-9]{1,20}\.(com|org|de)\Z"))
