"""Nobody has an account before signing in: OWASP ASVS 5.0.0, 6.3.2."""

from __future__ import annotations

from lumen_api import migrations
from tests.support import databases


def test_a_new_database_has_no_account_and_no_credential(empty: str) -> None:
    migrations.apply(empty)

    for table in ("users", "auth_tokens", "auth_sessions"):
        assert databases.query(empty, f"select from {table}") == [], table
