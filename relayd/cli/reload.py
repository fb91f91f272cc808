"""relayd reload, rollback and resume: what the running daemon is to run.

`reload` lets it take the tree as it is now, and waits for its verdict; `rollback` lets it go back to a stored
generation and stay there, until `resume` lets it follow its tree again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from relayd.cli.control_client import (
    EPILOG,
    OK,
    DaemonRefused,
    NoDaemon,
    add_control,
    ask,
    carry_out,
    refused,
    tree_in_words,
)
from relayd.cli.output import print_json
from relayd.config.guard import LEAST_DIGITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_control(parser)
    parser.add_argument(
        "--accept",
        metavar="DIGEST",
        type=_digest,
        help="apply the tree with this digest although the guard holds it",
    )
    parser.add_argument(
        "--expect",
        metavar="DIGEST",
        default="",
        help="digest or commit that the tree must have; otherwise nothing is done",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and do nothing")


def add_rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "generation", metavar="N", nargs="?", type=int, help="number of the stored generation (default: the one before)"
    )
    parser.add_argument("--list", action="store_true", help="list what is stored, and do nothing else")
    _add_control(parser)
    parser.add_argument(
        "--allow-unrevoke",
        action="store_true",
        help="go back even if keys that were revoked since would be accepted again",
    )


def add_resume_arguments(parser: argparse.ArgumentParser) -> None:
    _add_control(parser)


def main(args: argparse.Namespace) -> int:
    match args.verb:
        case "resume":
            return carry_out(args)
        case "rollback" if args.list:
            return show_stored(args)
        case "rollback":
            return carry_out(args, generation=args.generation, allow_unrevoke=args.allow_unrevoke)
    return carry_out(args, accept=args.accept or "", expect=args.expect, dry_run=args.dry_run)


def show_stored(args: argparse.Namespace) -> int:
    """What one could go back to."""
    try:
        stored = ask(args, verb="generations")["generations"]
    except (NoDaemon, DaemonRefused) as error:
        return refused(args, error)
    if args.json:
        print_json(stored)
    else:
        print("\n".join(_rows(stored)))
    return OK


def _add_control(parser: argparse.ArgumentParser) -> None:
    add_control(parser)
    parser.epilog = EPILOG


def _digest(text: str) -> str:
    """Enough of a tree's digest to say which one is meant."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{LEAST_DIGITS},64}}", text):
        raise argparse.ArgumentTypeError(f"expected at least {LEAST_DIGITS} hex digits of the held tree's digest")
    return text


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
