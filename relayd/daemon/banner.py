"""Banner: what a person at a terminal reads when the daemon has started, and which addresses let keys travel in clear.

Rule: pure; texts from what is known. Nobody reads it where the log is JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from relayd import __version__
from relayd.config.model.addresses import is_loopback
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Snapshot

CLEARTEXT = (
    "other machines reach this without TLS, so keys travel in clear: listen on 127.0.0.1 with a TLS proxy before it, "
    "or name that proxy in [server].trusted_proxies"
)


def banner(snapshot: Snapshot, public: Sequence[str], admin: Sequence[str], tree: str) -> str:
    """A few lines for people.

    Args:
        public, admin: where it listens, as URLs.
        tree: the directory of the config tree.
    """
    lines = [f"relayd {__version__} on {tree}, listening on {', '.join(public)}"]
    if admin:
        lines.append(f"metrics and status on {', '.join(admin)}")
    lines += _next(snapshot)
    lines.append("Ctrl-C stops it: calls in flight may finish, a second Ctrl-C cuts them")
    return "\n" + "\n".join(f"  {line}" for line in lines) + "\n\n"


def _next(snapshot: Snapshot) -> list[str]:
    """What is still to be done before a call is served by a real account."""
    keys = [key.id for key in snapshot.keys.values() if key.enabled and key.id not in snapshot.deny.keys]
    real = [one for one in snapshot.accounts.values() if not ACCOUNT_KINDS[one.kind].in_process]
    if not snapshot.accounts:
        return ["no account yet; the first one: relayd account add NAME --kind api-key"]
    if not keys:
        return ["no key yet; the first one: relayd key new NAME"]
    found = f"{_counted(len(keys), 'key')}, {_counted(len(snapshot.accounts), 'account')}"
    first = "simulated; the first real ones: relayd account add NAME --kind api-key, then relayd key new NAME"
    return [found if real else f"{found}, {first}"]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def in_clear(addresses: Sequence[str], trusted_proxies: Sequence[str]) -> list[str]:
    """Addresses that other machines reach without TLS. Where a proxy on another machine is trusted, it is before them.

    Args:
        addresses: as `address_text` has them.
    """
    if any(not is_loopback(one.partition("/")[0]) for one in trusted_proxies):
        return []
    tcp = [one for one in addresses if not one.startswith("unix:")]
    return [one for one in tcp if not is_loopback(urlsplit(one).hostname or "")]
