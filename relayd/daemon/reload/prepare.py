"""Preparation: everything of a new config that can fail, done before it runs; closing what it no longer needs, after.

Rule: `prepare` runs in a worker thread and leaves no trace when it fails. `commit` and `retire` are sync, run on the
event loop and cannot fail. An address that stays is not touched; a new one is open before an old one is closed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import Account, Snapshot
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.accounts.old_keys import with_old_keys
from relayd.daemon.net.listen import Sockets, open_listener

if TYPE_CHECKING:
    from relayd.config.secrets.seal import Identity


class Accepts(Protocol):
    """Who serves what comes in."""

    def listen(self, sock: socket.socket) -> None:
        """Accept on one more socket, which is owned from now on. Sync."""
        ...

    def unlisten(self, sock: socket.socket) -> None:
        """Accept no more on it, and close it. Sync."""
        ...


@attrs.define(eq=False, kw_only=True)
class Listener:
    """One of the daemon's listeners, and its addresses.

    Args:
        setting: the key of relay.toml that names them.
        wanted: the addresses that a config asks for.
        pinned: the node's own choice holds, whatever the tree says.
        listening: the open sockets by address.
        given_up: addresses that could not be had at the start and that the daemon does without.
    """

    setting: str
    server: Accepts
    wanted: Callable[[Snapshot], Sequence[str]]
    pinned: bool = False
    listening: Sockets = attrs.field(factory=dict)
    given_up: frozenset[str] = frozenset()

    def addresses(self, snapshot: Snapshot) -> list[str]:
        """What is to be open under a config."""
        if self.pinned:
            return list(self.listening)
        return [address for address in dict.fromkeys(self.wanted(snapshot)) if address not in self.given_up]


class Unprepared(Exception):
    """Something that a config needs cannot be had on this node. `reasons` are for people."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(reasons))


@attrs.define(eq=False, kw_only=True)
class Preparation:
    """Prepares one config after the other.

    Args:
        listeners: all that the daemon has.
        identities: reads this node's identities anew. Raises: SealError.
    """

    listeners: Sequence[Listener]
    credentials: Credentials
    identities: Callable[[], Sequence[Identity]]

    def prepare(self, old: Snapshot, new: Snapshot) -> Prepared:
        """Open the secrets of new and changed accounts, then new listeners. Raises: Unprepared with every reason."""
        reasons = self._secrets(old, new)
        prepared = Prepared(snapshot=self._with_old_keys(old, new, reasons))
        for listener in self.listeners:
            wanted = listener.addresses(new)
            prepared.unneeded += [(listener, address) for address in listener.listening if address not in wanted]
            for address in wanted:
                if address not in listener.listening:
                    try:
                        prepared.opened.append((listener, address, open_listener(address)))
                    except (OSError, ValueError) as error:
                        reasons.append(f"{listener.setting}: {self._why(error, address)}")
        if reasons:
            prepared.discard()
            raise Unprepared(reasons)
        return prepared

    def _with_old_keys(self, old: Snapshot, new: Snapshot, reasons: list[str]) -> Snapshot:
        """The new config as it will run. A secret that could not be opened before either is no news."""
        try:
            return with_old_keys(new, self._fresh_identities(new))
        except SealError as error:
            if old.relay.secrets.crs_encryption_key != new.relay.secrets.crs_encryption_key:
                reasons.append(f"secrets.crs_encryption_key: {error}")
            return new

    def _fresh_identities(self, new: Snapshot) -> Sequence[Identity]:
        return self.identities() if new.relay.secrets.crs_encryption_key else ()

    def _why(self, error: Exception, address: str) -> str:
        """The error, with a hint where our own listener has the port (such as 127.0.0.1:80 before *:80)."""
        port = address.rpartition(":")[2]
        ours = [other for listener in self.listeners for other in listener.listening if not other.startswith("unix:")]
        same = [other for other in ours if other.rpartition(":")[2] == port]
        return f"{error} ({same[0]} is open until the new one is; a restart changes it)" if same else str(error)

    def _secrets(self, old: Snapshot, new: Snapshot) -> list[str]:
        """Why new secrets cannot be opened. An account that is as it was is not judged again."""
        changed = [
            account
            for account in new.accounts.values()
            if account.enabled and _presents(account, new) != _presents(old.accounts.get(account.id), old)
        ]
        if any(account.credential.sealed for account in changed):
            try:
                self.credentials.identities = self.identities()
            except SealError as error:
                return [str(error)]
        self.credentials.read_files()
        tried = [(account.id, self.credentials.of(account, new)) for account in changed]
        return [f"account {name}: {secret}" for name, secret in tried if isinstance(secret, str)]


def _presents(account: Account | None, snapshot: Snapshot) -> tuple[object, ...]:
    """All that a secret depends on."""
    if account is None or not account.enabled:
        return ()
    relay = snapshot.relay
    token_url = relay.oauth.token_url if ACCOUNT_KINDS[account.kind].refreshes else ""
    return account.kind, account.credential, account.base_url or relay.upstream.base_url, relay.realm, token_url


@attrs.define(eq=False)
class Prepared:
    """What was opened for one config, and that config as it will run."""

    snapshot: Snapshot
    opened: list[tuple[Listener, str, list[socket.socket]]] = attrs.field(factory=list)
    unneeded: list[tuple[Listener, str]] = attrs.field(factory=list)

    def commit(self) -> None:
        """Accept on the new sockets."""
        for listener, address, sockets in self.opened:
            listener.listening[address] = sockets
            for sock in sockets:
                listener.server.listen(sock)
        self.opened = []

    def retire(self) -> None:
        """Accept no more on the old ones; their connections go on."""
        for listener, address in self.unneeded:
            for sock in listener.listening.pop(address):
                listener.server.unlisten(sock)

    def discard(self) -> None:
        """Close the new sockets."""
        for _, _, sockets in self.opened:
            for sock in sockets:
                sock.close()
        self.opened = []
