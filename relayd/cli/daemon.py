"""Asking the running daemon: what `reload`, `rollback`, `resume` and `status` have in common. No verb of its own.

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

from relayd.cli.options import add_config, add_json
from relayd.daemon.places import control_sockets

OK, REJECTED, HELD, BUSY, NO_DAEMON = 0, 1, 3, 4, 5
EXITS = {"applied": OK, "unchanged": OK, "rejected": REJECTED, "held": HELD, "busy": BUSY}
EPILOG = "exit status: 0 applied or unchanged, 1 rejected, 2 usage, 3 held, 4 busy, 5 no daemon"

# A round waits up to 10 s for a tree to hold still, and may have to wait for the one before it.
PATIENCE = 60.0  # s


class NoDaemon(Exception):
    """Nobody answers. The text says where was looked."""


class Refused(Exception):
    """The daemon does not understand, or will not talk to us."""


def add_control(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--control` and `--json`."""
    add_config(parser)
    parser.add_argument(
        "--control",
        metavar="PATH",
        default=os.environ.get("RELAYD_CONTROL", ""),
        help="the daemon's control socket (RELAYD_CONTROL; default: where the daemon of this tree has it)",
    )
    add_json(parser)


def ask(args: argparse.Namespace, **request: Any) -> dict[str, Any]:
    """The daemon's answer to one request. Raises: NoDaemon, Refused."""
    with _connected(control_sockets(args.control, args.config, os.environ)) as sock:
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            line = sock.makefile("rb").readline()
        except OSError as error:
            raise NoDaemon(f"the daemon broke off: {error}") from None
    if not line:
        raise Refused("the daemon will not talk to us (it answers its own user and root)")
    answer: dict[str, Any] = json.loads(line)
    if not answer.get("ok"):
        raise Refused(str(answer.get("error")))
    return answer


def _connected(places: list[Path]) -> socket.socket:
    tried = []
    for place in places:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(PATIENCE)
            sock.connect(str(place))
        except OSError as error:
            sock.close()
            tried.append(f"{place}: {(error.strerror or str(error)).lower()}")
        else:
            return sock
    raise NoDaemon(f"no daemon answers ({'; '.join(tried)}) [relayd run, or --control PATH]")


def carry_out(args: argparse.Namespace, verb: str, **request: Any) -> int:
    """Ask for a reload of some kind, tell what came of it, and give the exit code."""
    try:
        result = ask(args, verb=verb, **request)["result"]
    except NoDaemon as error:
        print(f"relayd {args.verb}: {error}", file=sys.stderr)
        return NO_DAEMON
    except Refused as error:
        print(f"relayd {args.verb}: {error}", file=sys.stderr)
        return REJECTED
    if args.json:
        print(json.dumps({name: value for name, value in result.items() if name != "changes_text"}, indent=2))
    else:
        sys.stdout.write(in_words(result))
    return EXITS[result["result"]]


def in_words(result: dict[str, Any]) -> str:
    """A result for people."""
    lines = [place_and_message(problem) for problem in result["problems"] if problem["severity"] != "note"]
    lines += [f"  {reason}" for reason in result["reasons"]]
    if result["changes_text"]:
        lines.append(result["changes_text"].rstrip("\n"))
    lines.append(_verdict(result))
    lines += [f"needs a restart: {setting}" for setting in result["restart_required"]]
    if result["result"] == "held" and result["digest"] and result["changes_text"]:
        lines.append(f"to apply it all the same: relayd reload --accept {result['digest'][:12]}")
    return "\n".join(lines) + "\n"


def place_and_message(problem: dict[str, Any]) -> str:
    """A problem on one line, as `check` writes it."""
    place = f"{problem['file'] or 'tree'}" + (f":{problem['line']}:{problem['column']}" if problem["line"] else "")
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
    word = f"would be {result['result']}" if result["dry_run"] else result["result"]
    tree = f", tree {result['digest'][:12]}" if result["digest"] else ""
    commit = f" (commit {result['commit'][:12]})" if result["commit"] not in ("", "unknown") else ""
    return f"{word}: generation {result['generation']}{tree}{commit}"
