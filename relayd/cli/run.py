"""relayd run: the daemon in the foreground."""

from __future__ import annotations

import argparse
import os
import socket

from relayd.cli.options import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="listen here instead of [server].listen; may be given several times (RELAYD_LISTEN, comma-separated)",
    )
    parser.add_argument(
        "--state",
        metavar="URL",
        default=os.environ.get("RELAYD_STATE_URL", ""),
        help="state store instead of [state].url (RELAYD_STATE_URL)",
    )
    parser.add_argument(
        "--identity", metavar="FILE", default=None, help="identity that opens sealed secrets (RELAYD_IDENTITY)"
    )
    parser.add_argument(
        "--node",
        metavar="NAME",
        default=os.environ.get("RELAYD_NODE") or socket.gethostname(),
        help="name of this node (RELAYD_NODE; default: the host name)",
    )


def main(args: argparse.Namespace) -> int:
    from relayd.daemon.run import NodeSettings, run

    return run(
        NodeSettings(
            tree=args.config,
            listen=tuple(args.listen or _from_environment("RELAYD_LISTEN", ",")),
            state_url=args.state,
            identity=args.identity,
            node=args.node,
        )
    )


def _from_environment(name: str, separator: str) -> list[str]:
    return [part.strip() for part in os.environ.get(name, "").split(separator) if part.strip()]
