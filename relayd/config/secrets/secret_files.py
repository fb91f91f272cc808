"""Secret files: where a node keeps secrets in files, and what a tree may name of them.

Rule: the tree names, the node permits. A file is read only from the node's own directories, links followed, and never
the identity or the state store's password; what is in it goes only to origins that the node knows. A sealed value is
bound to its origin by whoever sealed it; a file is bound by nothing but this.

Theory: whoever can commit, but has no identity, could otherwise name any file of the node and a host of their own as
`base_url`, and be sent its content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.binding import is_loopback, origin_of
from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import Account, OAuth, Relay, Upstream
from relayd.noun import noun

DIRECTORIES = (Path("/run/relayd"), Path("/etc/relayd/credentials"))
_KNOWN = (origin_of(Upstream().base_url), origin_of(OAuth().token_url))


@noun(kw_only=True)
class SecretFiles:
    """What this node permits.

    Args:
        directories: in which files of secrets lie; the first that has a name counts.
        origins: to which the content of a file may be sent, besides this machine.
        kept: files that are never sent anywhere: identities, the state store's password.
    """

    directories: tuple[Path, ...] = DIRECTORIES
    origins: frozenset[str] = frozenset(_KNOWN)
    kept: tuple[Path, ...] = ()

    def why_not_named(self, name: str) -> str:
        """Why the tree may not name a file, going by the name alone; "" when it may."""
        if not name.startswith("/") or any(Path(name).is_relative_to(one) for one in self.directories):
            return ""
        listed = ", ".join(map(str, self.directories))
        return f"{name}: not in a directory of credentials ({listed}; see RELAYD_CREDENTIALS)"

    def locate(self, name: str) -> Path:
        """The file that a tree means by `name`; where its links lead is looked at. Raises: ValueError."""
        for directory in self.directories:
            path = Path(os.path.normpath(directory / name))
            if not path.is_relative_to(directory) or not os.path.lexists(path):
                continue
            if not path.resolve().is_relative_to(directory.resolve()):
                raise ValueError(f"{path}: leads out of {directory}, so it is not read")
            return path
        listed = ", ".join(map(str, self.directories))
        raise ValueError(
            self.why_not_named(name) or f"{name}: no such file or directory ({listed}; see RELAYD_CREDENTIALS)"
        )

    def locate_credential(self, name: str, password_file: str = "") -> Path:
        """The same, of what is sent to an upstream. `password_file`: the tree's, "" for none. Raises: ValueError."""
        path = self.locate(name)
        passwords = [directory / password_file for directory in self.directories] if password_file else []
        if any(_same_file(path, one) for one in (*self.kept, *passwords)):
            raise ValueError(f"{name}: this file is an identity or the state store's password, not a credential")
        return path

    def why_not_sent(self, account: Account, relay: Relay) -> str:
        """Why the content of a file may not go where an account would send it; "" when it may."""
        targets = {"base_url": account.base_url or relay.upstream.base_url}
        if ACCOUNT_KINDS[account.kind].refreshes:
            targets["[oauth].token_url"] = relay.oauth.token_url
        for key, url in targets.items():
            try:
                origin = origin_of(url, key)
            except SealError as error:
                return str(error)
            if origin not in self.origins and not is_loopback(origin):
                return (
                    f"{key}: a credential in a file may not be sent to {origin} from this node"
                    " (seal it, which binds it to its origin, or list the origin in RELAYD_ORIGINS)"
                )
        return ""


def secret_files(environ: Mapping[str, str], kept: Sequence[Path] = ()) -> SecretFiles:
    """What the environment of a node permits.

    Source: systemd.exec(5), $CREDENTIALS_DIRECTORY.
    Raises: SealError on an origin that is none.
    """
    named = _listed(environ.get("RELAYD_CREDENTIALS", ""), ":")
    by_systemd = _listed(environ.get("CREDENTIALS_DIRECTORY", ""), ":")
    directories = [Path(os.path.abspath(one)) for one in named or by_systemd]
    origins = (origin_of(one, "RELAYD_ORIGINS") for one in _listed(environ.get("RELAYD_ORIGINS", ""), ","))
    password = environ.get("RELAYD_STATE_PASSWORD_FILE", "")
    return SecretFiles(
        directories=(*directories, *(() if named else DIRECTORIES)),
        origins=frozenset((*_KNOWN, *origins)),
        kept=(*kept, *([Path(password)] if password else [])),
    )


def _listed(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
