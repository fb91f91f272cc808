"""Account credentials: the opened secret of each account, kept for as long as its sealed value is the same.

Rule: secrets are opened in `config.seal.open_sealed` and in the file reader below, and stay `Secret`s until
`core.outbound` writes them into a header. An account whose secret cannot be had is a reason in the pool, not an exit.
Files are looked at by `read_files`, at a reload and every FILES_EVERY s, in a thread; an attempt asks no disk.
What OAuth makes of the secret at run time is daemon/accounts/oauth.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from relayd.config.changes import Change, Changes
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.binding import Binding, credential_binding
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.secret import Secret
from relayd.config.secrets.secret_files import SecretFiles
from relayd.config.snapshot import Account, AccountKindName, Relay, Snapshot
from relayd.core.oauth import parse_tokens, presentable
from relayd.noun import noun

if TYPE_CHECKING:
    from relayd.config.secrets.seal import Identity

_MOST = 64 << 10  # bytes of a credential file
FILES_EVERY = 2.0  # s
NOTHING = Secret("")


@noun(eq=False)
class Opened:
    """An account's secret as it was sealed, and the part of it that a header carries."""

    whole: Secret
    presented: Secret


_NOTHING = Opened(NOTHING, NOTHING)


@noun(kw_only=True)
class _File:
    """A credential file as a tree names it. `password_file`: the tree's, which is not presented."""

    name: str
    kind: AccountKindName
    password_file: str


@noun(eq=False)
class _FileRead:
    """What was in a credential file with this signature: a secret, or why there is none. None: there was no file."""

    signature: tuple[Path, int, int, int] | None
    found: Opened | OSError | ValueError


@attrs.define(eq=False)
class Credentials:
    """Opens what accounts present.

    Args:
        identities: of this node; empty when the tree seals nothing.
        files: which files this node permits, and where their content may go.
    """

    identities: Sequence[Identity] = ()
    files: SecretFiles = attrs.field(factory=SecretFiles)
    _opened: dict[tuple[str, Binding], Opened] = attrs.field(factory=dict, repr=False)
    _read: dict[_File, _FileRead] = attrs.field(factory=dict, repr=False)

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
        self._opened = {key: one for key, one in list(self._opened.items()) if key[0] in sealed}
        self._read = {file: one for file, one in list(self._read.items()) if file.name in files}

    def remark(self, changes: Changes, old: Snapshot, new: Snapshot) -> Changes:
        """The changes; where a sealed value changed, with a note on whether the secret in it did, if this node can
        open both. Nothing is kept of what was opened for it."""
        return attrs.evolve(changes, changes=tuple(self._remarked(one, old, new) for one in changes.changes))

    def _remarked(self, change: Change, old: Snapshot, new: Snapshot) -> Change:
        if change.kind != "account" or change.action != "change":
            return change
        fields = []
        for field in change.fields:
            if field.path == "credential.sealed" and field.old and field.new:
                verdict = self._same(old.accounts[change.id], old, new.accounts[change.id], new)
                field = attrs.evolve(field, note=f"{field.note}, {verdict}" if verdict else field.note)
            fields.append(field)
        return attrs.evolve(change, fields=tuple(fields))

    def _same(self, before: Account, old: Snapshot, after: Account, new: Snapshot) -> str:
        """Whether two sealed values hold the same secret; "" when that cannot be told here."""
        try:
            one, other = (
                self._open(account, snapshot.relay, credential_binding(account, snapshot.relay))
                for account, snapshot in ((before, old), (after, new))
            )
        except (SealError, ValueError):
            return ""
        return f"plaintext {'unchanged' if one.reveal() == other.reveal() else 'changed'}"

    def _of(self, account: Account, snapshot: Snapshot) -> Opened:
        if not ACCOUNT_KINDS[account.kind].has_credential:
            return _NOTHING
        if account.credential.file:
            return self._from_file(account, snapshot.relay)
        binding = credential_binding(account, snapshot.relay)
        key = (account.credential.sealed, binding)
        opened = self._opened.get(key)
        if opened is None:
            opened = self._opened[key] = _parsed(account.kind, self._open(account, snapshot.relay, binding))
        return opened

    def _from_file(self, account: Account, relay: Relay) -> Opened:
        """The secret in a node-local file, as it was last read. Raises: OSError, ValueError."""
        if why := self.files.why_not_sent(account, relay):
            raise ValueError(why)
        file = _File(name=account.credential.file, kind=account.kind, password_file=relay.state.password_file)
        known = self._read.get(file)
        if known is None:
            known = self._read[file] = self._read_file(file, None)
        if isinstance(known.found, Exception):
            raise known.found.with_traceback(None)  # else each time would make it longer
        return known.found

    @property
    def has_files(self) -> bool:
        """Whether any secret is in a file."""
        return bool(self._read)

    def read_files(self) -> None:
        """Read each file anew that has become another one (it may be rotated). Blocks: not for the event loop."""
        for file, known in list(self._read.items()):
            self._read[file] = self._read_file(file, known)

    def _read_file(self, file: _File, known: _FileRead | None) -> _FileRead:
        """What is in a file; `known` when it is the same file as then."""
        signature = None
        try:
            path = self.files.locate_credential(file.name, file.password_file)
            found = os.stat(path)
            signature = path, found.st_ino, found.st_size, found.st_mtime_ns
            if known is not None and known.signature == signature and isinstance(known.found, Opened):
                return known
            return _FileRead(signature, _parsed(file.kind, read_secret_file(path.resolve())))
        except (OSError, ValueError) as error:
            return _FileRead(signature, error)

    def _open(self, account: Account, relay: Relay, binding: Binding) -> Secret:
        from relayd.config.secrets.seal import open_sealed  # a tree without sealed values does not pay for it

        return open_sealed(account.credential.sealed, binding, self.identities, relay.secrets.recipients)


def read_secret_file(path: Path) -> Secret:
    """A credential file, of which no part can have become a link since it was located. Raises: OSError, ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path}: not a regular file")
        raw = file.read(_MOST + 1)
    if len(raw) > _MOST:
        raise ValueError(f"{path}: more than {_MOST} bytes is too much for a credential")
    if b"rlkey" in raw:
        raise ValueError(f"{path}: this is an identity, not a credential")
    try:
        return Secret(raw.decode("ascii").strip())
    except UnicodeDecodeError:  # whose text would quote a byte of it
        raise ValueError(f"{path}: not ASCII, so no header could carry it") from None


def _parsed(kind: AccountKindName, secret: Secret) -> Opened:
    """An OAuth credential may be a JSON of tokens or an access token alone. Raises: ValueError."""
    if ACCOUNT_KINDS[kind].refreshes:
        return Opened(secret, parse_tokens(secret).access)
    return Opened(secret, presentable(secret.reveal()))


def _why(account: Account, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"credential file {account.credential.file}: {os.strerror(error.errno or 0).lower()}"
    return str(error)
