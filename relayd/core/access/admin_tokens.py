"""Admin tokens: who may ask the admin listener what?

Rule: a token is looked up in the newest snapshot at each request, so a removed one is refused on the next; the tree
holds hashes only. A viewer reads, an editor also acts.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Literal

from relayd.config.snapshot import Admin, AdminToken
from relayd.core.access.addresses import forwarded_address, inside
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

Role = Literal["viewer", "editor"]

LOOPBACK = ("127.0.0.0/8", "::1")
_LOCALHOST = re.compile(r"localhost\.?(:\d{1,5})?", re.ASCII | re.IGNORECASE)
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

    A page whose name was made to resolve to this machine (DNS rebinding) asks from here too, but by that name: without
    a token the Host header must be an address or localhost.

    Args:
        address: the client's, as `client_address` tells it.
    Raises: Refusal as `authorise` does; 403 for another Host.
    """
    if bearer_of(headers) or (address and not inside(address, LOOPBACK)):
        authorise(headers, admin, "viewer")
    elif address and b"host" in headers and not _names_no_site(headers.text(b"host")):
        message = "host: without a token metrics are served under an address or localhost only"
        raise Refusal(status=403, message=message, code="host")


def _names_no_site(host: str) -> bool:
    """Whether no name server can have a say in where this host is. Source: RFC 6761 section 6.3, localhost."""
    return bool(forwarded_address(host)) or _LOCALHOST.fullmatch(host) is not None


def _unauthorised(why: str) -> Refusal:
    return Refusal(status=401, message=f"not signed in: {why}", should_retry=False, code="token", headers=_CHALLENGE)
