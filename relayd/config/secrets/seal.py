"""Sealed values: secrets that may lie in git. The format is specified in docs/sealed-format.md.

Rule: the only module that imports cryptography, and only when something is sealed, opened or made: `inspect` needs no
key and no cryptography, so a tree without sealed values never pays for the import.

Theory: anyone with the recipients' public keys can seal; only an identity can open. A fresh file key encrypts the
value; HPKE (RFC 9180, base mode) wraps the file key once per recipient. The header (all wraps) and the binding are
authenticated with the body. The tag and the checksum in the text are lint aids for people without a key; nothing
trusts them. A plaintext is held in a variable for as few lines as can be, and never where an exception starts.

It does not authenticate the author: whoever may merge can seal a credential of their own.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from relayd.config.secrets.binding import Binding
from relayd.config.secrets.recipients import (
    MAX_RECIPIENTS,
    PublicKey,
    SealError,
    SealFinding,
    Suite,
    b64,
    by_kid,
    checksum,
    key_text,
    parse_key,
    sha256,
    unb64,
)
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Recipient
from relayd.noun import noun

MAX_SECRET = 16384  # bytes; a credential is a few hundred
PAD = 64  # bytes; the length of a value tells no more than this about its secret

_SEED = 32  # bytes; both kinds of private key are that much randomness
_FILE_KEY = 32
_TAG = 16  # Poly1305
_WRAP_SIZE = {1: 32 + _FILE_KEY + _TAG, 2: 1088 + 32 + _FILE_KEY + _TAG}  # bytes: HPKE's enc, then its ciphertext
_TEXT = "[A-Za-z0-9_-]"
_VALUE = re.compile(
    rf"(?P<head>rlsec(?P<suite>[12])\.(?P<tag>{_TEXT}{{8}})"
    rf"(?P<wraps>(?:\.{_TEXT}{{8}}~{_TEXT}+){{1,{MAX_RECIPIENTS}}}))"
    rf"\.(?P<body>{_TEXT}{{107,}})\.(?P<crc>{_TEXT}{{6}})"
)


@noun
class Identity:
    """Who can open: a private key, kept as its text."""

    secret: Secret
    public: PublicKey


@noun(kw_only=True)
class Sealed:
    """A value taken apart, nothing trusted. `head` is the text that the body authenticates."""

    suite: Suite
    tag: str
    wraps: tuple[tuple[str, bytes], ...]  # (kid, HPKE message)
    head: str
    body: bytes

    @property
    def kids(self) -> frozenset[str]:
        return frozenset(kid for kid, _ in self.wraps)


def new_identity(rng: Callable[[int], bytes] = os.urandom, suite: Suite = 1) -> Identity:
    """A new private key from 32 bytes of `rng`."""
    return _identity(suite, rng(_SEED))


def parse_identity(text: str) -> Identity:
    """`rlkey1...` or `rlkey2...`. Raises: SealError (E-IDENTITY-FORMAT), which does not quote the text."""
    suite, raw = parse_key("rlkey", text, "E-IDENTITY-FORMAT", "identity")
    if len(raw) != _SEED:
        raise SealError("E-IDENTITY-FORMAT", "identity: wrong length")
    return _identity(suite, raw)


def seal(
    secret: Secret, binding: Binding, recipients: Sequence[PublicKey], rng: Callable[[int], bytes] = os.urandom
) -> str:
    """One line of ASCII that only the recipients can open, and only for `binding`.

    Raises: SealError (E-SEAL-NO-RECIPIENT, E-RECIPIENT-COUNT, E-RECIPIENT-FORMAT, E-SEAL-SIZE).
    """
    keys = sorted(set(recipients), key=lambda key: (key.kid, key.raw))  # a stable order makes stable diffs
    if not keys:
        raise SealError("E-SEAL-NO-RECIPIENT", "no active recipient to seal for (see `relayd secret keygen`)")
    if len(keys) > MAX_RECIPIENTS:
        raise SealError("E-RECIPIENT-COUNT", f"{len(keys)} recipients, at most {MAX_RECIPIENTS} fit in a value")
    if (size := len(secret.reveal().encode())) > MAX_SECRET:
        raise SealError("E-SEAL-SIZE", f"the secret has {size} bytes, at most {MAX_SECRET} can be sealed")
    bound, file_key = binding.encode(), rng(_FILE_KEY)
    wraps = [f"{key.kid}~{b64(_crypto().wrap(file_key, key, bound))}" for key in keys]
    head = ".".join([f"rlsec{max(key.suite for key in keys)}", _tag(bound), *wraps])
    text = f"{head}.{b64(_crypto().encrypt(file_key, secret, head, bound))}"
    return f"{text}.{checksum(text)}"


def parse_sealed(value: str) -> Sealed:
    """Take a value apart. Raises: SealError (E-SEAL-FORMAT, E-SEAL-CORRUPT)."""
    match = _VALUE.fullmatch(value)
    if match is None:
        raise SealError("E-SEAL-FORMAT", _format_message(value))
    if checksum(value[:-7]) != match["crc"]:
        raise SealError("E-SEAL-CORRUPT", "the sealed value's checksum is wrong: it was cut or edited (seal it again)")
    suite: Suite = 2 if match["suite"] == "2" else 1
    pairs = [part.split("~") for part in match["wraps"][1:].split(".")]
    wraps = tuple((kid, _bytes(wrap)) for kid, wrap in pairs)
    sizes, body = {len(wrap) for _, wrap in wraps}, _bytes(match["body"])
    # A value is rlsec2 exactly when one of its recipients is post-quantum.
    if not sizes <= set(_WRAP_SIZE.values()) or (_WRAP_SIZE[2] in sizes) != (suite == 2) or (len(body) - _TAG) % PAD:
        raise SealError("E-SEAL-FORMAT", "the sealed value has a part of a wrong length (seal it again)")
    return Sealed(suite=suite, tag=match["tag"], wraps=wraps, head=match["head"], body=body)


def inspect(value: str, binding: Binding | None, recipients: Sequence[Recipient]) -> list[SealFinding]:
    """Everything that can be said without a key: form, checksum, binding tag, set of recipients.

    A right tag is not a proof: only opening is. `binding` None leaves the tag out.
    """
    try:
        sealed = parse_sealed(value)
        if binding is not None:
            _check_tag(sealed, binding)
    except SealError as error:
        return [SealFinding(code=error.code, message=str(error))]
    return _recipient_findings(sealed.kids, by_kid(recipients))


def open_sealed(
    value: str, binding: Binding, identities: Sequence[Identity], recipients: Sequence[Recipient] = ()
) -> Secret:
    """The secret inside `value`: the only place where one comes to light.

    Args:
        recipients: only to call recipients by their names in an error.

    Raises: SealError: E-SEAL-FORMAT, E-SEAL-CORRUPT, E-SEAL-CONTEXT; E-SEAL-NO-IDENTITY when no identity fits;
        E-SEAL-TAMPERED when one fits and the value does not open.
    """
    sealed = parse_sealed(value)
    _check_tag(sealed, binding)
    own = [(identity, wrap) for identity in identities for kid, wrap in sealed.wraps if kid == identity.public.kid]
    if not own:
        raise SealError("E-SEAL-NO-IDENTITY", _no_identity_message(sealed.kids, identities, by_kid(recipients)))
    for identity, wrap in own:
        secret = _crypto().open(identity, wrap, sealed, binding.encode())
        if secret is not None:
            return secret
    raise SealError("E-SEAL-TAMPERED", "the sealed value does not open: it was altered or moved here (seal it again)")


def _check_tag(sealed: Sealed, binding: Binding) -> None:
    if sealed.tag != _tag(binding.encode()):
        hint = "renamed, or base_url or [oauth].token_url changed? seal it again"
        text = f"sealed for another place, not for {binding} ({hint})"
        raise SealError("E-SEAL-CONTEXT", text)


def _recipient_findings(kids: frozenset[str], known: dict[str, Recipient]) -> list[SealFinding]:
    findings = []
    for kid, recipient in known.items():
        if recipient.state == "active" and kid not in kids:
            text = f"not sealed for recipient {recipient.name} (run `relayd secret reseal`)"
            findings.append(SealFinding(code="E-SEAL-RECIPIENT-MISSING", message=text))
    for kid in sorted(kids):
        entry = known.get(kid)
        if entry is None or entry.state != "active":
            what = f"unknown recipient {kid}" if entry is None else f"{entry.state} recipient {entry.name}"
            text = f"still sealed for {what} (run `relayd secret reseal`)"
            findings.append(SealFinding(code="W-SEAL-RECIPIENT-STALE", message=text))
    return findings


def _no_identity_message(kids: frozenset[str], identities: Sequence[Identity], known: dict[str, Recipient]) -> str:
    names = {kid: recipient.name for kid, recipient in known.items()}
    wanted = ", ".join(sorted(names.get(kid, kid) for kid in kids))
    loaded = ", ".join(names.get(one.public.kid, one.public.kid) for one in identities)
    have = f"only {loaded} is loaded" if loaded else "no identity is loaded"
    return f"sealed for recipient {wanted}, but {have} (see RELAYD_IDENTITY)"


def _format_message(value: str) -> str:
    if re.match(r"rlsec[12]\.", value):
        return "the sealed value is not whole: it was cut or edited (copy or seal it again)"
    if re.match(r"rlsec[0-9]+\.", value):
        return "the sealed value has a version that this relayd does not know (update relayd)"
    return "not a sealed value, and a secret is never written in clear (seal it: `relayd account seal NAME`)"


def _bytes(text: str) -> bytes:
    raw = unb64(text)
    if raw is None:
        raise SealError("E-SEAL-FORMAT", "the sealed value is not canonical base64url: it was edited (seal it again)")
    return raw


def _tag(bound: bytes) -> str:
    return b64(sha256(bound)[:6])


def _pad(plain: bytes) -> bytes:
    """Length (2 bytes, big-endian), the bytes, zeros up to a multiple of PAD."""
    return len(plain).to_bytes(2, "big") + plain + b"\0" * (-(len(plain) + 2) % PAD)


def _unpad(padded: bytes) -> Secret | None:
    plain = padded[2 : 2 + int.from_bytes(padded[:2], "big")]
    if _pad(plain) != padded:
        return None
    try:
        return Secret(plain.decode())
    except UnicodeDecodeError:
        return None


def _identity(suite: Suite, seed: bytes) -> Identity:
    return Identity(Secret(key_text("rlkey", suite, seed)), PublicKey(suite, _crypto().public_of(suite, seed)))


@functools.cache
def _crypto() -> _Crypto:
    return _Crypto()


class _Crypto:
    """The primitives, imported once and late. Keys that are not usable are an error; what does not open is None."""

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives import hashes, hpke
        from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        self.hpke: Any = hpke
        self.mlkem: Any = mlkem
        self.x25519: Any = x25519
        self.cipher = ChaCha20Poly1305
        self.failures = (InvalidTag, ValueError)
        self.body_key: Callable[[bytes], bytes] = lambda file_key: HKDF(
            hashes.SHA256(), 32, salt=None, info=b"relayd/v1 body"
        ).derive(file_key)

    def wrap(self, file_key: bytes, key: PublicKey, bound: bytes) -> bytes:
        try:
            message: bytes = self.suite(key.suite).encrypt(file_key, self.public(key), info=_wrap_info(bound))
        except ValueError:  # a low-order X25519 point, or an encapsulation key that FIPS 203 section 7.2 refuses
            raise SealError("E-RECIPIENT-FORMAT", f"recipient {key.kid}: not a usable public key") from None
        return message

    def encrypt(self, file_key: bytes, secret: Secret, head: str, bound: bytes) -> bytes:
        # The nonce may be zero: a file key is fresh and encrypts this one body.
        padded = _pad(secret.reveal().encode())
        return self.cipher(self.body_key(file_key)).encrypt(b"\0" * 12, padded, _associated(head, bound))

    def open(self, identity: Identity, wrap: bytes, sealed: Sealed, bound: bytes) -> Secret | None:
        suite = identity.public.suite
        if len(wrap) != _WRAP_SIZE[suite]:
            return None
        try:
            file_key = self.suite(suite).decrypt(wrap, self.private(identity), info=_wrap_info(bound))
            cipher = self.cipher(self.body_key(file_key))
            return _unpad(cipher.decrypt(b"\0" * 12, sealed.body, _associated(sealed.head, bound)))
        except self.failures:
            return None

    def public_of(self, suite: Suite, seed: bytes) -> bytes:
        parts = [self.x25519.X25519PrivateKey.from_private_bytes(seed)] if suite == 1 else self.halves(seed)
        return b"".join(part.public_key().public_bytes_raw() for part in parts)

    def suite(self, suite: Suite) -> Any:
        kem = self.hpke.KEM.X25519 if suite == 1 else self.hpke.KEM.MLKEM768_X25519
        return self.hpke.Suite(kem, self.hpke.KDF.HKDF_SHA256, self.hpke.AEAD.CHACHA20_POLY1305)

    def public(self, key: PublicKey) -> Any:
        classic = self.x25519.X25519PublicKey.from_public_bytes(key.raw[-32:])
        if key.suite == 1:
            return classic
        return self.hpke.MLKEM768X25519PublicKey(self.mlkem.MLKEM768PublicKey.from_public_bytes(key.raw[:-32]), classic)

    def private(self, identity: Identity) -> Any:
        suite, seed = parse_key("rlkey", identity.secret.reveal(), "E-IDENTITY-FORMAT", "identity")
        if suite == 1:
            return self.x25519.X25519PrivateKey.from_private_bytes(seed)
        return self.hpke.MLKEM768X25519PrivateKey(*self.halves(seed))

    def halves(self, seed: bytes) -> list[Any]:
        """X-Wing's expansion of the seed: SHAKE256 to 96 bytes, 64 for ML-KEM-768 (d, z), 32 for X25519.

        Source: draft-connolly-cfrg-xwing-kem section 5.2.
        """
        long = hashlib.shake_256(seed).digest(96)
        return [
            self.mlkem.MLKEM768PrivateKey.from_seed_bytes(long[:64]),
            self.x25519.X25519PrivateKey.from_private_bytes(long[64:]),
        ]


def _wrap_info(bound: bytes) -> bytes:
    return b"relayd/v1 wrap\0" + sha256(bound)


def _associated(head: str, bound: bytes) -> bytes:
    return head.encode() + b"\0" + bound
