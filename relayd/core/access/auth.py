"""Authentication: whose key is this, and may it be used now and from there?

Rule: nothing is cached. The look-up table is part of the snapshot, so a revoked key is refused on the next call.
Theory: keys are 256 random bits, so one SHA-256 and a dictionary do; whoever lacks the key cannot steer the digest,
and so learns nothing from the time that a look-up takes.
"""

from __future__ import annotations

import hmac
from typing import Literal, assert_never

import attrs

from relayd.config.secrets.api_keys import KEY_PATTERN, checksum_ok, key_digest
from relayd.config.snapshot import ApiKey, KeyHash, Snapshot
from relayd.core.access.addresses import UNKNOWN, inside
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

_OURS = b"sk-relay-"


def presented_key(headers: Headers) -> bytes:
    """The credential that a client sends: `x-api-key`, else `Authorization: Bearer`; b"" for none.

    Claude Code sends both, each with its own value, when both of its variables are set: the one of our own form counts.
    """
    api_key = headers.get(b"x-api-key") or b""
    if api_key.startswith(_OURS):
        return api_key
    scheme, _, token = (headers.get(b"authorization") or b"").partition(b" ")
    token = token.strip() if scheme.lower() == b"bearer" else b""
    return token if token.startswith(_OURS) else api_key or token


def authenticate(headers: Headers, snapshot: Snapshot, address: str, now: float) -> ApiKey:
    """The key that a request presents.

    Args:
        address: of the client, as `client_address` tells it.
        now: Unix time, seconds.
    Raises: Refusal 401 for an unknown, malformed, revoked or expired key, 403 for the address.
    """
    try:
        return _accepted(headers, snapshot, address, now)
    except Refusal as refusal:
        if refusal.status == 401 and _by_helper(headers):
            raise attrs.evolve(refusal, should_retry=None) from None
        raise


def _by_helper(headers: Headers) -> bool:
    """Whether a program fetched the key that is presented: Claude Code sends what its `apiKeyHelper` prints in both
    headers. It runs the program again after a 401, unless that says that another try is of no use; by a key of its
    settings it would only repeat the 401 for minutes. Source: Claude Code 2.1.197, tried."""
    scheme, _, token = (headers.get(b"authorization") or b"").partition(b" ")
    return scheme.lower() == b"bearer" and token.strip() == headers.get(b"x-api-key") != b""


def _accepted(headers: Headers, snapshot: Snapshot, address: str, now: float) -> ApiKey:
    presented = presented_key(headers)
    found, digest = look_up(presented, snapshot)
    if found is None:
        raise _unauthorized(_what_is_wrong(presented, snapshot))
    key, entry = found
    if not hmac.compare_digest(entry.sha256, digest.hex()):
        raise _unauthorized("unknown key")  # unreachable while the snapshot is sound; then better closed than open
    _check_acceptance(key, entry, snapshot, now)
    check_address(key, snapshot, address)
    return key


def look_up(presented: bytes, snapshot: Snapshot) -> tuple[tuple[ApiKey, KeyHash] | None, bytes]:
    """The key with its hash, and the digest by which it was found.

    A key of our own form is looked up as one of ours alone; another one in each scheme that the tree has, however early
    it is found, so that the time tells nothing of which one fits.
    """
    if presented.startswith(_OURS) or not snapshot.old_digests:
        digest = key_digest(presented)
        return _of_scheme("relayd-v1", digest, snapshot), digest
    digests = [(scheme, digest_of(presented)) for scheme, digest_of in snapshot.old_digests.items()]
    matches = [(_of_scheme(scheme, digest, snapshot), digest) for scheme, digest in digests]
    return next((match for match in matches if match[0] is not None), (None, b""))


def _of_scheme(scheme: str, digest: bytes, snapshot: Snapshot) -> tuple[ApiKey, KeyHash] | None:
    found = snapshot.keys_by_hash.get(digest)
    return found if found is not None and found[1].scheme == scheme else None


KeyState = Literal["active", "disabled", "denied", "expired", "rotated"]


def key_state(key: ApiKey, entry: KeyHash, snapshot: Snapshot, now: float) -> KeyState:
    """Whether a key is accepted ("active") when it is presented as the one with this hash, else why not.

    "rotated" is a hash whose time of grace is over, while the key itself goes on under another one.
    """
    if not key.enabled:
        return "disabled"
    if key.id in snapshot.deny.keys or entry.sha256 in snapshot.deny.sha256:
        return "denied"
    if key.expires is not None and now >= key.expires.timestamp():
        return "expired"
    return "rotated" if entry.expires is not None and now >= entry.expires.timestamp() else "active"


def best_state(key: ApiKey, snapshot: Snapshot, now: float) -> KeyState:
    """How a key stands as a whole: it is active while any of its hashes is."""
    order: tuple[KeyState, ...] = ("active", "rotated", "expired", "denied", "disabled")
    return min((key_state(key, entry, snapshot, now) for entry in key.hashes), key=order.index, default="disabled")


def _check_acceptance(key: ApiKey, entry: KeyHash, snapshot: Snapshot, now: float) -> None:
    match key_state(key, entry, snapshot, now):
        case "active":
            return
        case "disabled" | "denied":
            raise _unauthorized("this key has been revoked")
        case "expired" | "rotated" as state:
            expires = key.expires if state == "expired" else entry.expires
            raise _unauthorized(f"this key expired at {expires.isoformat() if expires is not None else ''}")
        case state:
            assert_never(state)


def check_address(key: ApiKey, snapshot: Snapshot, address: str) -> None:
    """Raises: Refusal 403 for an address that may not use the key."""
    if not key.allowed_ips and not snapshot.deny.ips:
        return
    if address == UNKNOWN:
        message = "the proxy in front of this relay did not say, in a form that can be read, which address asks"
        raise Refusal(status=403, message=message, code="address_unknown")
    if inside(address, snapshot.deny.ips):
        raise Refusal(status=403, message=f"address {address} is not allowed here", code="address_denied")
    if key.allowed_ips and not inside(address, key.allowed_ips):
        raise Refusal(
            status=403, message=f"address {address or '(unix socket)'} is not allowed for this key", code="address"
        )


def _what_is_wrong(presented: bytes, snapshot: Snapshot) -> str:
    text = presented.decode("latin-1")
    if not text:
        return "none was sent (send it as x-api-key or as Authorization: Bearer)"
    if not text.startswith("sk-relay-") and snapshot.old_digests:
        return "unknown key"
    if not text.startswith("sk-relay-"):
        return "this is not a key of this relay (they begin with sk-relay-)"
    if not KEY_PATTERN.fullmatch(text) or not checksum_ok(text):
        return "malformed key (was it copied whole?)"
    return "unknown key"


def _unauthorized(why: str) -> Refusal:
    # x-should-retry: without it Claude Code repeats a 401 for minutes, like a 5xx.
    return Refusal(status=401, message=f"Invalid API key: {why}", should_retry=False, code="invalid_api_key")
