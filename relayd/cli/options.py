"""Options that several verbs share, and the one table of environment variables."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

# Node-local settings: (variable, command-line option of `relayd run` or "", what it is). docs/config.md prints this.
ENVIRONMENT = (
    ("RELAYD_CONFIG", "--config", "directory of the config tree; default: the working directory"),
    ("RELAYD_LISTEN", "--listen", "listen addresses instead of [server].listen, separated by commas"),
    ("RELAYD_ADMIN_LISTEN", "--admin-listen", 'admin listener instead of [admin].listen; "off" for none'),
    ("RELAYD_STATE_URL", "--state", "state store instead of [state].url"),
    ("RELAYD_STATE_PASSWORD", "", "password of the state store"),
    (
        "RELAYD_IDENTITY",
        "--identity",
        "identity file that opens sealed secrets, several separated by colons; default: the systemd credential "
        "`identity`, else REALM.identity in $XDG_CONFIG_HOME/relayd (~/.config/relayd), else in /etc/relayd",
    ),
    (
        "RELAYD_CONTROL",
        "--control",
        "control socket; default: relayd.sock in $RUNTIME_DIRECTORY (systemd), else beside the state",
    ),
    ("RELAYD_WATCH", "--no-watch", '"off": reload on SIGHUP and `relayd reload` only, not when the tree changes'),
    ("RELAYD_NODE", "--node", "name of this node; default: the host name"),
)


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config DIR`, else RELAYD_CONFIG, else the working directory."""
    parser.add_argument(
        "--config",
        metavar="DIR",
        type=Path,
        default=Path(os.environ.get("RELAYD_CONFIG", ".")),
        help="directory of the config tree (RELAYD_CONFIG; default: the working directory)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`: the result as one JSON object on stdout."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
