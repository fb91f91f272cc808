"""relayd status: what the running daemon runs, and what ails it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from relayd.cli.daemon import NO_DAEMON, NoDaemon, Refused, add_control, ask, place_and_message

WELL, UNWELL = 0, 1
EVERY = 2.0  # s between looks of --watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_control(parser)
    parser.add_argument("--watch", action="store_true", help="look again every 2 s, until Ctrl-C")
    parser.epilog = "exit status: 0 well, 1 unwell, 2 usage, 5 no daemon"


def main(args: argparse.Namespace) -> int:
    while True:
        code = show(args)
        if not args.watch:
            return code
        sys.stdout.flush()
        time.sleep(EVERY)


def show(args: argparse.Namespace) -> int:
    """One look."""
    try:
        status = ask(args, verb="status")["status"]
    except NoDaemon as error:
        print(f"relayd status: {error}", file=sys.stderr)
        return NO_DAEMON
    except Refused as error:
        print(f"relayd status: {error}", file=sys.stderr)
        return UNWELL
    if args.json:
        print(json.dumps(status, indent=None if args.watch else 2))
    else:
        clear = "\x1b[H\x1b[J" if args.watch and sys.stdout.isatty() else ""
        sys.stdout.write(clear + in_words(status))
    return WELL if status["well"] else UNWELL


def in_words(status: dict[str, Any]) -> str:
    """A status document for people."""
    lines = [
        f"relayd {status['version']} on {status['node']}, realm {status['realm']}, up since {status['started']}",
        _running(status["running"]),
        *_candidate(status["candidate"]),
        *[f"! {ailment}" for ailment in status["ailments"]],
        _watch(status["watch"]) + f", {status['generations_live']} generations in use",
        _keys(status["keys"]) + f"; {status['calls']} calls, {status['connections']['open']} connections",
        "accounts:",
        *[_account(row) for row in status["accounts"]],
    ]
    return "\n".join(lines) + "\n"


def _running(running: dict[str, Any]) -> str:
    dirty = "" if running["dirty"] is None else ", dirty" if running["dirty"] else ", clean"
    stored = f", from stored generation {running['stored_generation']}" if running["stored_generation"] else ""
    commit = f"commit {running['commit'][:12]}{dirty}"
    return f"running: generation {running['generation']}, tree {running['digest'][:12]} ({commit}{stored})" + (
        f" since {running['since']} by {running['trigger']}"
    )


def _candidate(candidate: dict[str, Any] | None) -> list[str]:
    if candidate is None:
        return ["candidate: none; the daemon runs what is on disk"]
    tree = candidate["digest"][:12] or "the tree"
    lines = [f"candidate: {tree} is {candidate['result']} since {candidate['since']}"]
    lines += [f"  {reason}" for reason in candidate["reasons"]]
    lines += [f"  {place_and_message(problem)}" for problem in candidate["problems"] if problem["severity"] == "error"]
    return lines


def _watch(watch: dict[str, Any]) -> str:
    last = f", last look {watch['last_look_seconds']:.1f} s ago" if watch["last_look_seconds"] is not None else ""
    failure = f" ({watch['failure']})" if watch["failure"] else ""
    return f"watch: {watch['backend']}{failure}{last}"


def _keys(keys: dict[str, int]) -> str:
    rest = [f"{keys[state]} {state}" for state in ("disabled", "denied", "expired") if keys[state]]
    return f"keys: {keys['active']} active" + (f", {', '.join(rest)}" if rest else "")


def _account(row: dict[str, Any]) -> str:
    return f"  {'+' if row['serves'] else '-'} {row['id']}: {row['reason']}"
