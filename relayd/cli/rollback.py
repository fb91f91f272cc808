"""relayd rollback: let the running daemon go back to a stored generation and stay there until `relayd resume`."""

from __future__ import annotations

import argparse

from relayd.cli.daemon import EPILOG, add_control, carry_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "generation", metavar="N", nargs="?", type=int, help="number of the stored generation; default: the one before"
    )
    add_control(parser)
    parser.add_argument("--allow-unrevoke", action="store_true", help="even if revoked keys are let in again by it")
    parser.epilog = EPILOG


def main(args: argparse.Namespace) -> int:
    return carry_out(args, "rollback", generation=args.generation, allow_unrevoke=args.allow_unrevoke)
