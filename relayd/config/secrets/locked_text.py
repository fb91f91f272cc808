"""Locked text: authenticated encryption of a text under a name that only its owner knows.

Rule: whoever holds what is locked and not the name reads nothing and finds nothing: neither what it is nor whose. The
same text under the same name is locked the same way, and no other one: the nonce is made of the text.

Theory: the name has the entropy of an id that an API drew. Where to look and how to open are two hashes of it, of which
one does not tell the other.
Source: RFC 8439 (ChaCha20-Poly1305); RFC 7693 (BLAKE2b, keyed and personalised).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def place(name: str, owner: str) -> str:
    """Under what a text of `owner` called `name` is kept."""
    return _hash(b"relayd place", name, owner, 16).hex()


def lock(name: str, owner: str, text: bytes) -> str:
    """`text`, readable to whoever can say its name."""
    key = _hash(b"relayd lock", name, owner, 32)
    nonce = hashlib.blake2b(text, digest_size=12, key=key, person=b"relayd nonce").digest()
    return base64.b85encode(nonce + _cipher(key).encrypt(nonce, text, None)).decode("ascii")


def unlock(name: str, owner: str, locked: str) -> bytes | None:
    """The text; None for what was not locked under this name."""
    from cryptography.exceptions import InvalidTag

    try:
        raw = base64.b85decode(locked)
        return _cipher(_hash(b"relayd lock", name, owner, 32)).decrypt(raw[:12], raw[12:], None)
    except (InvalidTag, ValueError, binascii.Error):
        return None


def _cipher(key: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


def _hash(use: bytes, name: str, owner: str, size: int) -> bytes:
    digest = hashlib.blake2b(digest_size=size, person=use)
    for part in (name.encode("utf-8", "surrogatepass"), owner.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
