"""A database role that may do no more than docs/deploy.md grants is enough: OWASP ASVS 5.0.0, 13.2.2."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from tests.conftest import AppFactory
from tests.support import ROOT, databases
from tests.support.journeys import HASH, sign_in
from tests.support.mailbox import Mailbox


def documented(role: str, database: str) -> str:
    """The statements of docs/deploy.md for a role that is not the tables' owner."""
    (block,) = [text for text in re.findall(r"```sql\n(.*?)```", DEPLOY, re.DOTALL) if "grant select" in text]
    return str(block).replace("in database lumen ", f"in database {database} ").replace("lumen_web", role)


DEPLOY = (ROOT / "docs/deploy.md").read_text()


@pytest.fixture
def as_web_role(database: str) -> Iterator[str]:
    """The database's URL for a role that has been given those grants and nothing else."""
    owner, name = parse_dsn(database)["user"], parse_dsn(database)["dbname"]
    role = f"web_of_{name}"
    databases.query(database, f"create role {role} login")
    try:
        databases.query(database, documented(role, name))
        yield database.replace(f"//{owner}@", f"//{role}@", 1)
    finally:
        databases.query(database, f"drop owned by {role}; drop role {role}")


def test_the_whole_journey_works_with_the_documented_grants_alone(
    make_app: AppFactory, mailbox: Mailbox, as_web_role: str
) -> None:
    app = make_app(DATABASE_URL=as_web_role)
    client = app.test_client()
    sign_in(client, mailbox)

    answers = [
        client.get("/v1/health/ready"),
        client.post("/v1/sessions/start", json={"session_id": "one"}),
        client.post("/v1/sessions/end", json={"session_id": "one", "transcript_hash": HASH}),
        client.get("/v1/sessions"),
        client.get("/v1/llm/usage"),
        client.get("/v1/account"),
        client.delete("/v1/account"),
    ]

    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert app.test_cli_runner().invoke(args=["purge"]).exit_code == 0


@pytest.mark.parametrize(
    "statement",
    [
        "create table stolen (text text)",
        "alter table users add column note text",
        "drop table auth_sessions",
        "truncate users",
        "create role another",
        "copy users to '/tmp/users'",
        "select pg_read_file('/etc/passwd')",
        "select rolpassword from pg_authid",
        "delete from _yoyo_migration",
    ],
)
def test_that_role_may_do_nothing_else(as_web_role: str, statement: str) -> None:
    with pytest.raises(psycopg2.Error, match=r"permission denied|must be owner|must be able"):
        databases.query(as_web_role, statement)
