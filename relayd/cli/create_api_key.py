"""relayd create-api-key: `key new` with the name as an option, for scripts that came from other relays."""

from __future__ import annotations

import argparse

from relayd.cli.key import add_new_arguments, new
from relayd.cli.options import add_config, add_json
from relayd.cli.tree import guarded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser)
    parser.add_argument("--force", action="store_true", help="write even if the tree does not compile")
    add_new_arguments(parser, name_option=True)


def main(args: argparse.Namespace) -> int:
    return guarded("create-api-key", new, args)
