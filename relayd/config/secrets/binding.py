"""Binding: the one place where a sealed value may be used.

Rule: pure. Theory: whoever can edit a tree could copy a sealed line to an account of their own, or point `base_url`
at a host of their own, and let the daemon send them the credential. The binding names realm, object, field, origin and,
where tokens are refreshed, the token endpoint; a value opens for the binding that it was sealed for and for no other.
What is not named (path, timeouts, proxy, weight) may be edited freely.
"""

from __future__ import annotations

import ipaddress
import json
from functools import lru_cache
from urllib.parse import urlsplit

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import Account, Relay
from relayd.noun import noun

# Values bound to this token endpoint are bound as they were before there was a place for one. Part of the format, not
# the default of [oauth].token_url: that may change, this may not.
UNNAMED_TOKEN_URL = "https://platform.claude.com/v1/oauth/token"


@noun(kw_only=True)
class Binding:
    """Where a secret belongs.

    Args:
        realm: `realm` of relay.toml.
        kind, id: the object, such as "account" and its id.
        field: dotted path of the TOML key that holds the value, such as "credential.sealed".
        origin: where the secret may be sent (`origin_of`); "" where that does not apply.
        token_url: where the refresh token in it may be sent (`endpoint_of`); "" for UNNAMED_TOKEN_URL, and where that
            does not apply.
    """

    realm: str
    kind: str
    id: str
    field: str
    origin: str = ""
    token_url: str = ""

    def encode(self) -> bytes:
        """A JSON array in ASCII without spaces: no two bindings have the same bytes."""
        parts = ["relayd/v1", self.realm, self.kind, self.id, self.field, self.origin]
        parts += [self.token_url] if self.token_url else []
        return json.dumps(parts, separators=(",", ":"), ensure_ascii=True).encode()

    def __str__(self) -> str:
        to = f" to {self.origin}" if self.origin else ""
        tokens = f", refreshed at {self.token_url}" if self.token_url else ""
        return f"{self.kind} {self.id}, {self.field}{to}{tokens}, in realm {self.realm}"


def account_binding(realm: str, account: str, base_url: str, token_url: str = "") -> Binding:
    """The binding of accounts.d/ID.toml's `credential.sealed`.

    Args:
        token_url: `[oauth].token_url` where the account's kind refreshes tokens, else "".
    Raises: SealError on a URL without an origin.
    """
    return Binding(
        realm=realm,
        kind="account",
        id=account,
        field="credential.sealed",
        origin=origin_of(base_url),
        token_url=endpoint_of(token_url),
    )


def credential_binding(account: Account, relay: Relay) -> Binding:
    """The binding of an account's credential in its tree. Raises: SealError on a URL without an origin."""
    token_url = relay.oauth.token_url if ACCOUNT_KINDS[account.kind].refreshes else ""
    return account_binding(relay.realm, account.id, account.base_url or relay.upstream.base_url, token_url)


ALERT_FIELDS = ("url", "signing_key")  # of `[alerts.ID]`, that are sealed


def alert_binding(realm: str, alert: str, field: str = "url") -> Binding:
    """The binding of a sealed field of `[alerts.ID]`. No origin: it is inside the secret."""
    return Binding(realm=realm, kind="alert", id=alert, field=field)


def totp_binding(realm: str, user: str) -> Binding:
    """The binding of `[[admin.users]] totp`, by the user's name."""
    return Binding(realm=realm, kind="admin-user", id=user, field="totp")


def crs_binding(realm: str) -> Binding:
    """The binding of `[secrets] crs_encryption_key`."""
    return Binding(realm=realm, kind="relay", id="crs", field="secrets.crs_encryption_key")


def endpoint_of(token_url: str) -> str:
    """A token endpoint as values are bound to it: origin and path; "" for none and for UNNAMED_TOKEN_URL.

    Raises: SealError as `origin_of` does.
    """
    if not token_url:
        return ""
    found = origin_of(token_url, "token_url") + urlsplit(token_url).path.rstrip("/")
    return "" if found == UNNAMED_TOKEN_URL else found


@lru_cache(maxsize=1024)
def origin_of(url: str, what: str = "base_url") -> str:
    """Scheme, host and port of `url` in lower case; the scheme's own port is left out (RFC 6454 section 6.2).

    Args:
        what: the URL's name in the tree.
    Raises: SealError (E-SEAL-ORIGIN): not an http(s) URL, or http to other than a loopback address.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        raise SealError("E-SEAL-ORIGIN", f"{what} is not a URL that a credential can be bound to") from None
    if parts.scheme not in ("https", "http") or not host:
        raise SealError("E-SEAL-ORIGIN", f"{what} is not an http or https URL")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise SealError("E-SEAL-ORIGIN", f"http://{host} would carry the credential in clear (use https)")
    shown = f"[{host}]" if ":" in host else host
    default = {"https": 443, "http": 80}[parts.scheme]
    return f"{parts.scheme}://{shown}" + ("" if port in (None, default) else f":{port}")


@lru_cache(maxsize=1024)
def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine. Asked with every call that has a credential, of the few URLs of a tree."""
    return _is_this_machine(urlsplit(url).hostname or "")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # names below it (RFC 6761 section 6.3) are asked of a name server by some systems
