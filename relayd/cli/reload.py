"""relayd reload: let the running daemon take the tree as it is now, and wait for its verdict."""

from __future__ import annotations

import argparse
import re

from relayd.cli.control_client import EPILOG, add_control, carry_out
from relayd.config.guard import LEAST_DIGITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_control(parser)
    parser.add_argument(
        "--accept",
        metavar="DIGEST",
        type=_digest,
        help="apply the tree of this digest although the guard holds it",
    )
    parser.add_argument(
        "--expect", metavar="DIGEST", default="", help="digest or commit that the tree must have, else do nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and do nothing")
    parser.epilog = EPILOG


def _digest(text: str) -> str:
    """Enough of a tree's digest to say which one is meant."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{LEAST_DIGITS},64}}", text):
        raise argparse.ArgumentTypeError(f"expected at least {LEAST_DIGITS} hex digits of the held tree's digest")
    return text


def main(args: argparse.Namespace) -> int:
    return carry_out(args, "reload", accept=args.accept or "", expect=args.expect, dry_run=args.dry_run)
