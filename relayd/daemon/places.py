"""Places: where a node keeps what is its own: the control socket and the stored generations.

Rule: one answer for the daemon and for the commands that look for it; no file is touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SOCKET = "relayd.sock"
SYSTEM = Path("/run/relayd") / SOCKET  # RuntimeDirectory=relayd of the unit


def control_socket(given: str, tree: Path, environ: Mapping[str, str]) -> Path:
    """Where the daemon opens its control socket: the option, else systemd's $RUNTIME_DIRECTORY, else var/ of the tree.

    Source: systemd.exec(5), RuntimeDirectory= (several directories are separated by colons; the first counts).
    """
    if given:
        return Path(given)
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(runtime) / SOCKET if runtime else tree / "var" / SOCKET


def control_sockets(given: str, tree: Path, environ: Mapping[str, str]) -> list[Path]:
    """Where a command looks for the daemon, the likeliest place first."""
    first = control_socket(given, tree, environ)
    return [first] if given else list(dict.fromkeys([first, tree / "var" / SOCKET, SYSTEM]))


def generation_store(state_url: str, tree: Path, environ: Mapping[str, str]) -> Path:
    """The directory of stored generations: beside the SQLite file, else in $STATE_DIRECTORY, else in var/ of the tree.

    Source: systemd.exec(5), StateDirectory=.
    """
    scheme, _, path = state_url.partition(":")
    if scheme == "sqlite" and path and path != ":memory:":
        return (tree / path.removeprefix("//")).parent / "generations"
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return (Path(state) if state else tree / "var") / "generations"
