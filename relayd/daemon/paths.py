"""Paths of a node's own files: the control socket, what lies beside the state, the stored generations.

Rule: one answer for the daemon and for the commands that look for it; nothing is written here. What only the daemon
asks for is imported when it asks: a command that wants to know where the socket is should not wait for cryptography.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relayd.config.snapshot import State

SOCKET = "relayd.sock"
MAX_PATH = 107  # bytes of a socket's path: 108 with its NUL (unix(7))
SYSTEM = Path("/run/relayd") / SOCKET  # RuntimeDirectory=relayd of the unit
SYSTEM_STATE = Path("/var/lib/relayd")  # StateDirectory=relayd of the unit
DEFAULT_STATE = "sqlite:var/relayd.db"  # [state].url where the tree names none


def control_socket(given: str, state_url: str, tree: Path, environ: Mapping[str, str]) -> Path:
    """Where the daemon opens its control socket: the option, else systemd's $RUNTIME_DIRECTORY, else beside the state.

    Source: systemd.exec(5), RuntimeDirectory= (several directories are separated by colons; the first counts).
    """
    if given:
        return Path(given)
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return (Path(runtime) if runtime else state_directory(state_url, tree, own_directory(environ))) / SOCKET


def control_sockets(given: str, tree: Path, environ: Mapping[str, str], state_url: str = "") -> list[Path]:
    """Where a command looks for the daemon, the likeliest place first. relay.toml may be broken.

    Args:
        state_url: the command's own --state. A daemon that was given the same has its socket there; one of this tree
            that was not has it where the tree says.
    """
    if given:
        return [Path(given)]
    urls = [state_url, environ.get("RELAYD_STATE_URL", ""), state_url_of(tree)]
    likely = [control_socket("", url, tree, environ) for url in urls if url]
    return list(dict.fromkeys([*likely, tree / "var" / SOCKET, SYSTEM]))


def state_url_of(tree: Path) -> str:
    """[state].url of a tree, whatever is wrong with the rest of it; the default where it names none."""
    try:
        return text_setting((tree / "relay.toml").read_bytes(), "state", "url") or DEFAULT_STATE
    except OSError:
        return DEFAULT_STATE


def own_directory(environ: Mapping[str, str]) -> str:
    """The directory that systemd made for the service, "" for none. Source: systemd.exec(5), StateDirectory=."""
    return environ.get("STATE_DIRECTORY", "").partition(":")[0]


def state_file(url: str, base: Path) -> Path | None:
    """The file of a SQLite state; None for one in memory, and for another store."""
    scheme, _, rest = url.partition(":")
    return base / rest.removeprefix("//") if scheme == "sqlite" and rest and rest != ":memory:" else None


def state_directory(url: str, base: Path, own: str = "") -> Path:
    """Where this node keeps what is its own: beside the SQLite database, else in `own`, else `var` in the tree.

    Args:
        own: the directory that systemd made for the service ($STATE_DIRECTORY), which may not write to the tree.
    """
    file = state_file(url, base)
    if file is not None:
        return file.parent
    return Path(own) if own else base / "var"


def state_login(node_url: str, state: State, environ: Mapping[str, str]) -> tuple[str, str]:
    """The state store's URL and password.

    Args:
        node_url: this node's own, "" for the tree's.
    Raises: ValueError when the password cannot be read, or would be sent to another machine that only the tree names;
        SealError.
    """
    from relayd.config.rules.credential_ways import is_remote

    url = node_url or state.url
    password = "" if url.startswith("sqlite:") else state_password(state.password_file, environ)
    if password and not node_url and is_remote(url):
        raise ValueError(
            "relay.toml: state.url: the password would be sent to another machine that only the tree names"
            " (set RELAYD_STATE_URL on this node)"
        )
    return url, password


def state_password(password_file: str, environ: Mapping[str, str]) -> str:
    """The state store's password: RELAYD_STATE_PASSWORD, else the first line of RELAYD_STATE_PASSWORD_FILE, else that
    of the file that the tree names, in a directory that this node permits.

    Args:
        password_file: `[state].password_file`, "" for none.
    Raises: ValueError when the file cannot be read; SealError.
    """
    from relayd.config.secrets.secret_files import secret_files

    own = environ.get("RELAYD_STATE_PASSWORD_FILE", "")
    if "RELAYD_STATE_PASSWORD" in environ or not (own or password_file):
        return environ.get("RELAYD_STATE_PASSWORD", "")
    what = "RELAYD_STATE_PASSWORD_FILE" if own else "relay.toml: state.password_file"
    try:
        path = Path(own) if own else secret_files(environ).locate(password_file)
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError as error:
        raise ValueError(f"{what}: {own or password_file}: {(error.strerror or '').lower()}") from None
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def log_file(name: str, environ: Mapping[str, str]) -> Path | None:
    """Where the log is written: `[log].file` in this node's directory of logs; None for standard error.

    Raises: ValueError for a file that lies elsewhere, or leads there.
    """
    from relayd.config.environment import log_directory, why_not_logged

    if not name:
        return None
    if why := why_not_logged(name, environ):
        raise ValueError(f"relay.toml: log.file: {why}")
    directory = log_directory(environ)
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise ValueError(f"relay.toml: log.file: {name}: leads out of {directory}")
    return path


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
