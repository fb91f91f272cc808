"""Identity files: where a node's private keys lie, and who else could read them.

Rule: a file that somebody else can read, or that lies in the tree, is refused, not warned about: both are leaks that
have already happened. One `rlkey...` a line; empty lines and `#` comments are allowed, so are several keys.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from relayd.config.recipients import SealError
from relayd.config.seal import Identity, parse_identity

CREDENTIAL = "identity"  # the name of the systemd credential: LoadCredential=identity:/etc/relayd/identity
_MAX_SIZE = 65536  # bytes; a line has fewer than 60


def identity_paths(option: str | None, environ: Mapping[str, str]) -> list[Path]:
    """Which files to read: the option, else RELAYD_IDENTITY (separated by colons), else systemd's credential.

    The credential (systemd.exec(5), $CREDENTIALS_DIRECTORY) is used only when it exists.
    """
    named = environ.get("RELAYD_IDENTITY", "") if option is None else option
    if named:
        return [Path(part) for part in named.split(":") if part]
    credential = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / CREDENTIAL
    return [credential] if credential.exists() else []


def load_identities(paths: Sequence[Path], tree: Path, environ: Mapping[str, str]) -> list[Identity]:
    """Read every file. Raises: SealError (E-IDENTITY-...), which names the file and what to do."""
    credentials = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent")
    found: list[Identity] = []
    for path in paths:
        found += read_identities(path, tree, by_systemd=path.parent == credentials)
    return found


def read_identities(path: Path, tree: Path, *, by_systemd: bool = False) -> list[Identity]:
    """The identities of one file.

    Args:
        by_systemd: the file lies in $CREDENTIALS_DIRECTORY, where the owner may be root and the group bits are the
            mask of an ACL that lets in our user alone (seen as `-r--r-----+` since systemd 254).
    """
    refuse_in_tree(path, tree)
    lines = _read(path, by_systemd).split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if (text := line.strip()) and not text.startswith("#"):
            try:
                found.append(parse_identity(text))
            except SealError as error:
                raise SealError(error.code, f"{path}:{number}: {error}") from None
    if not found:
        raise SealError("E-IDENTITY-EMPTY", f"{path}: no identity in it (make one: `relayd secret keygen FILE`)")
    return found


def refuse_in_tree(path: Path, tree: Path) -> None:
    """Raises: SealError (E-IDENTITY-IN-TREE) when `path`, links followed, is inside `tree`."""
    if path.resolve().is_relative_to(tree.resolve()):
        text = f"{path}: an identity must not lie in the config tree, where it would be committed (move it out)"
        raise SealError("E-IDENTITY-IN-TREE", text)


def write_identity(path: Path, tree: Path, identity: Identity) -> None:
    """A new file of mode 0400. Raises: SealError when it would lie in the tree; OSError; it never overwrites."""
    refuse_in_tree(path, tree)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with open(fd, "w", encoding="ascii") as file:
        file.write(f"# public: {identity.public.text}\n{identity.secret.reveal()}\n")
        file.flush()
        os.fsync(fd)


def _read(path: Path, by_systemd: bool) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SealError("E-IDENTITY-FILE", f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    try:
        _check_access(path, os.fstat(fd), by_systemd)
        raw = os.read(fd, _MAX_SIZE + 1)
    finally:
        os.close(fd)
    if len(raw) > _MAX_SIZE or not raw.isascii():
        raise SealError("E-IDENTITY-FORMAT", f"{path}: not an identity file (expected lines of rlkey1...)")
    return raw.decode("ascii")


def _check_access(path: Path, about: os.stat_result, by_systemd: bool) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise SealError("E-IDENTITY-FILE", f"{path}: not a regular file")
    if about.st_uid not in ({os.geteuid(), 0} if by_systemd else {os.geteuid()}):
        text = f"{path}: belongs to user {about.st_uid}, not to us, {os.geteuid()} (chown it)"
        raise SealError("E-IDENTITY-ACCESS", text)
    mode = stat.S_IMODE(about.st_mode)
    if mode & (0o137 if by_systemd else 0o177):
        raise SealError("E-IDENTITY-ACCESS", f"{path}: mode {mode:04o} lets others in (chmod 0400)")
