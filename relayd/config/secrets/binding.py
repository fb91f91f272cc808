"""Binding: the one place where a sealed value may be used.

Rule: pure. Theory: whoever can edit a tree could copy a sealed line to an account of their own, or point `base_url`
at a host of their own, and let the daemon send them the credential. The binding names realm, object, field and origin;
a value opens for the binding that it was sealed for and for no other. What is not named (path, timeouts, proxy,
weight) may be edited freely.
"""

from __future__ import annotations

import ipaddress
import json
from urllib.parse import urlsplit

import attrs

from relayd.config.secrets.recipients import SealError


@attrs.frozen(kw_only=True)
class Binding:
    """Where a secret belongs.

    Args:
        realm: `realm` of relay.toml.
        kind, id: the object, such as "account" and its id.
        field: dotted path of the TOML key that holds the value, such as "credential.sealed".
        origin: where the secret may be sent (`origin_of`); "" where that does not apply.
    """

    realm: str
    kind: str
    id: str
    field: str
    origin: str = ""

    def encode(self) -> bytes:
        """A JSON array in ASCII without spaces: no two bindings have the same bytes."""
        parts = ["relayd/v1", self.realm, self.kind, self.id, self.field, self.origin]
        return json.dumps(parts, separators=(",", ":"), ensure_ascii=True).encode()

    def __str__(self) -> str:
        to = f" to {self.origin}" if self.origin else ""
        return f"{self.kind} {self.id}, {self.field}{to}, in realm {self.realm}"


def account_binding(realm: str, account: str, base_url: str) -> Binding:
    """The binding of accounts.d/ID.toml's `credential.sealed`. Raises: SealError on a base_url without an origin."""
    return Binding(realm=realm, kind="account", id=account, field="credential.sealed", origin=origin_of(base_url))


def alert_binding(realm: str, alert: str) -> Binding:
    """The binding of `[alerts.ID] url`. No origin: it is inside the secret."""
    return Binding(realm=realm, kind="alert", id=alert, field="url")


def totp_binding(realm: str, user: str) -> Binding:
    """The binding of `[[admin.users]] totp`, by the user's name."""
    return Binding(realm=realm, kind="admin-user", id=user, field="totp")


def origin_of(base_url: str) -> str:
    """Scheme, host and port of `base_url` in lower case; the scheme's own port is left out (RFC 6454 section 6.2).

    Raises: SealError (E-SEAL-ORIGIN): not an http(s) URL, or http to other than a loopback address.
    """
    try:
        parts = urlsplit(base_url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        raise SealError("E-SEAL-ORIGIN", "base_url is not a URL that a credential can be bound to") from None
    if parts.scheme not in ("https", "http") or not host:
        raise SealError("E-SEAL-ORIGIN", "base_url is not an http or https URL")
    if parts.scheme == "http" and not _is_loopback(host):
        raise SealError("E-SEAL-ORIGIN", f"http://{host} would carry the credential in clear (use https)")
    shown = f"[{host}]" if ":" in host else host
    default = {"https": 443, "http": 80}[parts.scheme]
    return f"{parts.scheme}://{shown}" + ("" if port in (None, default) else f":{port}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761 section 6.3
