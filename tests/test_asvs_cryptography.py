"""What credentials are made of, recomputed with the standard library; and the inventory in docs/asvs.md is complete."""

from __future__ import annotations

import ast
import base64
import hmac
import re
from pathlib import Path

import pytest

from lumen_api.auth import TokenSigner, derive_key
from tests.support import ROOT
from tests.test_asvs_code import FILES, by_name, calls, imported

SECRET = "a-secret-of-the-tests-long-enough-for-production"
PURPOSES = ("magic link", "session")
CRYPTOGRAPHY = {"hashlib", "hmac", "secrets", "ssl", "itsdangerous", "cryptography", "Crypto", "nacl", "jwt"}


def mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_token_is_32_bytes_with_their_hmac_sha_256_and_stored_as_another(purpose: str) -> None:
    token = TokenSigner((SECRET,), purpose=purpose).new()

    random, _, signature = token.text.partition(".")
    signed = mac(mac(SECRET.encode(), f"lumen {purpose}".encode()), random.encode())

    assert len(base64.urlsafe_b64decode(random + "=")) == 32
    assert base64.urlsafe_b64decode(signature + "=") == signed
    assert token.digest == mac(mac(SECRET.encode(), f"lumen {purpose} digest".encode()), random.encode())


def test_every_use_of_a_secret_has_a_key_of_its_own() -> None:
    uses = [f"{purpose}{suffix}" for purpose in PURPOSES for suffix in ("", " digest")] + ["rate limits"]

    keys = {derive_key(SECRET, use) for use in uses}

    assert (len(keys), {len(key) for key in keys}) == (5, {32})


def test_no_hash_but_sha_256_is_named_in_the_code() -> None:
    others = re.compile(r"\b(?:md[45]|sha1|sha224|sha384|sha512|sha3_\d+|blake2\w|ripemd\w*|crc32|adler32)\b")

    named = {
        (by_name(file), word) for file in FILES for _, call in calls(file) for word in others.findall(ast.unparse(call))
    }

    assert named == set()


def test_the_inventory_names_every_file_that_uses_cryptography() -> None:
    text = (ROOT / "docs/asvs.md").read_text().partition("\n### Keys and algorithms\n")[2].partition("\n#")[0]
    listed = {ROOT / name for name in re.findall(r"`((?:lumen_api/)[\w/]+\.py)`", text)}

    using: set[Path] = {file for file in FILES if imported(file) & CRYPTOGRAPHY}

    assert listed == using
