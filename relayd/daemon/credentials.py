"""Credentials: the opened secret of each account, kept for as long as its sealed value is the same.

Rule: secrets come to light in `config.seal.open_sealed` and in the file reader below, and stay `Secret`s until
`core.outbound` writes them into a header. An account whose secret cannot be had is a reason in the pool, not an exit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from relayd.config.binding import account_binding
from relayd.config.recipients import SealError
from relayd.config.secret import Secret
from relayd.config.snapshot import Account, Snapshot

if TYPE_CHECKING:
    from relayd.config.seal import Identity

_MOST = 64 << 10  # bytes of a credential file
NOTHING = Secret("")


@attrs.define(eq=False)
class Credentials:
    """Opens what accounts present.

    Args:
        identities: of this node; empty when the tree seals nothing.
    """

    identities: Sequence[Identity] = ()
    _opened: dict[tuple[str, str, str], Secret] = attrs.field(factory=dict, repr=False)
    _read: dict[str, tuple[tuple[int, int, int], Secret]] = attrs.field(factory=dict, repr=False)

    def problems(self, snapshot: Snapshot) -> dict[str, str]:
        """Open every enabled account's secret. Returns the accounts whose secret cannot be had, with the reason."""
        tried = {account.id: self.of(account, snapshot) for account in snapshot.accounts.values() if account.enabled}
        return {name: secret for name, secret in tried.items() if isinstance(secret, str)}

    def of(self, account: Account, snapshot: Snapshot) -> Secret | str:
        """What to present for `account`, or why that cannot be had."""
        try:
            return self._of(account, snapshot)
        except (SealError, OSError, ValueError) as error:
            return _why(account, error)

    def _of(self, account: Account, snapshot: Snapshot) -> Secret:
        if account.kind == "simulator":
            return NOTHING
        if account.credential.file:
            return self._from_file(account)
        base_url = account.base_url or snapshot.relay.upstream.base_url
        place = (account.credential.sealed, account.id, base_url)
        opened = self._opened.get(place)
        if opened is None:
            opened = self._opened[place] = _presented(account, self._open(account, snapshot, base_url))
        return opened

    def _from_file(self, account: Account) -> Secret:
        """The secret in a node-local file, read anew only when the file is another one (it may be rotated)."""
        path = account.credential.file
        found = os.stat(path)
        signature = (found.st_ino, found.st_size, found.st_mtime_ns)
        known = self._read.get(path)
        if known is None or known[0] != signature:
            known = self._read[path] = signature, _presented(account, _read(path))
        return known[1]

    def _open(self, account: Account, snapshot: Snapshot, base_url: str) -> Secret:
        from relayd.config.seal import open_sealed  # a tree without sealed values does not pay for it

        binding = account_binding(snapshot.relay.realm, account.id, base_url)
        return open_sealed(account.credential.sealed, binding, self.identities)


def _read(path: str) -> Secret:
    with open(path, "rb") as file:
        raw = file.read(_MOST + 1)
    if len(raw) > _MOST:
        raise ValueError(f"{path}: more than {_MOST} bytes is no credential")
    return Secret(raw.decode("ascii").strip())


def _presented(account: Account, secret: Secret) -> Secret:
    """The text that goes into the header. An OAuth credential may be a JSON of tokens or an access token alone."""
    text = secret.reveal()
    if account.kind == "oauth" and text.startswith("{"):
        try:
            text = str(json.loads(text)["access_token"])
        except (ValueError, KeyError):
            raise ValueError("the sealed OAuth credential is no JSON with an access_token") from None
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("the credential is empty or has characters that no header may carry")
    return Secret(text)


def _why(account: Account, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"credential file {account.credential.file}: {os.strerror(error.errno or 0).lower()}"
    return str(error)
