"""Signatures of JSON notices: HMAC-SHA256 as Standard Webhooks has it, for which there are verifiers in many languages.

Source: Standard Webhooks specification 1.0.0: headers webhook-id, webhook-timestamp and webhook-signature; what is
signed is `id.timestamp.body`; a key is written whsec_ and Base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from relayd.config.secrets.secret import Secret
from relayd.wire.http import HeaderPairs

_PREFIX = "whsec_"
LEAST_KEY = 16  # bytes


class BadKey(ValueError):
    """A signing key that cannot be used. The text holds nothing of it."""


def key_bytes(key: Secret) -> bytes:
    """A signing key as it is written: whsec_ and Base64, or any other text as it is. Raises: BadKey."""
    written = key.reveal().strip()
    raw = written.encode()
    if written.startswith(_PREFIX):
        try:
            raw = base64.b64decode(written.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise BadKey("the signing key begins with whsec_, and what follows is not Base64") from None
    if len(raw) < LEAST_KEY:
        raise BadKey(f"the signing key has fewer than {LEAST_KEY} bytes (openssl rand -hex 32)")
    return raw


def signed_headers(notice_id: str, body: bytes, at: float, key: bytes | None) -> HeaderPairs:
    """The headers of a notice; without a key, those that say which it is and when it was sent (Unix time, s)."""
    pairs = [(b"webhook-id", notice_id.encode()), (b"webhook-timestamp", b"%d" % at)]
    if key is not None:
        content = b"%b.%d.%b" % (notice_id.encode(), at, body)
        digest = hmac.new(key, content, hashlib.sha256).digest()
        pairs.append((b"webhook-signature", b"v1," + base64.b64encode(digest)))
    return pairs
