"""Credentials: the opened secret of each account, kept for as long as its sealed value is the same.

Rule: secrets come to light in `config.seal.open_sealed` and in the file reader below, and stay `Secret`s until
`core.outbound` writes them into a header. An account whose secret cannot be had is a reason in the pool, not an exit.
Files are looked at by `read_files`, at a reload and every FILES_EVERY s, in a thread; an attempt asks no disk.
What OAuth makes of the secret at run time is daemon/accounts/oauth.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from relayd.config.diff import Change, Changes
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Snapshot
from relayd.core.oauth import parse_tokens, presentable

if TYPE_CHECKING:
    from relayd.config.secrets.seal import Identity

_MOST = 64 << 10  # bytes of a credential file
FILES_EVERY = 2.0  # s
NOTHING = Secret("")


@attrs.frozen(eq=False)
class Opened:
    """An account's secret as it was sealed, and the part of it that a header carries."""

    whole: Secret
    presented: Secret


_NOTHING = Opened(NOTHING, NOTHING)


@attrs.frozen(eq=False)
class _FileRead:
    """A credential file as it was when its stat signature was this one (None: there was none): a secret, or why not."""

    signature: tuple[int, int, int] | None
    found: Opened | OSError | ValueError


@attrs.define(eq=False)
class Credentials:
    """Opens what accounts present.

    Args:
        identities: of this node; empty when the tree seals nothing.
    """

    identities: Sequence[Identity] = ()
    _opened: dict[tuple[str, str, str], Opened] = attrs.field(factory=dict, repr=False)
    _read: dict[tuple[str, str], _FileRead] = attrs.field(factory=dict, repr=False)  # by path and kind of account

    def problems(self, snapshot: Snapshot) -> dict[str, str]:
        """Open every enabled account's secret. Returns the accounts whose secret cannot be had, with the reason.

        Reads files: not for the event loop.
        """
        self.read_files()
        tried = {account.id: self.of(account, snapshot) for account in snapshot.accounts.values() if account.enabled}
        return {name: secret for name, secret in tried.items() if isinstance(secret, str)}

    def of(self, account: Account, snapshot: Snapshot) -> Secret | str:
        """What to present for `account`, or why that cannot be had."""
        found = self.opened(account, snapshot)
        return found if isinstance(found, str) else found.presented

    def opened(self, account: Account, snapshot: Snapshot) -> Opened | str:
        """The secret of `account` as it was sealed; the same object while it is the same. Or why it cannot be had."""
        try:
            return self._of(account, snapshot)
        except (SealError, OSError, ValueError) as error:
            return _why(account, error)

    def keep_only(self, snapshot: Snapshot) -> None:
        """Forget the secrets that no account of `snapshot` has any longer. A reload may open others meanwhile, in a
        thread of its own: hence the copies; what is forgotten too early is opened once more."""
        accounts = snapshot.accounts.values()
        sealed = {account.credential.sealed for account in accounts}
        files = {account.credential.file for account in accounts}
        self._opened = {place: one for place, one in list(self._opened.items()) if place[0] in sealed}
        self._read = {place: one for place, one in list(self._read.items()) if place[0] in files}

    def remark(self, changes: Changes, old: Snapshot, new: Snapshot) -> Changes:
        """The changes, where a sealed value changed with word of whether the secret in it did: as far as this node can
        open both. Nothing is kept of what was opened for it."""
        return attrs.evolve(changes, changes=tuple(self._remarked(one, old, new) for one in changes.changes))

    def _remarked(self, change: Change, old: Snapshot, new: Snapshot) -> Change:
        if change.kind != "account" or change.action != "change":
            return change
        fields = []
        for field in change.fields:
            if field.path == "credential.sealed" and field.old and field.new:
                word = self._same(old.accounts[change.id], old, new.accounts[change.id], new)
                field = attrs.evolve(field, note=f"{field.note}, {word}" if word else field.note)
            fields.append(field)
        return attrs.evolve(change, fields=tuple(fields))

    def _same(self, before: Account, old: Snapshot, after: Account, new: Snapshot) -> str:
        """Whether two sealed values hold the same secret; "" when that cannot be told here."""
        try:
            one, other = (
                self._open(account, snapshot, account.base_url or snapshot.relay.upstream.base_url)
                for account, snapshot in ((before, old), (after, new))
            )
        except (SealError, ValueError):
            return ""
        return f"plaintext {'unchanged' if one.reveal() == other.reveal() else 'changed'}"

    def _of(self, account: Account, snapshot: Snapshot) -> Opened:
        if account.kind == "simulator":
            return _NOTHING
        if account.credential.file:
            return self._from_file(account)
        base_url = account.base_url or snapshot.relay.upstream.base_url
        place = (account.credential.sealed, account.id, base_url)
        opened = self._opened.get(place)
        if opened is None:
            opened = self._opened[place] = _taken_apart(account.kind, self._open(account, snapshot, base_url))
        return opened

    def _from_file(self, account: Account) -> Opened:
        """The secret in a node-local file, as it was last read. Raises: OSError, ValueError."""
        place = (account.credential.file, account.kind)
        known = self._read.get(place)
        if known is None:
            known = self._read[place] = _read_file(*place, None)
        if isinstance(known.found, Exception):
            raise known.found.with_traceback(None)  # else each time would make it longer
        return known.found

    @property
    def has_files(self) -> bool:
        """Whether any secret is in a file."""
        return bool(self._read)

    def read_files(self) -> None:
        """Read each file anew that has become another one (it may be rotated). Blocks: not for the event loop."""
        for place, known in list(self._read.items()):
            self._read[place] = _read_file(*place, known)

    def _open(self, account: Account, snapshot: Snapshot, base_url: str) -> Secret:
        from relayd.config.secrets.seal import open_sealed  # a tree without sealed values does not pay for it

        binding = account_binding(snapshot.relay.realm, account.id, base_url)
        return open_sealed(account.credential.sealed, binding, self.identities, snapshot.relay.secrets.recipients)


def _read_file(path: str, kind: str, known: _FileRead | None) -> _FileRead:
    """What is in a file; `known` when it is the same file as then."""
    signature = None
    try:
        stat = os.stat(path)
        signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if known is not None and known.signature == signature and isinstance(known.found, Opened):
            return known
        return _FileRead(signature, _taken_apart(kind, _read(path)))
    except (OSError, ValueError) as error:
        return _FileRead(signature, error)


def _read(path: str) -> Secret:
    with open(path, "rb") as file:
        raw = file.read(_MOST + 1)
    if len(raw) > _MOST:
        raise ValueError(f"{path}: more than {_MOST} bytes is no credential")
    try:
        return Secret(raw.decode("ascii").strip())
    except UnicodeDecodeError:  # whose text would quote a byte of it
        raise ValueError(f"{path}: not ASCII, so no header could carry it") from None


def _taken_apart(kind: str, secret: Secret) -> Opened:
    """An OAuth credential may be a JSON of tokens or an access token alone. Raises: ValueError."""
    if kind == "oauth":
        return Opened(secret, parse_tokens(secret).access)
    return Opened(secret, presentable(secret.reveal()))


def _why(account: Account, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"credential file {account.credential.file}: {os.strerror(error.errno or 0).lower()}"
    return str(error)
