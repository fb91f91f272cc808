"""API keys: minting, checksum, hash.

Rule: no I/O and no clock; randomness is an argument. A whole key never leaves this module but as the result of `mint`.

Theory: a key is `sk-relay-` + 43 base62 characters (256 random bits) + 6 base62 characters of CRC32. Guessing 256 bits
is hopeless, so the tree may hold a plain SHA-256 of it: a slow hash would protect only weak secrets, and costs every
call what it costs an attacker. The checksum does not protect; it tells a typing error from a wrong key without a
look-up, and finds a whole key that was committed by mistake without false alarms.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator

from relayd.noun import noun

PREFIX = "sk-relay-"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_CHARS = 43  # 62**43 > 2**256, and 62**42 is less
CHECK_CHARS = 6  # 62**6 > 2**32
KEY_PATTERN = re.compile(rf"\b{PREFIX}[0-9A-Za-z]{{{RANDOM_CHARS + CHECK_CHARS}}}\b", re.ASCII)
HINT_CHARS = 4  # 24 bits of 256 are given away, so that people can tell their keys apart

_DOMAIN = b"relayd-key-v1\0"


@noun(kw_only=True)
class FoundKey:
    """A whole, valid key in a text. It holds the place and the hint only, never the key.

    Args:
        line, column: from 1; the column counts characters.
        sha256: its hash, 64 hex digits, to look it up.
    """

    line: int
    column: int
    hint: str
    sha256: str


def mint(rng: Callable[[int], bytes]) -> str:
    """A new key from 32 bytes of `rng` (`secrets.token_bytes` in production)."""
    body = PREFIX + base62(int.from_bytes(rng(32), "big"), RANDOM_CHARS)
    return body + _checksum(body)


def checksum_ok(key: str) -> bool:
    """Whether `key` has the form of a key and its checksum fits: if not, it was cut or mistyped."""
    return KEY_PATTERN.fullmatch(key) is not None and _checksum(key[:-CHECK_CHARS]) == key[-CHECK_CHARS:]


def key_digest(key: bytes) -> bytes:
    """The 32 bytes that `Snapshot.keys_by_hash` is keyed by; `key` as the client sent it."""
    return hashlib.sha256(_DOMAIN + key).digest()


def crs_digest(key: bytes, secret: bytes) -> bytes:
    """The digest of a key that claude-relay-service issued.

    Source: claude-relay-service, scripts/data-transfer-enhanced.js, hashApiKey.
    """
    return hashlib.sha256(key + secret).digest()


def litellm_digest(key: bytes) -> bytes:
    """The digest of a key that LiteLLM issued. Source: litellm/proxy/_types.py, hash_token."""
    return hashlib.sha256(key).digest()


def key_hash(key: str) -> str:
    """The hash that a key's file holds: 64 lower-case hex digits."""
    return key_digest(key.encode()).hex()


def hint(key: str) -> str:
    """The public start of a key, `sk-relay-AbCd`. A text that is not a key has no hint (it might be another secret)."""
    return key[: len(PREFIX) + HINT_CHARS] if key.startswith(PREFIX) and len(key) >= 32 else ""


def find_keys(text: str) -> Iterator[FoundKey]:
    """Whole keys with a right checksum in `text`: each one is a leak if the text is in git."""
    for match in KEY_PATTERN.finditer(text):
        if checksum_ok(match[0]):
            start = match.start()
            line_start = text.rfind("\n", 0, start) + 1
            yield FoundKey(
                line=text.count("\n", 0, start) + 1,
                column=start - line_start + 1,
                hint=hint(match[0]),
                sha256=key_hash(match[0]),
            )


def _checksum(body: str) -> str:
    """CRC32 (zlib's: ISO 3309) of the ASCII that precedes it, prefix included, in base62."""
    return base62(zlib.crc32(body.encode()), CHECK_CHARS)


def base62(number: int, width: int) -> str:
    """A number in base 62, most significant character first, padded with `0`."""
    chars = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        chars.append(ALPHABET[digit])
    return "".join(reversed(chars))
