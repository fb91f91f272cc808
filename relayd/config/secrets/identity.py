"""Identity files: where a node's private keys are, and who else could read them.

Rule: a file that somebody else can read, or that lies in the tree, is refused, not warned about: both are leaks that
have already happened. One `rlkey...` a line; empty lines and `#` comments are allowed, so are several keys.

Theory: a node is told where its identity is, or it has it where `relayd init` put it: in the user's config directory
or in /etc/relayd, under the name of the realm. `REALM.identity` and `REALM.*.identity` count, so that an identity can
be added without renaming the one that is there; a realm has no dot, so no file belongs to two of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from relayd.config.atomic import create_file
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity, parse_identity
from relayd.config.snapshot import NAME

CREDENTIAL = "identity"  # the name of the systemd credential: LoadCredential=identity:/etc/relayd/identity
SYSTEM = Path("/etc/relayd")
_MAX_SIZE = 65536  # bytes; a line has fewer than 60


def identity_paths(option: str | None, environ: Mapping[str, str], realm: str) -> list[Path]:
    """Which files to read: the option, else RELAYD_IDENTITY, else systemd's credential, else the usual places.

    The first two are separated by colons; an empty option means none. The credential (systemd.exec(5),
    $CREDENTIALS_DIRECTORY) is used when it exists.
    """
    if option is not None:
        return [Path(part) for part in option.split(":") if part]
    if named := environ.get("RELAYD_IDENTITY", ""):
        return [Path(part) for part in named.split(":") if part]
    credential = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / CREDENTIAL
    return [credential] if credential.exists() else usual_identities(realm, environ)


def usual_identities(realm: str, environ: Mapping[str, str]) -> list[Path]:
    """The files of a realm in the first of the usual places that has any; those that we may not read are skipped."""
    if not re.fullmatch(NAME, realm):
        return []
    for place in _places(environ):
        with contextlib.suppress(OSError):
            found = [path for path in place.iterdir() if _is_of(realm, path.name) and os.access(path, os.R_OK)]
            if found:
                return sorted(found, key=lambda path: (len(path.name), path.name))
    return []


def usual_identity(realm: str, tree: Path, environ: Mapping[str, str]) -> Path:
    """Where a new identity is put: the user's config directory; for root /etc/relayd, where a service has made that a
    node's directory, unless the tree is there.

    Source: XDG Base Directory Specification 0.8, $XDG_CONFIG_HOME, which is obeyed for root too.
    """
    places = _places(environ)
    if os.geteuid() == 0 and SYSTEM.is_dir() and not environ.get("XDG_CONFIG_HOME", "").startswith("/"):
        places.reverse()
    outside = [place for place in places if not place.resolve().is_relative_to(tree.resolve())]
    return (outside or places)[0] / f"{realm}.identity"


def _places(environ: Mapping[str, str]) -> list[Path]:
    """Where identities may lie, the likeliest first. A relative $XDG_CONFIG_HOME is to be ignored, says its source."""
    own, home = environ.get("XDG_CONFIG_HOME", ""), environ.get("HOME", "")
    user = own if own.startswith("/") else f"{home}/.config" if home.startswith("/") else ""
    return [Path(user) / "relayd", SYSTEM] if user else [SYSTEM]


def _is_of(realm: str, name: str) -> bool:
    return name.endswith(".identity") and name.partition(".")[0] == realm


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
    """A new file of mode 0400, its directory made if need be. Raises: SealError when it would lie in the tree; OSError.

    It never overwrites.
    """
    refuse_in_tree(path, tree)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if path.parent == SYSTEM else 0o700)
    text = f"# public: {identity.public.text}\n{identity.secret.reveal()}\n"
    create_file(path, text.encode("ascii"), mode=0o400)  # none if it fails: half an identity opens nothing


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
