"""Prepare: everything of a new config that can fail, done before it runs; and closing what it no longer needs, after.

Rule: `prepare` runs in a worker thread and leaves no trace when it fails. `commit` and `retire` are sync, run on the
event loop and cannot fail. An address that stays is not touched; a new one is open before an old one is closed.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import Account, Snapshot
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.net.listen import open_listener
from relayd.daemon.net.server import HttpServer
from relayd.daemon.reload.reloader import Unprepared

if TYPE_CHECKING:
    from relayd.config.secrets.seal import Identity

log = logging.getLogger("relayd")

Sockets = dict[str, list[socket.socket]]


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
    server: HttpServer
    wanted: Callable[[Snapshot], Sequence[str]]
    pinned: bool = False
    listening: Sockets = attrs.field(factory=dict)
    given_up: frozenset[str] = frozenset()

    def addresses(self, snapshot: Snapshot) -> list[str]:
        """What is to be open under a config."""
        if self.pinned:
            return list(self.listening)
        return [address for address in dict.fromkeys(self.wanted(snapshot)) if address not in self.given_up]


def open_all(addresses: Sequence[str]) -> Sockets:
    """Listening sockets for all addresses, or none. Raises: OSError, ValueError."""
    opened: Sockets = {}
    try:
        for address in addresses:
            opened[address] = open_listener(address)
    except BaseException:
        for sock in sockets_of(opened):
            sock.close()
        raise
    return opened


def sockets_of(listening: Sockets) -> list[socket.socket]:
    """All sockets of all addresses."""
    return [sock for sockets in listening.values() for sock in sockets]


def public_addresses(snapshot: Snapshot) -> Sequence[str]:
    """Where clients come in."""
    return snapshot.relay.server.listen


def admin_addresses(snapshot: Snapshot) -> Sequence[str]:
    """Where the admin listener is; none when it is off."""
    return [snapshot.relay.admin.listen] if snapshot.relay.admin.listen else []


@attrs.define(eq=False, kw_only=True)
class Preparation:
    """Prepares one config after the other.

    Args:
        identities: reads this node's identities anew. Raises: SealError.
        doors: every listener.
        shut: accounts whose secret could not be had when last looked.
    """

    doors: Sequence[Listener]
    credentials: Credentials
    identities: Callable[[], Sequence[Identity]]
    shut: frozenset[str] = frozenset()

    def prepare(self, old: Snapshot, new: Snapshot) -> Arranged:
        """Open the secrets of new and changed accounts, then new listeners. Raises: Unprepared with every reason."""
        reasons = self._secrets(old, new)
        arranged = Arranged()
        for door in self.doors:
            wanted = door.addresses(new)
            arranged.unneeded += [(door, address) for address in door.listening if address not in wanted]
            for address in wanted:
                if address not in door.listening:
                    try:
                        arranged.opened.append((door, address, open_listener(address)))
                    except (OSError, ValueError) as error:
                        reasons.append(f"{door.setting}: {self._why(error, address)}")
        if reasons:
            arranged.discard()
            raise Unprepared(reasons)
        return arranged

    def _why(self, error: Exception, address: str) -> str:
        """The error, with a hint where our own listener has the port (such as 127.0.0.1:80 before *:80)."""
        port = address.rpartition(":")[2]
        ours = [other for door in self.doors for other in door.listening if not other.startswith("unix:")]
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

    def reopen(self, snapshot: Snapshot) -> list[str]:
        """Try again what could not be opened: the identity, or the file, may have come since. May block.

        Returns: the accounts whose secret can be had now.
        """
        problems = self.credentials.problems(snapshot)
        if problems:
            try:
                self.credentials.identities = self.identities()
            except SealError as error:
                log.warning("identity.unusable", extra={"reason": str(error)})
            else:
                problems = self.credentials.problems(snapshot)
        opened = sorted(name for name in self.shut - problems.keys() if name in snapshot.accounts)
        for name in sorted(problems.keys() - self.shut):
            log.warning("account.no_credential", extra={"account": name, "why": problems[name]})
        self.shut = frozenset(problems)
        return opened


def _presents(account: Account | None, snapshot: Snapshot) -> tuple[object, ...]:
    """All that a secret depends on."""
    if account is None or not account.enabled:
        return ()
    base_url = account.base_url or snapshot.relay.upstream.base_url
    return account.kind, account.credential, base_url, snapshot.relay.realm


@attrs.define(eq=False)
class Arranged:
    """What was opened for one config."""

    opened: list[tuple[Listener, str, list[socket.socket]]] = attrs.field(factory=list)
    unneeded: list[tuple[Listener, str]] = attrs.field(factory=list)

    def commit(self) -> None:
        """Accept on the new sockets."""
        for door, address, sockets in self.opened:
            door.listening[address] = sockets
            for sock in sockets:
                door.server.listen(sock)
        self.opened = []

    def retire(self) -> None:
        """Accept no more on the old ones; their connections go on."""
        for door, address in self.unneeded:
            for sock in door.listening.pop(address):
                door.server.unlisten(sock)

    def discard(self) -> None:
        """Close the new sockets."""
        for _, _, sockets in self.opened:
            for sock in sockets:
                sock.close()
        self.opened = []
