"""relayd rollback: let the running daemon go back to a stored generation and stay there until `relayd resume`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from relayd.cli.control_client import (
    EPILOG,
    NO_DAEMON,
    OK,
    REJECTED,
    DaemonRefused,
    NoDaemon,
    add_control,
    ask,
    carry_out,
    tree_in_words,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "generation", metavar="N", nargs="?", type=int, help="number of the stored generation; default: the one before"
    )
    parser.add_argument("--list", action="store_true", help="say what is stored, and do nothing")
    add_control(parser)
    parser.add_argument("--allow-unrevoke", action="store_true", help="even if revoked keys are let in again by it")
    parser.epilog = EPILOG


def main(args: argparse.Namespace) -> int:
    if args.list:
        return show_stored(args)
    return carry_out(args, "rollback", generation=args.generation, allow_unrevoke=args.allow_unrevoke)


def show_stored(args: argparse.Namespace) -> int:
    """What one could go back to."""
    try:
        stored = ask(args, verb="generations")["generations"]
    except (NoDaemon, DaemonRefused) as error:
        print(f"relayd rollback: {error}", file=sys.stderr)
        return NO_DAEMON if isinstance(error, NoDaemon) else REJECTED
    sys.stdout.write(json.dumps(stored, indent=2) + "\n" if args.json else "".join(f"{row}\n" for row in _rows(stored)))
    return OK


def _rows(stored: list[dict[str, Any]]) -> Iterator[str]:
    if not stored:
        yield "no generation is stored yet (a config is kept once it has run for 30 s)"
        return
    width = max(len(str(one["number"])) for one in stored)
    for one in stored:
        yield f"{one['number']:>{width}}  {_row(one)}"
    back = next((one["number"] for one in stored if one.get("next")), None)
    if back is None:
        yield "there is nothing to go back to: no other usable generation is stored"
    else:
        yield f"`relayd rollback` goes to {back}, `relayd rollback N` to another"


def _row(one: dict[str, Any]) -> str:
    if one["problem"]:
        return f"unusable: {one['problem']}"
    marks = ["held"] if one["held"] else []
    marks += ["runs now"] if one["runs"] else []
    tail = f"  <- {', '.join(marks)}" if marks else ""
    return f"stored {one['stored']}, loaded by {one['trigger']}, {tree_in_words(one)}{tail}"
