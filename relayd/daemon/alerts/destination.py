"""Destinations: where a target's notices go, opened when one is due, and the address rule on the way.

Rule: the URL and the signing key are secrets. They are opened in a thread, live for one notice, and no text of a
failure holds anything of them, not even the host.
"""

from __future__ import annotations

import socket

import attrs
import trio

from relayd.config.secrets.binding import alert_binding
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Alert, Relay
from relayd.core.alerts.address_rule import is_global
from relayd.core.alerts.signature import BadKey, key_bytes
from relayd.daemon.accounts.credentials import Credentials, read_secret_file
from relayd.daemon.net.connect import LookUp, SocketAddress, system_look_up
from relayd.noun import noun

PRIVATE = "the URL leads to an address that is not a global one (allow_private = true permits that)"


class NoDestination(Exception):
    """A target cannot be used on this node. The text holds nothing secret."""


class PrivateAddress(OSError):
    """A name leads to addresses that an alert may not go to."""


@noun(kw_only=True)
class Undelivered:
    """A notice did not arrive.

    Args:
        reason: for the log and for `status`; it names no host and quotes no answer.
        asked: s that the receiver wants to be left alone.
        unknown: it may have arrived.
    """

    reason: str
    asked: float = 0.0
    unknown: bool = False


@noun(kw_only=True)
class Destination:
    """Where notices go, and what they are signed with."""

    url: Secret
    key: bytes | None = attrs.field(default=None, repr=False)


def open_destination(name: str, target: Alert, relay: Relay, credentials: Credentials) -> Destination:
    """Open a target's secrets. Blocks: not for the event loop. Raises: NoDestination."""
    try:
        url = _secret(name, "url", target.url, target.url_file, relay, credentials)
        signing = _secret(name, "signing_key", target.signing_key, target.signing_key_file, relay, credentials)
        return Destination(url=url, key=key_bytes(signing) if signing else None)
    except OSError as error:
        raise NoDestination(f"alerts.{name}: {(error.strerror or type(error).__name__).lower()}") from None
    except (SealError, BadKey, ValueError) as error:
        raise NoDestination(f"alerts.{name}: {error}") from None


def _secret(name: str, field: str, sealed: str, file: str, relay: Relay, credentials: Credentials) -> Secret:
    """Raises: OSError, ValueError, SealError."""
    if file:
        path = credentials.files.locate_credential(file, relay.state.password_file)
        return read_secret_file(path.resolve())
    if not sealed:
        return Secret("")
    from relayd.config.secrets.seal import open_sealed  # it brings cryptography

    binding = alert_binding(relay.realm, name, field)
    return open_sealed(sealed, binding, credentials.identities, relay.secrets.recipients)


def checked_look_up(private: bool, look_up: LookUp = system_look_up) -> LookUp:
    """A look-up that gives only addresses which an alert may go to; a connection is made to those and no others.

    Raises (the look-up): PrivateAddress when there are only others.
    """

    async def checked(host: str, port: int) -> list[SocketAddress]:
        found = await look_up(host, port)
        permitted = [one for one in found if private or _is_global(one)]
        if found and not permitted:
            raise PrivateAddress(0, PRIVATE)
        return permitted

    return checked


def _is_global(address: SocketAddress) -> bool:
    family, where = address
    return family in (socket.AF_INET, socket.AF_INET6) and is_global(str(where[0]))


async def opened(name: str, target: Alert, relay: Relay, credentials: Credentials) -> Destination:
    """As `open_destination`, in a thread. Raises: NoDestination."""
    return await trio.to_thread.run_sync(open_destination, name, target, relay, credentials, abandon_on_cancel=True)
