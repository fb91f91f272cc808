"""Places: where a node keeps what is its own: the control socket and the stored generations.

Rule: one answer for the daemon and for the commands that look for it; no file is touched here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from relayd.daemon.store.state_client import state_directory

SOCKET = "relayd.sock"
MAX_PATH = 107  # bytes of a socket's path: 108 with its NUL (unix(7))
SYSTEM = Path("/run/relayd") / SOCKET  # RuntimeDirectory=relayd of the unit


def control_socket(given: str, state_url: str, tree: Path, environ: Mapping[str, str]) -> Path:
    """Where the daemon opens its control socket: the option, else systemd's $RUNTIME_DIRECTORY, else beside the state.

    Source: systemd.exec(5), RuntimeDirectory= (several directories are separated by colons; the first counts).
    """
    if given:
        return Path(given)
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return (Path(runtime) if runtime else state_directory(state_url, tree, own_directory(environ))) / SOCKET


def control_sockets(given: str, tree: Path, environ: Mapping[str, str]) -> list[Path]:
    """Where a command looks for the daemon, the likeliest place first. relay.toml may be broken."""
    url = environ.get("RELAYD_STATE_URL", "")
    if not url:
        try:
            url = text_setting((tree / "relay.toml").read_bytes(), "state", "url")
        except OSError:
            url = ""
    first = control_socket(given, url or "sqlite:var/relayd.db", tree, environ)
    return [first] if given else list(dict.fromkeys([first, tree / "var" / SOCKET, SYSTEM]))


def own_directory(environ: Mapping[str, str]) -> str:
    """The directory that systemd made for the service, "" for none. Source: systemd.exec(5), StateDirectory=."""
    return environ.get("STATE_DIRECTORY", "").partition(":")[0]


def generation_store(state_url: str, tree: Path, own: str = "") -> Path:
    """The directory of stored generations: beside the state."""
    return state_directory(state_url, tree, own) / "generations"


def text_setting(relay_toml: bytes, *path: str) -> str:
    """A text in relay.toml, whatever is wrong with the rest of the tree; "" when it cannot be had."""
    try:
        value: object = tomllib.loads(relay_toml.decode("utf-8"))
    except ValueError:
        return ""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
