"""Client of the control socket: how `reload`, `rollback`, `resume`, `status` and other verbs ask the running daemon.

Rule: plain sockets and JSON; the answer's meaning for scripts is the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from relayd.cli import add_config
from relayd.cli.output import add_json, print_json, say
from relayd.config.problems.problem import printable
from relayd.daemon.paths import MAX_PATH, control_sockets

OK, REJECTED, HELD, BUSY, NO_DAEMON = 0, 1, 3, 4, 5
EXITS = {"applied": OK, "unchanged": OK, "rejected": REJECTED, "held": HELD, "busy": BUSY}
EPILOG = "exit status: 0 applied or unchanged, 1 rejected, 2 usage, 3 held, 4 busy, 5 no daemon"

# A round waits up to 10 s for a tree to hold still, and may have to wait for the one before it.
PATIENCE = 60.0  # s


class NoDaemon(Exception):
    """Nobody answers. The text says where we looked."""


class DaemonSilent(NoDaemon):
    """Somebody is there, but does not answer, or not us."""


class NotForUs(DaemonSilent):
    """A daemon may well be there, but its socket is not for us."""


class DaemonRefused(Exception):
    """The daemon does not understand, or will not talk to us."""


def add_control(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--control` and `--json`."""
    add_config(parser)
    add_control_path(parser)
    add_json(parser)


def add_control_path(parser: argparse.ArgumentParser) -> None:
    """`--control`."""
    parser.add_argument(
        "--control",
        metavar="PATH",
        default=os.environ.get("RELAYD_CONTROL", ""),
        help="the daemon's control socket (RELAYD_CONTROL; default: where the daemon of this tree puts it)",
    )


def ask(args: argparse.Namespace, *, patience: float = PATIENCE, **request: Any) -> dict[str, Any]:
    """The daemon's answer to one request, within `patience` s. Raises: NoDaemon, DaemonRefused."""
    paths = control_sockets(args.control, args.config, os.environ, getattr(args, "state", None) or "")
    path, sock = _connected(paths, patience, _what_to_do(args))
    with sock:
        line = _exchanged(sock, path, json.dumps(request).encode() + b"\n", patience)
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise NoDaemon(f"{path}: what answers there is not relayd") from None
    if not answer.get("ok"):
        raise DaemonRefused(str(answer.get("error")))
    return answer


def _exchanged(sock: socket.socket, path: Path, line: bytes, patience: float) -> bytes:
    try:
        try:
            sock.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why before it hung up
        answer = sock.makefile("rb").readline()
    except TimeoutError:
        silent = f"has not answered for {patience:.0f} s (is it stopped or overloaded?)"
        raise DaemonSilent(f"{path}: a daemon listens there, but {silent}") from None
    except ConnectionResetError:  # it hung up with our request unread
        answer = b""
    except OSError as error:
        raise DaemonSilent(
            f"{path}: the connection to the daemon broke: {(error.strerror or str(error)).lower()}"
        ) from None
    if not answer:
        raise DaemonSilent(f"{path}: the daemon hung up without an answer (it may just have ended)")
    return answer


def _what_to_do(args: argparse.Namespace) -> str:
    """Where nobody answers: most often the directory is the wrong one."""
    if args.control or os.path.lexists(args.config / "relay.toml"):
        return "relayd run, or --control PATH"
    return f"{args.config.absolute()} is not a config tree: --config DIR"


def _connected(paths: list[Path], patience: float, otherwise: str) -> tuple[Path, socket.socket]:
    tried = []
    for path in paths:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if len(os.fsencode(path)) > MAX_PATH:
                raise OSError(f"a socket's path has at most {MAX_PATH} bytes")
            sock.settimeout(patience)
            sock.connect(str(path))
        except PermissionError:
            sock.close()
            raise NotForUs(f"{path}: permission denied (the daemon answers root and its own user: try sudo)") from None
        except OSError as error:
            sock.close()
            tried.append(f"{path}: {(error.strerror or str(error)).lower()}")
        else:
            return path, sock
    raise NoDaemon(f"no daemon answers ({'; '.join(tried)}) [{otherwise}]")


def refused(args: argparse.Namespace, error: NoDaemon | DaemonRefused) -> int:
    """Say why there is no answer, and give the exit code."""
    say(f"relayd {args.verb}: {error}")
    return NO_DAEMON if isinstance(error, NoDaemon) else REJECTED


def carry_out(args: argparse.Namespace, **request: Any) -> int:
    """Ask for the verb, which is a reload of some kind, print the result, and give the exit code."""
    try:
        result = ask(args, verb=args.verb, **request)["result"]
    except (NoDaemon, DaemonRefused) as error:
        return refused(args, error)
    if args.json:
        print_json({name: value for name, value in result.items() if name not in ("changes_text", "brief")})
    else:
        sys.stdout.write(in_words(result))
    return EXITS[result["result"]]


def in_words(result: dict[str, Any]) -> str:
    """A result for people. A refusal ends with its reason, and does not show a plan that is not carried out."""
    lines = [place_and_message(problem) for problem in result["problems"] if problem["severity"] != "note"]
    reasons = [f"  {reason}" for reason in result["reasons"]]
    if result["result"] == "rejected" and not result["dry_run"]:
        return "\n".join([*lines, _verdict(result), *reasons]) + "\n"
    lines += reasons
    if result["changes_text"]:
        lines.append(result["changes_text"].rstrip("\n"))
    lines.append(_verdict(result))
    lines += [f"needs a restart: {setting}" for setting in result["restart_required"]]
    if result["accept"]:
        lines.append(f"to apply it all the same: relayd reload --accept {result['accept'][:12]}")
    return "\n".join(lines) + "\n"


def place_and_message(problem: dict[str, Any]) -> str:
    """A problem on one line, as `check` writes it."""
    place = (printable(problem["file"]) or "tree") + (
        f":{problem['line']}:{problem['column']}" if problem["line"] else ""
    )
    hint = f" ({problem['hint']})" if problem["hint"] else ""
    return f"{place}: {problem['severity']}[{problem['code']}]: {problem['message']}{hint}"


def tree_in_words(one: dict[str, Any]) -> str:
    """`tree 3f9c2e1a77b0 (commit 8ad01b7c2f11, dirty: 2 files)`, as far as it is known."""
    known = [f"commit {one['commit'][:12]}"] if one["commit"] not in ("", "unknown") else []
    if one["dirty"]:
        known.append(f"dirty: {one['dirty'][0]}" if len(one["dirty"]) == 1 else f"dirty: {len(one['dirty'])} files")
    elif one["dirty"] is not None:
        known.append("clean")
    return f"tree {one['digest'][:12]}" + (f" ({', '.join(known)})" if known else "")


def _verdict(result: dict[str, Any]) -> str:
    """The result, of which tree, and what runs now."""
    word = f"would be {result['result']}" if result["dry_run"] else result["result"]
    tree = tree_in_words(result) if result["digest"] else ""
    if result["result"] in ("applied", "unchanged"):
        return f"{word}: generation {result['generation']}" + (f", {tree}" if tree else "")
    runs = f"generation {result['generation']} goes on running"
    return f"{word}: {tree}; {runs}" if tree else f"{word}: {runs}"
