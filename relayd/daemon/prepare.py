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

from relayd.config.recipients import SealError
from relayd.config.snapshot import Account, Snapshot
from relayd.daemon.credentials import Credentials
from relayd.daemon.listen import open_listener
from relayd.daemon.reload import Unprepared
from relayd.daemon.server import Server

if TYPE_CHECKING:
    from relayd.config.seal import Identity

log = logging.getLogger("relayd")

Sockets = dict[str, list[socket.socket]]


@attrs.define(eq=False, kw_only=True)
class Preparation:
    """Prepares one config after the other.

    Args:
        identities: reads this node's identities anew. Raises: SealError.
        shut: accounts whose secret could not be had when last looked.
        pinned: the node's own --listen holds, whatever the tree says.
        listening: the open sockets by address.
    """

    server: Server
    credentials: Credentials
    identities: Callable[[], Sequence[Identity]]
    shut: frozenset[str] = frozenset()
    pinned: bool = False
    listening: Sockets = attrs.field(factory=dict)

    def prepare(self, old: Snapshot, new: Snapshot) -> Arranged:
        """Open the secrets of new and changed accounts, then new listeners. Raises: Unprepared with every reason."""
        reasons = self._secrets(old, new)
        wanted = list(self.listening) if self.pinned else list(dict.fromkeys(new.relay.server.listen))
        opened: Sockets = {}
        for address in wanted:
            if address not in self.listening:
                try:
                    opened[address] = open_listener(address)
                except (OSError, ValueError) as error:
                    reasons.append(f"server.listen: {_why(error, address, self.listening)}")
        arranged = Arranged(self, opened, [address for address in self.listening if address not in wanted])
        if reasons:
            arranged.discard()
            raise Unprepared(reasons)
        return arranged

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


def _why(error: Exception, address: str, listening: Sockets) -> str:
    """The error, with a hint where our own listener has the port (such as 127.0.0.1:80 before *:80)."""
    port = address.rpartition(":")[2]
    same = [other for other in listening if not other.startswith("unix:") and other.rpartition(":")[2] == port]
    return f"{error} ({same[0]} is open until the new one is; a restart changes it)" if same else str(error)


@attrs.define(eq=False)
class Arranged:
    """What was opened for one config."""

    preparation: Preparation
    opened: Sockets
    unneeded: list[str]

    def commit(self) -> None:
        """Accept on the new sockets."""
        for address, sockets in self.opened.items():
            self.preparation.listening[address] = sockets
            for sock in sockets:
                self.preparation.server.listen(sock)
        self.opened = {}

    def retire(self) -> None:
        """Accept no more on the old ones; their connections go on."""
        for address in self.unneeded:
            for sock in self.preparation.listening.pop(address):
                self.preparation.server.unlisten(sock)

    def discard(self) -> None:
        """Close the new sockets."""
        for sockets in self.opened.values():
            for sock in sockets:
                sock.close()
        self.opened = {}
