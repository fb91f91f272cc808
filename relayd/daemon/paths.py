"""Paths of a node's own files: the control socket, what lies beside the state, the stored generations.

Rule: one answer for the daemon and for the commands that look for it; nothing is written here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

SOCKET = "relayd.sock"
MAX_PATH = 107  # bytes of a socket's path: 108 with its NUL (unix(7))
SYSTEM = Path("/run/relayd") / SOCKET  # RuntimeDirectory=relayd of the unit
DEFAULT_STATE = "sqlite:var/relayd.db"  # [state].url where the tree names none


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
    first = control_socket(given, url or DEFAULT_STATE, tree, environ)
    return [first] if given else list(dict.fromkeys([first, tree / "var" / SOCKET, SYSTEM]))


def own_directory(environ: Mapping[str, str]) -> str:
    """The directory that systemd made for the service, "" for none. Source: systemd.exec(5), StateDirectory=."""
    return environ.get("STATE_DIRECTORY", "").partition(":")[0]


def state_directory(url: str, base: Path, own: str = "") -> Path:
    """Where this node keeps what is its own: beside the SQLite database, else in `own`, else `var` in the tree.

    Args:
        own: the directory that systemd made for the service ($STATE_DIRECTORY), which may not write to the tree.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest and rest != ":memory:":
        return (base / rest.removeprefix("//")).parent
    return Path(own) if own else base / "var"


def state_password(password_file: str, environ: Mapping[str, str]) -> str:
    """The state store's password: RELAYD_STATE_PASSWORD, else the first line of the file that the tree names.

    Args:
        password_file: `[state].password_file`, "" for none.
    Raises: ValueError when the file cannot be read.
    """
    if "RELAYD_STATE_PASSWORD" in environ or not password_file:
        return environ.get("RELAYD_STATE_PASSWORD", "")
    try:
        return Path(password_file).read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError as error:
        why = (error.strerror or "").lower()
        raise ValueError(f"relay.toml: state.password_file: {password_file}: {why}") from None


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
