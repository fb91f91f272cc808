"""Admin tokens: who may ask the admin listener what?

Rule: a token is looked up in the newest snapshot at each request, so a removed one is refused on the next; the tree
holds hashes only. A viewer reads, an editor also acts.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

from relayd.config.snapshot import Admin, AdminToken
from relayd.core.access.addresses import inside
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

Role = Literal["viewer", "editor"]

LOOPBACK = ("127.0.0.0/8", "::1")
# Said with every 401. Source: RFC 6750 section 3.
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="relayd admin"'),)


def bearer_of(headers: Headers) -> bytes:
    """The token that a request carries as `Authorization: Bearer`; b"" for none. Nowhere else, never in a URL."""
    scheme, _, token = (headers.get(b"authorization") or b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def authorise(headers: Headers, admin: Admin, need: Role) -> AdminToken:
    """The token that a request carries, if it may do what needs `need`.

    Raises: Refusal 401 without a good token, 403 with one whose role is not enough.
    """
    presented = bearer_of(headers)
    if not presented:
        raise _unauthorised("send a token of [[admin.tokens]] as Authorization: Bearer")
    digest = hashlib.sha256(presented).hexdigest()
    found = None
    for token in admin.tokens:  # all of them, so that the time tells nothing of which one fits
        if hmac.compare_digest(token.sha256.lower(), digest):
            found = token
    if found is None:
        raise _unauthorised("unknown token")
    if need == "editor" and found.role != "editor":
        raise Refusal(status=403, message=f"token {found.name} is a viewer's; this needs an editor's", code="role")
    return found


def may_scrape(headers: Headers, admin: Admin, address: str) -> None:
    """Metrics are for whoever is on this machine, and for tokens from elsewhere.

    Args:
        address: the client's, as far as trusted proxies tell; "" on a unix socket.
    Raises: Refusal as `authorise` does.
    """
    if bearer_of(headers) or (address and not inside(address, LOOPBACK)):
        authorise(headers, admin, "viewer")


def _unauthorised(why: str) -> Refusal:
    return Refusal(status=401, message=f"not signed in: {why}", should_retry=False, code="token", headers=_CHALLENGE)
