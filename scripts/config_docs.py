"""Render .env.example and the README's table of settings from Config (`make docs`). A test holds them to it."""

from __future__ import annotations

import re
from pathlib import Path

from config import Config

ROOT = Path(__file__).parent.parent

BEGIN, END = "<!-- settings: rendered by `make docs` -->", "<!-- /settings -->"


def env_example() -> str:
    """.env.example: every variable with its default, commented out."""
    parts = ["# Copy to .env for `flask run`; production sets real variables. Development needs none of them.\n"]
    for setting in Config.settings().values():
        parts.append(f"# {setting.doc} ({setting.type})\n#{setting.name}={setting.default or ''}\n".replace("`", ""))
    return "\n".join(parts)


def readme_table() -> str:
    """The table for the README."""
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for setting in Config.settings().values():
        default = f"`{setting.default}`" if setting.default else ""
        rows.append(f"| `{setting.name}` | {setting.type} | {default} | {setting.doc} |")
    return "\n".join([BEGIN, *rows, END])


def with_table(readme: str) -> str:
    """`readme` with the table as it should be."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: readme_table(), readme, flags=re.DOTALL)


if __name__ == "__main__":
    (ROOT / ".env.example").write_text(env_example())
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))
