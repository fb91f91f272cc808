"""relayd reload: let the running daemon take the tree as it is now, and wait for its verdict."""

from __future__ import annotations

import argparse

from relayd.cli.daemon import EPILOG, add_control, carry_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_control(parser)
    parser.add_argument(
        "--accept", metavar="DIGEST", default="", help="apply the tree of this digest although the guard holds it"
    )
    parser.add_argument(
        "--expect", metavar="DIGEST", default="", help="digest or commit that the tree must have, else do nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and do nothing")
    parser.epilog = EPILOG


def main(args: argparse.Namespace) -> int:
    return carry_out(args, "reload", accept=args.accept, expect=args.expect, dry_run=args.dry_run)
