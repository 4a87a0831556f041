"""The transcript hash in JavaScript: it is Python's, for transcripts that nobody wrote by hand too."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lumen_api.transcript_hash import ROLES, TranscriptError, transcript_hash
from tests.support import ROOT
from tests.support.programs import node

pytestmark = pytest.mark.full  # node

PACKAGE = ROOT / "clients" / "js"

# Reads a list of transcripts; writes the list of their hashes, null for what is refused.
HASH_ALL = """
import { readFileSync } from "node:fs";
import { TranscriptError, transcriptHash } from "lumen-client/transcript-hash";

const hashes = JSON.parse(readFileSync(process.argv[1])).map((messages) =>
  transcriptHash(messages).catch((error) => {
    if (error instanceof TranscriptError) return null;
    throw error;
  }),
);
console.log(JSON.stringify(await Promise.all(hashes)));
"""

WHITE_SPACE = "\t\n\v\f\r \u00a0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
LOOK_ALIKES = "\u0000\u001c\u001f\u0085\u00ad\u180e\u200b\u200d\u2060\u2800\ufffd\ufffe"


def in_node(transcripts: list[Any], folder: Path) -> list[str | None]:
    """The hash of each transcript, None for what is refused, from one process."""
    file = folder / "transcripts.json"
    file.write_text(json.dumps(transcripts))
    done = subprocess.run(
        [node(), "--input-type=module", "--eval", HASH_ALL, str(file)],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    hashes: list[str | None] = json.loads(done.stdout)
    return hashes


def in_python(transcript: Any) -> str | None:
    try:
        return transcript_hash(transcript)
    except TranscriptError:
        return None


def random_transcript(random: Random) -> list[dict[str, str]]:
    return [
        {"role": random.choice(ROLES), "content": "".join(random_piece(random) for _ in range(random.randrange(20)))}
        for _ in range(random.randint(1, 6))
    ]


def random_piece(random: Random) -> str:
    """A character of any plane, or a few that are hard to get right. Halves of a pair may meet."""
    kind = random.randrange(8)
    if kind < 2:
        return chr(random.randint(0x20, 0x7E))
    if kind == 2:
        return "".join(random.choices(WHITE_SPACE, k=random.randint(1, 4)))
    if kind == 3:
        return random.choice(LOOK_ALIKES)
    if kind == 4:
        return chr(random.randint(0xD800, 0xDFFF))
    if kind == 5:
        return random.choice(["---", "\n---\n", "\r\n", "user", "e\u0301"])
    return chr(random.randint(0, 0xFFFF) if kind == 6 else random.randint(0x10000, 0x10FFFF))


def test_ten_thousand_random_transcripts_hash_the_same_in_python_and_node(tmp_path: Path) -> None:
    random = Random(4)
    transcripts = [random_transcript(random) for _ in range(10_000)]
    contents = "".join(message["content"] for transcript in transcripts for message in transcript)
    assert re.search("[\ud800-\udbff][\udc00-\udfff]", contents)  # two characters here, one there
    assert re.search("[\udc00-\udfff][\ud800-\udbff]", contents)

    here = [in_python(transcript) for transcript in transcripts]

    assert None not in here
    assert len(set(here)) > 9000
    differing = [
        transcript
        for transcript, ours, theirs in zip(transcripts, here, in_node(transcripts, tmp_path), strict=True)
        if ours != theirs
    ]
    assert differing == []


def test_what_python_refuses_node_refuses(tmp_path: Path) -> None:
    values: list[Any] = [
        None,
        True,
        0,
        1.5,
        "",
        "user",
        "User",
        "user ",
        "system",
        "---",
        [],
        ["user"],
        {},
        {"role": "user"},
    ]
    messages: list[Any] = [{"role": role, "content": content} for role, content in product(values, values)]
    transcripts: list[Any] = [*values, *([value] for value in values), *([message] for message in messages)]
    transcripts += [[{"role": "user", "content": "a"}, message] for message in messages]

    here = [in_python(transcript) for transcript in transcripts]

    assert here.count(None) > 300
    assert len(here) - here.count(None) == 2 * 2 * 6  # alone and second; two roles; six texts
    assert in_node(transcripts, tmp_path) == here


def test_the_modules_own_tests_pass() -> None:
    done = subprocess.run(
        [node(), "--test", "--test-reporter=tap"],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    failed = [line.strip() for line in done.stdout.splitlines() if re.match(r"\s*not ok ", line)]
    assert (done.returncode, failed) == (0, []), done.stdout[-2000:]
    (passed,) = re.findall(r"(?m)^# pass (\d+)$", done.stdout)
    assert int(passed) > 250


def test_what_the_package_exports_is_there_and_goes_with_it() -> None:
    package = json.loads((PACKAGE / "package.json").read_text())
    exported = {file for conditions in package["exports"].values() for file in conditions.values()}
    packed = {f"./{path.name}" for pattern in package["files"] for path in PACKAGE.glob(pattern)}

    assert exported - packed == set()
