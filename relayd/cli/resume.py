"""relayd resume: end a rollback; the running daemon follows its tree again."""

from __future__ import annotations

import argparse

from relayd.cli.control_client import EPILOG, add_control, carry_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_control(parser)
    parser.epilog = EPILOG


def main(args: argparse.Namespace) -> int:
    return carry_out(args, "resume")
