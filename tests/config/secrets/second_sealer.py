"""A second implementation of sealed values, written from docs/sealed-format.md and the RFCs it names, and from nothing
else: no line of relayd and no HPKE of the cryptography package is used here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEM_ID = {1: b"\x00\x20", 2: b"\x64\x7a"}
ENC_SIZE = {1: 32, 2: 1120}


class Refused(Exception):
    """The argument is the code."""


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unb64(text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if b64(raw) != text:
        raise Refused("E-SEAL-FORMAT")
    return raw


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def encoded(realm: str, kind: str, name: str, field: str, origin: str, token_url: str = "") -> bytes:
    """ "The binding"."""
    parts = ["relayd/v1", realm, kind, name, field, origin]
    if token_url not in ("", "https://platform.claude.com/v1/oauth/token"):
        parts.append(token_url)
    return json.dumps(parts, separators=(",", ":")).encode("ascii")


# --- RFC 9180, mode base


def extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def expand(suite: bytes, prk: bytes, label: bytes, info: bytes, size: int) -> bytes:
    labeled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labeled + b"\x01", "sha256")[:size]


def cipher(kem: int, shared: bytes, info: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    suite = b"HPKE" + KEM_ID[kem] + b"\x00\x01\x00\x03"
    schedule = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key = expand(suite, secret, b"key", schedule, 32)
    return ChaCha20Poly1305(key), expand(suite, secret, b"base_nonce", schedule, 12)


def dh_shared(dh: bytes, enc: bytes, public: bytes) -> bytes:
    suite = b"KEM" + KEM_ID[1]
    return expand(suite, extract(suite, b"", b"eae_prk", dh), b"shared_secret", enc + public, 32)


def xwing_shared(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + rb"\.//^" + b"\\").digest()


def encapsulate(kem: int, public: bytes) -> tuple[bytes, bytes]:
    """Shared secret and enc."""
    ephemeral = X25519PrivateKey.generate()
    enc, point = ephemeral.public_key().public_bytes_raw(), public[-32:]
    dh = ephemeral.exchange(X25519PublicKey.from_public_bytes(point))
    if kem == 1:
        return dh_shared(dh, enc, public), enc
    ss_m, ct_m = MLKEM768PublicKey.from_public_bytes(public[:-32]).encapsulate()
    return xwing_shared(ss_m, dh, enc, point), ct_m + enc


class Key:
    """A private key."""

    def __init__(self, text: str) -> None:
        word, seed, check = text.split(".")
        assert check == b64(sha256(f"{word}.{seed}".encode())[:4])
        self.kem = int(word.removeprefix("rlkey"))
        raw = unb64(seed)
        if self.kem == 2:
            long = hashlib.shake_256(raw).digest(96)
            self.lattice = MLKEM768PrivateKey.from_seed_bytes(long[:64])
            raw = long[64:]
        self.curve = X25519PrivateKey.from_private_bytes(raw)
        point = self.curve.public_key().public_bytes_raw()
        self.public = (self.lattice.public_key().public_bytes_raw() if self.kem == 2 else b"") + point
        self.kid = kid_of(self.public)

    def decapsulate(self, enc: bytes) -> bytes:
        dh = self.curve.exchange(X25519PublicKey.from_public_bytes(enc[-32:]))
        if self.kem == 1:
            return dh_shared(dh, enc, self.public)
        return xwing_shared(self.lattice.decapsulate(enc[:-32]), dh, enc[-32:], self.public[-32:])


def kid_of(public: bytes) -> str:
    return b64(sha256(b"relayd/kid\0" + public)[:6])


# --- "The value"

FORM = re.compile(
    r"(rlsec([12])\.([\w-]{8})((?:\.[\w-]{8}~[\w-]+){1,16}))\.([\w-]+)\.([\w-]{6})", re.ASCII
)  # fmt: skip


def wrap_info(binding: bytes) -> bytes:
    return b"relayd/v1 wrap\0" + sha256(binding)


def body_key(file_key: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(HKDF(hashes.SHA256(), 32, salt=None, info=b"relayd/v1 body").derive(file_key))


def seal(secret: str, binding: bytes, publics: Sequence[str]) -> str:
    """Seal for public keys, given as text."""
    keys = []
    for text in publics:
        word, raw, _ = text.split(".")
        keys.append((kid_of(unb64(raw)), int(word.removeprefix("rlpub")), unb64(raw)))
    file_key, wraps = os.urandom(32), []
    for kid, kem, raw in sorted(keys):
        shared, enc = encapsulate(kem, raw)
        aead, nonce = cipher(kem, shared, wrap_info(binding))
        wraps.append(f"{kid}~{b64(enc + aead.encrypt(nonce, file_key, b''))}")
    head = ".".join([f"rlsec{max(kem for _, kem, _ in keys)}", b64(sha256(binding)[:6]), *wraps])
    plain = secret.encode()
    padded = len(plain).to_bytes(2, "big") + plain
    padded += bytes(-len(padded) % 64)
    text = f"{head}.{b64(body_key(file_key).encrypt(bytes(12), padded, head.encode() + bytes(1) + binding))}"
    return f"{text}.{b64(sha256(text.encode())[:4])}"


def unseal(value: str, binding: bytes, keys: Sequence[Key]) -> str:
    """ "Opening", step by step. Raises: Refused."""
    match = FORM.fullmatch(value)
    if match is None:
        raise Refused("E-SEAL-FORMAT")
    head, suite, tag, listed, body_text, check = match.groups()
    if check != b64(sha256(value[:-7].encode())[:4]):
        raise Refused("E-SEAL-CORRUPT")
    wraps = [(part.split("~")[0], unb64(part.split("~")[1])) for part in listed[1:].split(".")]
    body, sizes = unb64(body_text), {len(wrap) for _, wrap in wraps}
    if not sizes <= {80, 1168} or (1168 in sizes) != (suite == "2") or len(body) % 64 != 16 or len(body) < 80:
        raise Refused("E-SEAL-FORMAT")
    if tag != b64(sha256(binding)[:6]):
        raise Refused("E-SEAL-CONTEXT")
    own = [(key, wrap) for kid, wrap in wraps for key in keys if kid == key.kid]
    if not own:
        raise Refused("E-SEAL-NO-IDENTITY")
    for key, wrap in own:
        size = ENC_SIZE[key.kem]
        try:
            aead, nonce = cipher(key.kem, key.decapsulate(wrap[:size]), wrap_info(binding))
            file_key = aead.decrypt(nonce, wrap[size:], b"")
            padded = body_key(file_key).decrypt(bytes(12), body, head.encode() + bytes(1) + binding)
        except (InvalidTag, ValueError):
            continue
        size = int.from_bytes(padded[:2], "big")
        if not any(padded[2 + size :]) and len(padded) == size + 2 + -(size + 2) % 64:
            return padded[2 : 2 + size].decode()
    raise Refused("E-SEAL-TAMPERED")
