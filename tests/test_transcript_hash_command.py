"""`flask transcript-hash`: the digest of a JSON list of messages, or one sentence that says what is wrong with it."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from lumen_api.transcript_hash import transcript_hash
from tests.support import ROOT
from tests.test_config import PRODUCTION
from tests.test_transcript_hash import HASHED, REFUSED

MESSAGES = [{"role": "user", "content": "I want to feel calmer today."}, {"role": "assistant", "content": "Caf\u00e9?"}]
DIGEST = f"{transcript_hash(MESSAGES)}\n"
CANARY = "canary"


def command(app: Flask, text: bytes = b"", *arguments: str) -> Result:
    """The command, given `text` on stdin."""
    return app.test_cli_runner().invoke(args=["transcript-hash", *arguments], input=text)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def said(text: str) -> bytes:
    """One message, with `text` as its content in JSON."""
    return b'[{"role": "user", "content": %s}]' % text.encode()


# --- What is hashed. ---


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_stdin_is_hashed_without_a_file(app: Flask, arguments: list[str]) -> None:
    done = command(app, as_json(MESSAGES), *arguments)

    assert (done.exit_code, done.stdout, done.stderr) == (0, DIGEST, "")


def test_a_file_is_hashed_and_stdin_is_not(app: Flask, tmp_path: Path) -> None:
    file = tmp_path / "transcript of to day.json"
    file.write_bytes(as_json(MESSAGES))

    done = command(app, b"not this", str(file))

    assert (done.exit_code, done.stdout, done.stderr) == (0, DIGEST, "")


def test_every_vector_is_hashed_or_refused_as_it_says(app: Flask) -> None:
    printed = {vector["name"]: command(app, as_json(vector["messages"])) for vector in (*HASHED, *REFUSED)}

    assert {name: done.stdout for name, done in printed.items()} == {
        **{vector["name"]: f"{vector['hash']}\n" for vector in HASHED},
        **{vector["name"]: "" for vector in REFUSED},
    }
    assert {printed[vector["name"]].exit_code for vector in HASHED} == {0}
    assert {printed[vector["name"]].exit_code for vector in REFUSED} == {1}


@pytest.mark.parametrize(
    ("escaped", "content"),
    [
        (r'"\ud83d"', "\ufffd"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\u0000\u001c"', "\u0000\u001c"),
        ('"\u00e9\u3000\U0001f600"', "\u00e9 \U0001f600"),
    ],
)
def test_escapes_are_the_characters_they_stand_for(app: Flask, escaped: str, content: str) -> None:
    assert command(app, said(escaped)).stdout == f"{transcript_hash([{'role': 'user', 'content': content}])}\n"


@pytest.mark.parametrize(
    "text",
    [
        codecs.BOM_UTF8 + as_json(MESSAGES),
        json.dumps(MESSAGES, ensure_ascii=False).encode("utf-8-sig"),
        json.dumps(MESSAGES, ensure_ascii=False).encode("utf-16"),  # what `>` makes in PowerShell 5
        json.dumps(MESSAGES, ensure_ascii=False, indent=2).replace("\n", "\r\n").encode() + b"\r\n",
    ],
    ids=["a BOM before ASCII", "a BOM before UTF-8", "UTF-16", "CRLF"],
)
def test_how_an_editor_saves_a_file_does_not_count(app: Flask, text: bytes) -> None:
    assert command(app, text).stdout == DIGEST


@pytest.mark.parametrize("number", ["1" * 5000, "-" + "9" * 100_000, "1e999999999", "0." + "3" * 100_000])
def test_a_huge_number_beside_the_content_does_not_count(app: Flask, number: str) -> None:
    text = b'[{"role": "user", "content": "a", "id": %s}]' % number.encode()

    assert command(app, text).stdout == f"{transcript_hash([{'role': 'user', 'content': 'a'}])}\n"


# --- What is refused. ---

NO_JSON = "Error: the transcript is not JSON\n"
NO_TEXT = "Error: messages[0].content must be text\n"
NO_LIST = "Error: a transcript is a list of at least one message\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(b"", NO_JSON, id="nothing"),
        pytest.param(b" \n", NO_JSON, id="white space"),
        pytest.param(as_json(MESSAGES)[:-1], NO_JSON, id="cut off"),
        pytest.param(as_json(MESSAGES) * 2, NO_JSON, id="two lists"),
        pytest.param(CANARY.encode(), NO_JSON, id="a word"),
        pytest.param(b"[{'role': 'user', 'content': 'canary'}]", NO_JSON, id="Python"),
        pytest.param(said('"canary\n"'), NO_JSON, id="a newline in a text"),
        pytest.param(said(r'"\ud83"'), NO_JSON, id="half an escape"),
        pytest.param(said("NaN"), NO_JSON, id="NaN"),
        pytest.param(said("-Infinity"), NO_JSON, id="-Infinity"),
        pytest.param(b'[{"role": "user", "content": "\xff\xfe"}]', NO_JSON, id="no UTF-8"),
        pytest.param(b"\xff\xfe[", NO_JSON, id="half of UTF-16"),
        pytest.param(b"\x00" * 7, NO_JSON, id="zeros"),
        pytest.param(b"[" * 1_000_000, NO_JSON, id="nested without an end"),
        pytest.param(said("[" * 100_000 + "]" * 100_000), NO_JSON, id="nested beyond reason"),
        pytest.param(said('{"a":' * 100_000 + "1" + "}" * 100_000), NO_JSON, id="objects nested beyond reason"),
        pytest.param(b"[]", NO_LIST, id="an empty list"),
        pytest.param(b'{"messages": []}', NO_LIST, id="an object"),
        pytest.param(b"null", NO_LIST, id="null"),
        pytest.param(b'"canary"', NO_LIST, id="a text"),
        pytest.param(b"7" * 5000, NO_LIST, id="a huge number"),
        pytest.param(said("1" * 5000), NO_TEXT, id="a huge number as content"),
        pytest.param(said("1e999"), NO_TEXT, id="an infinite number as content"),
        pytest.param(said('["canary"]'), NO_TEXT, id="a list as content"),
        pytest.param(
            b'[{"role": "canary", "content": ""}]',
            "Error: messages[0].role must be one of system, user, assistant\n",
            id="an unknown role",
        ),
    ],
)
def test_what_is_no_transcript_is_refused_in_one_sentence(app: Flask, text: bytes, says: str) -> None:
    done = command(app, text)

    assert (done.exit_code, done.stdout, done.stderr) == (1, "", says)
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_refused_by_name(app: Flask, tmp_path: Path, name: str) -> None:
    done = command(app, b"", str(tmp_path / name))

    assert (done.exit_code, done.stdout) == (2, "")
    assert str(tmp_path / name) in done.stderr
    assert isinstance(done.exception, SystemExit)


# --- In a shell. ---


def shell(text: bytes) -> subprocess.CompletedProcess[bytes]:
    """As in production: without .flaskenv, and with nothing but what it needs."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "transcript-hash"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "FLASK_SKIP_DOTENV": "1", **PRODUCTION},
        input=text,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_in_production_stdout_has_the_digest_and_nothing_else() -> None:
    done = shell(as_json(MESSAGES))

    assert (done.returncode, done.stdout, done.stderr) == (0, DIGEST.encode(), b"")


def test_in_production_an_error_is_one_sentence_without_the_conversation() -> None:
    done = shell(said('"canary'))

    assert (done.returncode, done.stdout, done.stderr) == (1, b"", NO_JSON.encode())
