"""Source settings: what a node needs to pull its tree: where from, how often, with which key, whom it trusts.

Rule: all of it is the node's own. Nothing in the tree can say where the next tree comes from, or who may sign it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from relayd.config.model.values import Bad, seconds
from relayd.config.source.source_url import SourceUrl, parse_source
from relayd.noun import noun

INTERVAL = 60.0  # s between fetches; a webhook or `relayd reload` shortens it
SHORTEST = 1.0  # s; a server that is asked more often than that takes it for an attack


@noun(kw_only=True)
class SourceSettings:
    """How a node pulls.

    Args:
        directory: this node's own, for the mirror and what belongs to it.
        interval: s between fetches; None = only when somebody asks.
        key: for ssh the private key, for https a file with `user:token` or a token; None = ssh's usual ones, or none.
        known_hosts: with the keys of the ssh hosts that are trusted; None = ssh's usual ones.
        signers: files of those whose signatures count; () = no signature is asked for.
    """

    at: SourceUrl
    directory: Path
    interval: float | None = INTERVAL
    key: Path | None = None
    known_hosts: Path | None = None
    signers: tuple[Path, ...] = ()

    @property
    def mirror(self) -> Path:
        """The repository of what was fetched: one for each source, so that another one begins anew."""
        name = hashlib.sha256(f"{self.at.url}#{self.at.branch}".encode()).hexdigest()[:12]
        return self.directory / f"{name}.git"


def source_settings(source: str, directory: Path, environ: Mapping[str, str], *, watch: bool) -> SourceSettings | None:
    """What the command line and the environment say; None where no source is named.

    Args:
        source: `--source` or RELAYD_SOURCE; "" for none.
        directory: the node's own.
        watch: whether to fetch without being asked.
    Raises: ValueError, which names the variable.
    """
    if not source:
        return None
    try:
        at = parse_source(source)
    except ValueError as error:
        raise ValueError(f"RELAYD_SOURCE: {error}") from None
    interval = _interval(environ.get("RELAYD_SOURCE_INTERVAL", ""))
    return SourceSettings(
        at=at,
        directory=directory / "source",
        interval=interval if watch else None,
        key=_file("RELAYD_SOURCE_KEY", environ),
        known_hosts=_file("RELAYD_SOURCE_KNOWN_HOSTS", environ),
        signers=_signers(environ.get("RELAYD_ALLOWED_SIGNERS", "")),
    )


def _interval(text: str) -> float | None:
    """Raises: ValueError."""
    if text == "off":
        return None
    try:
        found = float(seconds(text)) if text else INTERVAL
    except Bad as error:
        raise ValueError(f"RELAYD_SOURCE_INTERVAL: {error.message()}") from None
    if found < SHORTEST:
        raise ValueError(f'RELAYD_SOURCE_INTERVAL: {text}: shorter than {SHORTEST:g} s ("off" for never)')
    return found


def _file(variable: str, environ: Mapping[str, str]) -> Path | None:
    name = environ.get(variable, "")
    return _readable(variable, name) if name else None


def _signers(text: str) -> tuple[Path, ...]:
    """Raises: ValueError, also for a setting that names nobody: it must not come to mean that nobody has to sign."""
    found = tuple(_readable("RELAYD_ALLOWED_SIGNERS", part) for part in text.split(":") if part)
    if text and not found:
        raise ValueError("RELAYD_ALLOWED_SIGNERS: no file is named in it")
    return found


def _readable(variable: str, name: str) -> Path:
    """A file that a variable names, and that can be read. Raises: ValueError."""
    path = Path(name).absolute()
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(f"{variable}: {name}: {(error.strerror or 'cannot be read').lower()}") from None
    return path
