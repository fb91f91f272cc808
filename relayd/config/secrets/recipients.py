"""Recipients: whom values are sealed for. Public keys as text, and what is wrong with a list of them.

Rule: pure, without cryptography: `check` reads recipients and values in a tree on machines that hold no key.
Also here, because every text of the format uses it: canonical base64url and the checksum.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import attrs

from relayd.config.snapshot import Recipient
from relayd.noun import noun

Suite = Literal[1, 2]  # 1: X25519; 2: MLKEM768_X25519, hybrid post-quantum (X-Wing)

MAX_RECIPIENTS = 16  # in one value
PUBLIC_SIZE: Mapping[int, int] = {1: 32, 2: 1184 + 32}  # bytes; ML-KEM-768 (FIPS 203), then X25519

_KEY_TEXT = re.compile(r"rl(?:pub|key)(?P<suite>[12])\.(?P<raw>[A-Za-z0-9_-]+)\.(?P<crc>[A-Za-z0-9_-]{6})")


class SealError(ValueError):
    """A value, a key or a binding that is not right. `code` is stable; the text never quotes a value or a key."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@noun(kw_only=True)
class SealFinding:
    """What can be seen to be wrong without a key. `code` is stable: `E-` an error, `W-` a warning."""

    code: str
    message: str

    @property
    def is_error(self) -> bool:
        return self.code.startswith("E-")


@noun
class PublicKey:
    """Whom to seal for. `kid` is its short name inside values: not a proof, two keys may share it."""

    suite: Suite
    raw: bytes = attrs.field(repr=False)

    @property
    def kid(self) -> str:
        return b64(sha256(b"relayd/kid\0" + self.raw)[:6])

    @property
    def text(self) -> str:
        return key_text("rlpub", self.suite, self.raw)


def parse_public(text: str) -> PublicKey:
    """`rlpub1...` or `rlpub2...`. Raises: SealError (E-RECIPIENT-FORMAT)."""
    if text.startswith("rlkey"):
        raise SealError("E-RECIPIENT-FORMAT", "a private key where a public one belongs (replace it now: it is known)")
    suite, raw = parse_key("rlpub", text, "E-RECIPIENT-FORMAT", "public key")
    if len(raw) != PUBLIC_SIZE[suite]:
        raise SealError("E-RECIPIENT-FORMAT", "public key: wrong length")
    return PublicKey(suite, raw)


def by_kid(recipients: Iterable[Recipient]) -> dict[str, Recipient]:
    """The recipients by the short name of their key; malformed ones are left out (`check_recipients` tells)."""
    known = {}
    for recipient in recipients:
        try:
            known[parse_public(recipient.public).kid] = recipient
        except SealError:
            continue
    return known


def active_keys(recipients: Iterable[Recipient]) -> list[PublicKey]:
    """The keys that new values are sealed for. Raises: SealError on a malformed one."""
    return [parse_public(recipient.public) for recipient in recipients if recipient.state == "active"]


def check_recipients(recipients: Sequence[Recipient]) -> list[SealFinding]:
    """What is wrong with the list itself."""
    findings: list[SealFinding] = []
    first: dict[str, str] = {}
    for recipient in recipients:
        try:
            kid = parse_public(recipient.public).kid
        except SealError as error:
            findings.append(SealFinding(code=error.code, message=f"recipient {recipient.name}: {error}"))
            continue
        if kid in first:
            text = f"recipients {first[kid]} and {recipient.name} have the same key"
            findings.append(SealFinding(code="E-RECIPIENT-TWICE", message=text))
        first.setdefault(kid, recipient.name)
    return findings + _active_findings(recipients)


def _active_findings(recipients: Sequence[Recipient]) -> list[SealFinding]:
    findings = []
    active = [recipient for recipient in recipients if recipient.state == "active"]
    if len(active) > MAX_RECIPIENTS:
        text = f"{len(active)} active recipients, at most {MAX_RECIPIENTS} fit in a value"
        findings.append(SealFinding(code="E-RECIPIENT-COUNT", message=text))
    if {recipient.public[:6] for recipient in active} >= {"rlpub1", "rlpub2"}:
        text = "an X25519 recipient (rlpub1) beside a post-quantum one (rlpub2): values are no stronger than X25519"
        findings.append(SealFinding(code="W-RECIPIENT-MIXED", message=text))
    return findings


# --- how keys and values are spelt ----------------------------------------------------------------------------------


def key_text(word: str, suite: Suite, raw: bytes) -> str:
    """`rlpub1.RAW.CHECKSUM` and the like."""
    text = f"{word}{suite}.{b64(raw)}"
    return f"{text}.{checksum(text)}"


def parse_key(word: str, text: str, code: str, what: str) -> tuple[Suite, bytes]:
    """The inverse of `key_text`. Raises: SealError(code); the text names `what` and quotes nothing."""
    match = _KEY_TEXT.fullmatch(text)
    if match is None or not text.startswith(word):
        raise SealError(code, f"{what}: expected {word}1. or {word}2. and two more parts")
    if checksum(text[:-7]) != match["crc"]:
        raise SealError(code, f"{what}: wrong checksum, it was cut or mistyped")
    raw = unb64(match["raw"])
    if raw is None:
        raise SealError(code, f"{what}: not canonical base64url")
    return (2 if match["suite"] == "2" else 1), raw


def checksum(text: str) -> str:
    """Six characters that tell a whole text from a cut one."""
    return b64(sha256(text.encode())[:4])


def sha256(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def b64(raw: bytes) -> str:
    """base64url without padding (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes | None:
    """The inverse of `b64`; None for a text that `b64` would not have written, so that bytes have one spelling."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return None
    return raw if b64(raw) == text else None
